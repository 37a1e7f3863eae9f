"""mPLUG-Owl: prompts, several images, pixels, packed rows, generation, scope of the adapter."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil

from hadpo import adapter, backbones, batch, generation
from hadpo.records import BadInput, Question
from hadpo.vlm.prompt import IMAGE

SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


def load(folder, variant="llama-7b", dtype="float32"):
    files = {"language_model": folder}
    return backbones.load(f"mplug_owl/{variant}", files, dtype=dtype, device="cpu")


@pytest.fixture
def owl(make_owl):
    return load(make_owl()[0])


def next_logits(backbone, ids, image_tokens):
    """One pass over whole rows, without a cache."""
    n = len(ids)
    mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    with torch.no_grad():
        embeds = backbone.embed(torch.tensor([ids]), image_tokens)
        hidden = backbone.hidden_states(embeds, mask, torch.arange(n)[None])
    return hidden[0, -1] @ backbone.lm_head_weight.T


def test_is_frozen_and_in_evaluation_mode(owl):
    assert not owl.training and not any(p.requires_grad for p in owl.parameters())
    assert owl.num_image_tokens == 4  # three queries and the end mark
    assert not owl.image_tokens_depend_on_instruction


def test_inference_ids_and_greedy_answers_of_the_originals(shared):
    folders = sorted((shared / "golden" / "mplug_owl").iterdir())
    assert folders
    for folder in folders:
        (checkpoint,) = (folder / "checkpoint").iterdir()
        backbone = load(checkpoint)
        cases = json.loads((folder / "text_cases.json").read_text())["inference_side"]
        pixels = load_file(folder / "inputs.safetensors")["pixel_values"]
        assert cases
        for case in cases:
            question = case["prompt"].rpartition("\nHuman: ")[2].removesuffix("\nAI: ")
            ids = backbone.expand(backbone.prompt_ids(question, prompt="evaluate"))
            assert [-1 if i == IMAGE else i for i in ids] == case["input_ids"]
            tokens = backbone.image_tokens(pixels[case["image_index"]][None])
            state = backbone.prefill([ids[:-5]], tokens)
            logits, state = backbone.extend(state, [ids[-5:]])
            found = []
            for _ in case["greedy_6"][1:]:  # theirs begins with a token that no model made
                found.append(int(logits.argmax()))
                logits, state = backbone.extend(state, [found[-1:]])
            assert found == case["greedy_6"][1:]


def test_training_cuts_at_separators_and_inference_at_images(owl):
    encode = owl.tokenizer.encode
    train = [owl.tokenizer.bos, *encode(SYSTEM), *encode("\nHuman: "), IMAGE]
    train += [*encode("\nHuman: "), *encode("Who?\n"), *encode("AI: ")]
    assert owl.prompt_ids("Who?", prompt="train") == train
    evaluate = [owl.tokenizer.bos, *encode(SYSTEM + "\nHuman: "), IMAGE]
    evaluate += encode("\nHuman: Who?\nAI: ")
    assert owl.prompt_ids("Who?", prompt="evaluate") == evaluate != train


def test_prompt_of_lrv(make_owl):
    lrv = load(make_owl()[0], "lrv-v2")
    words = (
        "The following is a conversation between a curious human and AI. The AI gives helpful, "
        "detailed, and polite answers to the human's questions.\nHuman: "
    )
    expected = [1, *lrv.tokenizer.encode(words), IMAGE]
    expected += lrv.tokenizer.encode("\nHuman: Who?\nAI:")
    assert lrv.prompt_ids("Who?", prompt="evaluate") == expected
    assert "AI assistant" in lrv.decode(lrv.prompt_ids("Who?", prompt="train"))


@pytest.mark.parametrize("prompt", ["train", "evaluate"])
def test_separators_and_marks_in_an_instruction_stay_text(owl, prompt):
    text = "a <image> b </s> c\nHuman: <image>\nAI: d ###"
    ids = owl.prompt_ids(text, prompt=prompt)
    assert ids.count(IMAGE) == 1 and ids.count(owl.tokenizer.bos) == 1 and owl.end_id not in ids
    assert text in owl.decode([i for i in ids if i != IMAGE])


@pytest.mark.parametrize("prompt", ["train", "evaluate"])
def test_several_images_have_a_line_each(owl, prompt):
    one = owl.prompt_ids("Who?", prompt=prompt)
    two = owl.prompt_ids("Who?", prompt=prompt, num_images=2)
    at = one.index(IMAGE)
    line = owl.tokenizer.encode("\nHuman: ")
    assert two == [*one[: at + 1], *line, IMAGE, *one[at + 1 :]]
    tokens = owl.image_tokens(torch.randn(2, 3, 28, 28))
    assert tokens.shape == (2, owl.num_image_tokens, 32)
    ids = owl.expand(two)
    assert ids.count(IMAGE) == 2 * owl.num_image_tokens
    row = tokens.flatten(0, 1)[None]
    embeds = owl.embed(torch.tensor([ids]), row)[0]
    places = [k for k, i in enumerate(ids) if i == IMAGE]
    assert torch.equal(embeds[places], row[0])
    state = owl.prefill([ids[:-2]], row)
    logits, _ = owl.extend(state, [ids[-2:]])
    assert (logits[0] - next_logits(owl, ids, row)).abs().max() < 1e-4


def test_adjacent_images_are_two(owl):
    """The originals take a run of equal placeholders for one image."""
    tokens = owl.image_tokens(torch.randn(2, 3, 28, 28)).flatten(0, 1)[None]
    ids = owl.expand([1, IMAGE, IMAGE, 5])
    embeds = owl.embed(torch.tensor([ids]), tokens)[0]
    assert torch.equal(embeds[1:-1], tokens[0])


def test_images_and_placeholders_are_counted(owl):
    ids = owl.expand(owl.prompt_ids("Who?", prompt="evaluate", num_images=2))
    tokens = owl.image_tokens(torch.randn(3, 3, 28, 28))
    for given in (tokens[:1], tokens.flatten(0, 1)[None]):
        with pytest.raises(BadInput, match=r"row 0: .* room for 2 images \(8 positions\)"):
            owl.prefill([ids], given)
    with pytest.raises(BadInput, match="but 0 image tokens"):
        owl.prefill([ids])
    with pytest.raises(BadInput, match="needs an image"):
        owl.expand([1, 5])


@pytest.mark.parametrize("size", [(80, 60), (20, 51), (28, 28)])
def test_pixels_are_squashed_as_the_originals_do(owl, size):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(values)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    squashed = image.resize((28, 28), Image.Resampling.BICUBIC)
    expected = torch.as_tensor(np.asarray(processor(squashed)["pixel_values"][0]))
    assert (owl.preprocess(image) - expected).abs().max() < 1e-5
    alpha = image.copy()
    alpha.putalpha(7)
    assert torch.equal(owl.preprocess(alpha), owl.preprocess(image))


def test_packed_rows_equal_rows_of_their_own(owl, tiny_pairs):
    examples = [batch.tokenize(owl, pair, max_length=400) for pair in tiny_pairs[:3]]
    packed = batch.pack(examples)
    pixels = batch.read_pixels(owl, packed.images)
    with torch.no_grad():
        sums = batch.answer_logps(owl, packed, batch.embed(owl, packed, pixels))
    tokens = owl.image_tokens(pixels, image_of=packed.image_of)
    for r, example in enumerate(examples):
        for k, answer in enumerate((example.chosen, example.rejected)):
            total = 0.0
            for t, target in enumerate(answer):
                ids = [*example.prefix, *answer[:t]]
                logps = next_logits(owl, ids, tokens[r][None]).log_softmax(-1)
                total += float(logps[target])
            assert abs(total - float(sums[k, r])) < 1e-3


def test_batched_greedy_answers_equal_single_ones(owl, tiny_pairs):
    questions = [
        Question(
            question_id=str(k),
            benchmark="test",
            split="",
            image_id=pair.image_id,
            image=pair.image,
            text=pair.instruction + " Why?" * (k % 3),
        )
        for k, pair in enumerate(tiny_pairs[:5])
    ]
    decoding = generation.Decoding(name="greedy", max_new_tokens=6)
    found = {
        size: {
            answer.question_id: answer.text
            for answer in generation.generate(
                owl, questions, decoding, batch_questions=size, model="base"
            )
        }
        for size in (1, 8)
    }
    assert found[1] == found[8] and len(found[1]) == 5


def test_lora_stays_in_the_language_model(owl):
    before = {name for name, _ in owl.named_modules()}
    adapter.attach(owl, rank=8, alpha=32, targets="q_proj,v_proj")  # as LRV V2 was trained
    new = {name for name, _ in owl.named_modules()} - before
    assert new and all(name.startswith("language_model.model.layers.") for name in new)
    trained = {name: p for name, p in owl.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2  # two layers, two targets, A and B
    assert all(".lora_" in name and name.startswith("language_model.") for name in trained)
