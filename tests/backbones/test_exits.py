"""What is exported works in the others' own code: processor, model, generate, peft, vocabulary."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

import hadpo
from hadpo import adapter, backbones
from hadpo.vlm.prompt import IMAGE

WEIGHTS = Path(hadpo.__file__).parent / "mini" / "weights"
LLAVA = {
    "language_model": WEIGHTS / "llava" / "llava-v1.5-mini",
    "vision": WEIGHTS / "llava" / "clip-vit-mini",
}
BLIP = {
    "language_model": WEIGHTS / "instructblip" / "llama",
    "vision": WEIGHTS / "eva" / "eva_vit_g.pth",
    "qformer": WEIGHTS / "instructblip" / "instruct_blip_vicuna_mini_trimmed.pth",
    "bert": WEIGHTS / "instructblip" / "bert",
}
FAMILIES = {"llava/mini": LLAVA, "instructblip/vicuna7b": BLIP}
# Logits, of a spread of 4. transformers' InstructBLIP norms the encoder's output with an epsilon of
# 1e-6, LAVIS' with 1e-5.
CLOSE = {"llava/mini": 1e-5, "instructblip/vicuna7b": 3e-5}
QUESTIONS = ["Is there a red cup in the image?", "What  is left of the dog,\nand why? é ~"]
SIZES = [(96, 96), (200, 90), (41, 160), (300, 3)]


def load(name, files=None):
    return backbones.load(name, files or FAMILIES[name], dtype="float32", device="cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    backbone = load(request.param)
    assert backbone.save_transformers(folder, dtype=torch.float32)
    return request.param, backbone, folder


def picture(size, seed=0):
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def our_logits(backbone, ids, image, question):
    row = torch.tensor([ids])
    tokens = backbone.image_tokens(backbone.preprocess(image)[None], [question])
    n = row.shape[1]
    mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    with torch.no_grad():
        hidden = backbone.hidden_states(backbone.embed(row, tokens), mask, torch.arange(n)[None])
        return (hidden @ backbone.lm_head_weight.T)[0]


def row_of(processor, question, image):
    text = question
    if processor.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        said = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(said, add_generation_prompt=True)
    return processor(images=image, text=text, return_tensors="pt")


@pytest.mark.parametrize("size", SIZES)
def test_pixels_ids_and_logits_are_ours(exported, size):
    name, backbone, folder = exported
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    image = picture(size)
    for question in QUESTIONS:
        row = row_of(processor, question, image)
        ids = backbone.expand(backbone.prompt_ids(question, prompt="evaluate"))
        place = model.config.image_token_id
        assert row["input_ids"][0].tolist() == [place if i == IMAGE else i for i in ids]
        assert (row["input_ids"] == place).sum() == backbone.num_image_tokens
        assert (row["pixel_values"][0] - backbone.preprocess(image)).abs().max() < 1e-6
        with torch.no_grad():
            theirs = model(**row).logits[0]
        ours = our_logits(backbone, ids, image, question)
        assert theirs.shape == ours.shape  # no row more: it would be part of the softmax
        assert ours.std() > 1
        assert (theirs - ours).abs().max() < CLOSE[name]


def test_generate_says_what_we_say(exported):
    _, backbone, folder = exported
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    image = picture((120, 80), seed=3)
    ids = backbone.expand(backbone.prompt_ids(QUESTIONS[0], prompt="evaluate"))
    expected = []
    while len(expected) < 20 and expected[-1:] != [backbone.end_id]:
        logits = our_logits(backbone, ids + expected, image, QUESTIONS[0])
        expected.append(int(logits[-1].argmax()))
    with torch.no_grad():
        found = model.generate(**row_of(processor, QUESTIONS[0], image), max_new_tokens=20)[0]
    new = found[len(ids) :].tolist() if len(found) > len(ids) else found.tolist()
    assert new == expected
    assert processor.tokenizer.decode(new, skip_special_tokens=True) == backbone.decode(new)
    decoding = GenerationConfig.from_pretrained(folder)
    assert decoding.eos_token_id == backbone.end_id and decoding.do_sample is False


def test_it_is_read_back_here(exported):
    name, backbone, folder = exported
    again = load(name, {"language_model": folder})
    image = picture((50, 70))
    ids = backbone.expand(backbone.prompt_ids(QUESTIONS[1], prompt="train"))
    assert again.expand(again.prompt_ids(QUESTIONS[1], prompt="train")) == ids
    logits = (our_logits(b, ids, image, QUESTIONS[1]) for b in (backbone, again))
    assert torch.equal(*logits)


def test_a_conversation_of_several_turns(tmp_path):
    backbone = load("llava/mini")
    backbone.save_transformers(tmp_path, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path)
    said = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it red?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes, a red cup."}]},
        {"role": "user", "content": "And the dog?"},
        {"role": "assistant", "content": "No."},
    ]
    text = processor.apply_chat_template(said)
    assert text == (
        "USER: <image>\nIs it red? ASSISTANT: Yes, a red cup.</s>"
        "USER: And the dog? ASSISTANT: No.</s>"
    )
    row = processor(images=picture((96, 96)), text=text, return_tensors="pt")
    ids = backbone.expand(backbone.prompt_ids("Is it red?", prompt="evaluate"))
    ids += backbone.response_ids("Yes, a red cup.")[:-1]
    ids += backbone.PROMPTS.again.tokenize("And the dog?", backbone.tokenizer)
    ids += backbone.response_ids("No.")
    assert row["input_ids"][0].tolist() == [0 if i == IMAGE else i for i in ids]
    asked = [{"role": "user", "content": "<image>\nIs it red?"}]  # as lmms-eval writes it
    first = processor.apply_chat_template(asked, add_generation_prompt=True)
    assert first == "USER: <image>\nIs it red? ASSISTANT:"
    for wrong in (
        [{"role": "system", "content": "Be brief."}, *said],
        [{"role": "user", "content": "Is it red?"}],
        [*said, said[0]],
    ):
        with pytest.raises(Exception, match=r"its own system text|one image, in the first"):
            processor.apply_chat_template(wrong)


def test_an_adapter_in_transformers_names(exported, tmp_path):
    """peft on the exported base gives the logits of the merged model; the tower stays as it is."""
    name, _, base = exported
    backbone = load(name)
    adapter.attach(backbone, rank=4, alpha=8.0, targets="q_proj,v_proj,down_proj,lm_head")
    generator = torch.Generator().manual_seed(5)
    for value in adapter.state(backbone).values():
        value.copy_(0.05 * torch.randn(value.shape, generator=generator))
    adapter.files.save_for_transformers(backbone, tmp_path / "twin", model=base)
    again = load(name)  # our own loader reads it, too
    adapter.load(again, tmp_path / "twin")
    processor = AutoProcessor.from_pretrained(base)
    row = row_of(processor, QUESTIONS[0], picture((96, 60)))
    plain = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        before = plain(**row).logits
        tuned = PeftModel.from_pretrained(plain, tmp_path / "twin").eval()
        found = tuned(**row).logits
    layers = {key.rpartition(".lora_")[0] for key in tuned.state_dict() if ".lora_A" in key}
    assert len(layers) == 3 * 3 + 1 and not any("vision" in key for key in layers)
    for model in (backbone, again):
        adapter.merge(model)
    backbone.save_transformers(tmp_path / "merged", dtype=torch.float32)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        expected = merged.eval()(**row).logits
    assert (expected - before).abs().max() > 0.1
    assert (found - expected).abs().max() < 2e-5
    ours = our_logits(
        again,
        [IMAGE if i == 0 else int(i) for i in row["input_ids"][0]],
        picture((96, 60)),
        QUESTIONS[0],
    )
    assert (ours - expected[0]).abs().max() < CLOSE[name] * 3


ROPE = {"rope_theta": 50000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}


@pytest.mark.parametrize(
    "change",
    [
        ROPE,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}},
        {"rms_norm_eps": 0.01},
        {"hidden_act": "gelu"},
        {"num_attention_heads": 8, "num_key_value_heads": 8},
        {"mm_vision_select_layer": -3},
        {"mm_vision_select_layer": 2},
        {"image_aspect_ratio": "square"},
        {"max_position_embeddings": 300},
        {"bos_token_id": 7},
    ],
)
def test_what_is_read_comes_out(tmp_path, change):
    """Of both exits: the same numbers here, and of the second one in transformers."""
    import shutil

    shutil.copytree(LLAVA["language_model"], tmp_path / "in")
    path = tmp_path / "in" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    backbone = load("llava/mini", LLAVA | {"language_model": tmp_path / "in"})
    image = picture((90, 60))
    ids = backbone.expand(backbone.prompt_ids(QUESTIONS[0], prompt="evaluate"))
    expected = our_logits(backbone, ids, image, QUESTIONS[0])
    plain = our_logits(load("llava/mini"), ids, image, QUESTIONS[0])
    is_neutral = set(change) <= {"max_position_embeddings", "bos_token_id"}
    assert torch.equal(expected, plain) == is_neutral
    backbone.save_original(tmp_path / "original", dtype=torch.float32)
    backbone.save_transformers(tmp_path / "hub", dtype=torch.float32)
    for files in (backbone.files_with(tmp_path / "original"), {"language_model": tmp_path / "hub"}):
        again = load("llava/mini", files)
        config = again.language_model.config
        assert (
            config.max_position_embeddings == backbone.language_model.config.max_position_embeddings
        )
        assert torch.equal(our_logits(again, ids, image, QUESTIONS[0]), expected)
    processor = AutoProcessor.from_pretrained(tmp_path / "hub")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "hub", dtype=torch.float32)
    with torch.no_grad():
        theirs = model.eval()(**row_of(processor, QUESTIONS[0], image)).logits[0]
    assert (theirs - expected).abs().max() < 1e-5


def test_the_row_of_pad_takes_part_as_before(tmp_path):
    """LAVIS' [PAD] row, if it is given: a row of the softmax of both."""
    from safetensors.torch import save_file

    source = BLIP["qformer"]
    folder = tmp_path / "in"
    folder.mkdir()
    for path in (source, source.with_suffix(".json")):
        (folder / path.name).write_bytes(path.read_bytes())
    generator = torch.Generator().manual_seed(1)
    names = ("model.embed_tokens.weight", "lm_head.weight")
    rows = {f"{n}.row650": 0.5 * torch.randn(1, 128, generator=generator) for n in names}
    save_file(rows, folder / "llm_pad_rows.safetensors")
    backbone = load("instructblip/vicuna7b", BLIP | {"qformer": folder / source.name})
    assert backbone.lm_head_weight.shape == (651, 128)
    backbone.save_transformers(tmp_path / "hub", dtype=torch.float32)
    weights = load_file(tmp_path / "hub" / "model.safetensors")
    assert weights["language_model.lm_head.weight"].shape == (651, 128)
    again = load("instructblip/vicuna7b", {"language_model": tmp_path / "hub"})
    assert torch.equal(again.lm_head_weight, backbone.lm_head_weight)
