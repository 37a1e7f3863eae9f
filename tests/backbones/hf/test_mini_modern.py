"""The mini model of a modern class: pictures of several sizes, three axes, exact packed rows."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

import hadpo
import hadpo.mini
from hadpo import adapter, batch
from hadpo.adapter import lora
from hadpo.generation import Decoding, generate
from hadpo.mini.captions import DESCRIPTION_QUESTIONS, presence_question
from hadpo.mini.draw import draw
from hadpo.mini.world import CATEGORIES, scenes
from hadpo.records import Pair, Question
from hadpo.vlm import checkpoint
from hadpo.vlm.prompt import IMAGE

FOLDER = Path(hadpo.mini.__file__).parent / "weights" / "qwen3-vl"
SIZES = {(96, 96): (3, 3), (128, 96): (3, 4), (96, 128): (4, 3), (192, 64): (2, 6)}  # rows, columns
SCENES = list(islice(scenes(5, held_out=True), 12))


@pytest.fixture(scope="module")
def model():
    """In float64."""
    backbone = hadpo.load("mini/hf").backbone
    backbone.to(torch.float64)
    return backbone


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """One scene in every size: (width, height) -> path."""
    folder = tmp_path_factory.mktemp("sizes")
    found = {}
    for size in SIZES:
        found[size] = str(folder / f"{size[0]}x{size[1]}.png")
        draw(SCENES[0]).resize(size).save(found[size])
    return found


def examples(model, images):
    pairs = [
        Pair(
            pair_id=str(number),
            kind="pope",
            image_id=str(number),
            image=image,
            instruction="Is there a cup in the image?",
            chosen="Yes.",
            rejected="The top left shows a red cup.",
            source="test",
        )
        for number, image in enumerate(images.values())
    ]
    return [batch.tokenize(model, pair, max_length=512) for pair in pairs]


def test_what_is_shipped_is_small_and_in_half_precision():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 5_000_000
    weights = dict(checkpoint.read_tensors(FOLDER / "model.safetensors"))
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in weights.values())
    record = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    assert {"seed", "tower", "lessons", "clean", "faulty"} <= record.keys()
    assert "--backbone qwen3-vl" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_each_size_has_its_own_image_tokens_and_positions(model, images):
    """Through the code of a run: tokenize, pack, read; answers go on from the largest position."""
    made = examples(model, images)
    layout = batch.pack(made)
    inputs = batch.embed(model, layout, batch.read_pixels(model, layout.images))
    before = made[0].prefix.index(IMAGE)
    for row, (example, (height, width)) in enumerate(zip(made, SIZES.values(), strict=True)):
        assert example.prefix.count(IMAGE) == height * width
        at = torch.arange(height * width)
        expected = torch.stack([0 * at, at // width, at % width]) + before
        found = inputs.positions[:, row]
        assert torch.equal(found[:, before : before + height * width], expected)
        behind = len(example.prefix) - before - height * width
        start = before + max(height, width)  # where the words behind the picture begin
        end = len(example.prefix)
        steps = torch.arange(start, start + behind)
        assert torch.equal(found[:, end - behind : end], steps.expand(3, -1))
        for span in layout.spans:
            if span.row == row and span.first < 0:
                steps = torch.arange(span.end - span.start) + start + behind
                assert torch.equal(found[:, span.start : span.end], steps.expand(3, -1))


def test_packed_rows_equal_two_rows(model, images):
    made = examples(model, images)

    def table(**how):
        layout = batch.pack(made, **how)
        pixels = batch.read_pixels(model, layout.images)
        return batch.token_table(model, layout, batch.embed(model, layout, pixels))

    with torch.no_grad():
        packed = table()
        for side, name in enumerate(("chosen", "rejected")):
            alone = table(sides=(name,))[0]
            assert (packed[side, :, : alone.shape[1]] - alone).abs().max() <= 1e-12


def test_greedy_answers_are_those_of_generate(model, images):
    texts = (DESCRIPTION_QUESTIONS[0], presence_question("cup"), presence_question("umbrella"))
    asked = [
        Question(
            question_id=f"{number}-{k}",
            benchmark="b",
            split="s",
            image_id=str(number),
            image=image,
            text=text,
        )
        for number, image in enumerate(images.values())
        for k, text in enumerate(texts)
    ]
    decoding = Decoding(name="greedy", max_new_tokens=40)
    said = {a.question_id: a.text for a in generate(model, asked, decoding, model="m")}
    for question in asked:
        row = model.chat.process(model.chat.text(question.text), Image.open(question.image))
        row["pixel_values"] = row["pixel_values"].double()
        ids = model.language_model.generate(**row, max_new_tokens=40, do_sample=False)
        model.language_model.model.rope_deltas = None
        own = model.decode(ids[0, row["input_ids"].shape[1] :].tolist())
        assert said[question.question_id] == own


@pytest.mark.parametrize("size", list(SIZES)[:3])
def test_it_sees_at_every_size_that_it_was_taught(model, size):
    """A category that is there, and one that is not: the base answers as the picture says."""
    hits = []
    for scene in SCENES:
        absent = [name for name in CATEGORIES if name not in scene.categories]
        for name, expected in ((scene.categories[0], "Yes"), (absent[-1], "No")):
            image, text = draw(scene).resize(size), presence_question(name)
            ids = model.prefix(text, image, prompt="evaluate")
            logits, _ = model.read_alone(ids, text, [model.preprocess(image)])
            hits.append(model.decode([int(logits.argmax())]) == expected)
    assert sum(hits) >= 0.75 * len(hits)


def test_an_adapter_touches_the_text_model_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    every = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    layers = lora.linear(model)
    assert len(layers) == 7 * 3 and all(".language_model.layers." in name for name in layers)
    adapter.attach(model, rank=2, alpha=4, targets=every)
    try:
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        assert len(names) == 7 * 3 * 2  # targets, layers, A and B
        for value in adapter.state(model).values():
            value.copy_(torch.randn(value.shape) * 0.1)
        adapter.merge(model)
        after = model.state_dict()
        changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
        assert len(changed) == 7 * 3
        assert all(".language_model.layers." in name for name in [*names, *changed])
    finally:
        model.load_state_dict(before)
