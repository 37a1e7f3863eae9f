"""What every family promises, asked of each that is there, on the recordings' own weights."""

import importlib.util
import inspect
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from hadpo import adapter, backbones, batch, generation, plugins
from hadpo.records import BadInput, Question
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.prompt import IMAGE

FAMILIES = plugins.available("hadpo.backbones")
PLAIN = {  # recorded backbone -> name and parts; the EVA families need sizes beside their files
    "llava": (
        "llava/1.5-7b",
        {"language_model": "checkpoint/llava-v1.5-tiny", "vision": "checkpoint/clip-vit-tiny"},
    ),
    "mplug_owl": ("mplug_owl/llama-7b", {"language_model": "checkpoint/mplug-owl-llama-tiny"}),
}
TEXTS = ("Is there a dog?", "Describe this image in detail.", "Who? " * 9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_what_it_is(family):
    module = plugins.load("hadpo.backbones", family)
    assert module.PARTS and all(isinstance(text, str) for text in module.PARTS.values())
    placed = {"dtype": torch.float32, "device": torch.device("cpu"), "quantization": "none"}
    given = inspect.signature(module.from_original).bind({}, variant="mini", **placed)
    assert given.arguments["files"] == {}
    (own,) = (
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing)
        and issubclass(thing, Backbone)
        and thing.__module__ == module.__name__
    )
    assert not inspect.isabstract(own) and own.PARTS == module.PARTS
    assert module.VARIANTS
    for variant in module.VARIANTS.values():
        for template in (variant.prompts.train, variant.prompts.evaluate):
            assert template.text.count("<image>") == template.text.count("{instruction}") == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_without_files_a_family_names_what_it_needs(family):
    module = plugins.load("hadpo.backbones", family)
    for variant in module.VARIANTS:
        with pytest.raises(BadInput, match="language_model"):
            backbones.load(f"{family}/{variant}", {})


@pytest.fixture(scope="module")
def places(shared, tmp_path_factory):
    """Name and parts of every recorded backbone; what was recorded is found by listing."""
    spec = importlib.util.spec_from_file_location("eva", Path(__file__).parent / "eva/conftest.py")
    assert spec is not None and spec.loader is not None
    eva = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(eva)
    found = {}
    for path in sorted((shared / "golden").glob("*/*/meta.json")):
        meta = json.loads(path.read_text())
        case = meta.get("backbone")
        if case in PLAIN:
            name, places = PLAIN[case]
            files = {part: path.parent / place for part, place in places.items()}
        elif case in eva.CASES:
            name, files = eva.links(path.parent, tmp_path_factory.mktemp(case), meta)
            if name.startswith("instructblip"):
                files["bert"] = shared / "golden" / "tokenizers" / "bert_tiny"
        else:
            continue
        found[case] = name, files
    return found


@pytest.fixture(scope="module")
def recorded(places):
    """Every recorded backbone, loaded."""
    found = {
        case: backbones.load(name, files, dtype="float32", device="cpu")
        for case, (name, files) in places.items()
    }
    own = {backbone.name.partition("/")[0] for backbone in found.values()}
    assert own == set(FAMILIES) - {"hf"}  # which has recordings of its own kind (backbones/hf)
    return found


CASES = [*PLAIN, "minigpt4_llama2", "minigpt4_vicuna0", "instructblip_vicuna"]


@pytest.fixture(params=CASES)
def backbone(request, recorded):
    assert set(recorded) == set(CASES)
    return recorded[request.param]


@pytest.mark.extra
@pytest.mark.parametrize("case", CASES)
def test_the_language_model_is_quantised_and_nothing_else(case, places, recorded):
    """Listed by kind: a name to skip that has changed would quantise the vision tower, too."""
    bitsandbytes = pytest.importorskip(
        "bitsandbytes", reason="the extra qlora is absent: pip install -e '.[qlora]'"
    )
    name, files = places[case]
    plain = recorded[case]
    found = backbones.load(name, files, dtype="float32", device="cpu", quantization="nf4")
    packed = {
        name
        for name, module in found.named_modules()
        if isinstance(module, (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt))
    }
    expected = {
        name
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("language_model.model.layers.")
    }
    assert packed == expected and len(packed) == 7 * plain.language_model.config.num_hidden_layers
    assert found.is_quantised and not plain.is_quantised
    others = {key for key, p in found.named_parameters() if p.dtype == torch.uint8}
    assert others == {f"{name}.weight" for name in packed}
    mine, theirs = dict(found.named_parameters()), dict(plain.named_parameters())
    assert mine.keys() == theirs.keys()
    for key in mine.keys() - others:  # vision, connector, norms, embeddings, head: bit for bit
        assert torch.equal(mine[key], theirs[key]), key


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{k}.png" for k in range(2)]
    for k, path in enumerate(paths):
        Image.effect_noise((40 + 9 * k, 31), 50 + 30 * k).convert("RGB").save(path)
    return [str(path) for path in paths]


def see(backbone, pictures, text):
    pixels = batch.read_pixels(backbone, pictures)
    return backbone.image_tokens(pixels, [text] * len(pictures))


def test_is_frozen_and_in_evaluation_mode(backbone):
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(p.is_meta for p in backbone.parameters())
    tables = [b for name, b in backbone.named_buffers() if name.endswith("inv_freq")]
    assert tables and all(table.dtype == torch.float32 and table.any() for table in tables)


