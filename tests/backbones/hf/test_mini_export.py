"""Mini LLaVA, written for transformers and read through `hf`, is the same model."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

import hadpo
from hadpo import adapter, backbones, batch, benchmarks, config, mini, plugins
from hadpo.data import Report, Sources, shr
from hadpo.generation import Decoding, generate
from hadpo.records import Pair, Question
from hadpo.vlm import checkpoint

SIZES = ((96, 96), (160, 60), (50, 140))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The family's own model and the exported one, and pictures of three shapes."""
    folder = tmp_path_factory.mktemp("export")
    own = hadpo.load("mini/llava").backbone
    assert own.save_transformers(folder / "model", dtype=torch.float32)
    images = []
    for number, size in enumerate(SIZES):
        image = Image.effect_noise(size, 80).convert("RGB")
        image.save(folder / f"{number}.png")
        images.append(str(folder / f"{number}.png"))
    hub = backbones.load(
        "hf/auto", {"language_model": folder / "model"}, dtype="float32", device="cpu"
    )
    return own, hub, images


def pairs(images):
    return [
        Pair(
            pair_id=str(number),
            kind="pope",
            image_id=str(number),
            image=image,
            instruction="Is there a red cup in the image?",
            chosen="Yes, there is a red cup at the top left.",
            rejected="No, there is no red cup in the image.",
            source="test",
        )
        for number, image in enumerate(images)
    ]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_log_probabilities_are_equal(both, dtype, limit):
    *models, images = both
    found = []
    for model in models:
        model.to(dtype)
        packed = batch.pack([batch.tokenize(model, p, max_length=512) for p in pairs(images)])
        pixels = batch.read_pixels(model, packed.images)
        with torch.no_grad():
            found.append(batch.token_table(model, packed, batch.embed(model, packed, pixels)))
        model.to(torch.float32)
    assert found[0].shape == found[1].shape
    assert (found[0] - found[1]).abs().max() <= limit


def test_greedy_answers_are_equal(both):
    *models, images = both
    asked = [
        Question(
            question_id=f"{i}-{k}",
            benchmark="b",
            split="s",
            image_id=str(i),
            image=image,
            text=text,
        )
        for i, image in enumerate(images)
        for k, text in enumerate(("Describe this image in detail.", "Is there a dog in the image?"))
    ]
    decoding = Decoding(name="greedy", max_new_tokens=40)
    own, hub = ([a.text for a in generate(m, asked, decoding, model="m")] for m in models)
    assert own == hub and all(own)


def test_many_targets_stay_in_the_text_model(both):
    """Of 20 names and more, peft makes shorter ones, which layers of the tower have, too."""
    _, hub, _ = both
    adapter.attach(
        hub, rank=2, alpha=4, targets="q_proj,k_proj,v_proj,o_proj,up_proj,gate_proj,down_proj"
    )
    try:
        names = [name for name in adapter.state(hub) if ".lora_A." in name]
        assert len(names) >= 20
        assert all(".language_model.layers." in name for name in names)
    finally:
        adapter.detach(hub)


def test_the_shipped_folder_is_what_mini_llava_exports(both, tmp_path):
    """Recipe mini/hf-llava reads it; whoever trains mini LLaVA anew writes it anew."""
    own, _, _ = both
    own.save_transformers(tmp_path, dtype=torch.float16)
    (place,) = config.load_recipe("mini/hf-llava").model.files.values()
    shipped = config.resolve_path(place)
    assert {p.name for p in shipped.iterdir()} == {p.name for p in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        if path.suffix != ".safetensors":
            assert (shipped / path.name).read_bytes() == path.read_bytes(), path.name
    expected = dict(checkpoint.read_tensors(tmp_path / "model.safetensors"))
    found = dict(checkpoint.read_tensors(shipped / "model.safetensors"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world of six pictures, and both recipes' models."""
    folder = tmp_path_factory.mktemp("world")
    mini.build(folder, seed=5, train_images=4, test_images=6)
    return folder, [hadpo.load(name) for name in ("mini/llava", "mini/hf-llava")]


@pytest.mark.parametrize("benchmark", ["pope", "shr"])
def test_pope_and_shr_are_answered_as_by_the_family(world, benchmark):
    folder, models = world
    recipe = config.load_recipe("mini/hf-llava")

    def resolve(place):
        return Path(str(place).replace("${WORLD}", str(folder)))

    sources = Sources(
        data=recipe.data,
        resolve=resolve,
        note=lambda path: path,
        report=Report(),
    )
    asked = plugins.load("hadpo.benchmarks", "pope").questions(sources)
    if benchmark == "shr":  # one description of each picture
        pictures = {question.image_id: question for question in asked}.values()
        asked = [dataclasses.replace(question, text=shr.PROMPT) for question in pictures]
    decoding = benchmarks.decoding_of(benchmarks.Benchmark.named(benchmark), recipe.evaluate)
    own, hub = ([a.text for a in model.answers(asked, decoding=decoding)] for model in models)
    assert len(own) >= 6 and all(own)
    assert own == hub