@pytest.mark.parametrize("prompt", ["train", "evaluate"])
def test_prompts_have_one_place_for_the_image(backbone, prompt):
    plain = backbone.prompt_ids("Who?", prompt=prompt)
    text = "a <image> b <s> c </s> ### [INST] d"
    marked = backbone.prompt_ids(text, prompt=prompt)
    control = {backbone.tokenizer.bos, backbone.tokenizer.eos, IMAGE}
    assert [i for i in plain if i in control] == [i for i in marked if i in control]
    assert plain.count(IMAGE) == 1
    assert text in backbone.tokenizer.decode(marked)
    expanded = backbone.expand(plain)
    assert expanded.count(IMAGE) == backbone.num_image_tokens
    assert len(expanded) == len(plain) + backbone.num_image_tokens - 1


def test_any_image_becomes_image_tokens(backbone):
    for mode in ("RGB", "L", "RGBA", "P", "CMYK", "1"):
        pixels = backbone.preprocess(Image.new("RGB", (33, 50), (9, 99, 200)).convert(mode))
        assert pixels.dtype == torch.float32 and pixels.shape[0] == 3
        tokens = backbone.image_tokens(pixels[None], ["Who?"])
        assert tokens.shape == (1, backbone.num_image_tokens, backbone.lm_head_weight.shape[1])
        assert tokens.isfinite().all()


def test_reading_in_parts_equals_one_pass(backbone, pictures):
    ids = backbone.expand(backbone.prompt_ids(TEXTS[0], prompt="evaluate"))
    tokens = see(backbone, pictures[:1], TEXTS[0])
    end = len(ids) - ids[::-1].index(IMAGE)
    logits, _ = backbone.extend(backbone.prefill([ids[:end]], tokens), [ids[end:]])
    n = len(ids)
    mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    with torch.no_grad():
        embeds = backbone.embed(torch.tensor([ids]), tokens)
        hidden = backbone.hidden_states(embeds, mask, torch.arange(n)[None])
    assert (logits - hidden[:, -1] @ backbone.lm_head_weight.T).abs().max() < 1e-4


@pytest.mark.parametrize("beams", [1, 5])
def test_answers_side_by_side_equal_single_ones(backbone, pictures, beams):
    questions = [
        Question(
            question_id=f"{k}-{i}",
            benchmark="test",
            split="",
            image_id=str(i),
            image=picture,
            text=text,
        )
        for k, text in enumerate(TEXTS)
        for i, picture in enumerate(pictures)
    ]
    decoding = generation.Decoding(name="test", max_new_tokens=6, beams=beams)
    found = []
    for options in ({"exact": True}, {"batch_questions": 1}, {"batch_questions": 16}):
        answers = generation.generate(backbone, questions, decoding, model="base", **options)
        found.append({answer.question_id: (answer.text, answer.tokens) for answer in answers})
    assert found[0] == found[1] == found[2] and len(found[0]) == len(questions)
    if beams == 1:
        for question in questions:
            ids = read_all_again(backbone, question, decoding.max_new_tokens)
            expected = backbone.decode(ids).strip(), len(ids)
            assert found[0][question.question_id] == expected


def read_all_again(backbone, question, most):
    """Greedy ids without any cache: the whole sequence is read for every token."""
    ids = backbone.expand(backbone.prompt_ids(question.text, prompt="evaluate"))
    tokens = see(backbone, [question.image], question.text)
    new = []
    while len(new) < most:
        n = len(ids) + len(new)
        mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
        with torch.no_grad():
            embeds = backbone.embed(torch.tensor([ids + new]), tokens)
            hidden = backbone.hidden_states(embeds, mask, torch.arange(n)[None])
        new.append(int((hidden[0, -1] @ backbone.lm_head_weight.T).argmax()))
        if bool(backbone.ends(torch.tensor(new))):
            break
    return new


def test_lora_lies_in_the_language_model_only(backbone):
    outside = {name: id(module) for name, module in backbone.named_modules()}
    try:
        adapter.attach(backbone, rank=2, alpha=4.0, targets="q_proj,v_proj")
        new = [name for name, module in backbone.named_modules() if outside.get(name) != id(module)]
        assert new and all(name.startswith("language_model.model.layers.") for name in new)
        opened = [name for name, p in backbone.named_parameters() if p.requires_grad]
        depth = len(backbone.language_model.model.layers)
        assert len(opened) == depth * 2 * 2
        assert all(name.startswith("language_model.") and ".lora_" in name for name in opened)
    finally:
        adapter.detach(backbone)


def test_saved_weights_are_read_back(backbone, tmp_path):
    changed = {}
    try:
        for name, module in backbone.language_model.named_modules():
            if isinstance(module, nn.Linear) and name.endswith("v_proj"):
                changed[module] = module.weight.data.clone()
                module.weight.data += 0.01  # as a merged adapter does
        backbone.save_original(tmp_path / "saved", dtype=torch.float32)
        files = backbone.files_with(tmp_path / "saved")
        again = backbones.load(backbone.name, files, dtype="float32", device="cpu")
        mine, theirs = backbone.state_dict(), again.state_dict()
        assert changed and mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert again.prompt_ids("Who?", prompt="train") == backbone.prompt_ids(
            "Who?", prompt="train"
        )
    finally:
        for module, weight in changed.items():
            module.weight.data = weight
