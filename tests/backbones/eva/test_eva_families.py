"""What is special about MiniGPT-4 and InstructBLIP: pixels, ends of answers, long instructions."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from hadpo import adapter, backbones, batch, generation, trainer
from hadpo.backbones import minigpt4
from hadpo.config import TrainConfig
from hadpo.records import Pair, Question
from hadpo.vlm.prompt import IMAGE
from hadpo.vlm.vision import CLIP_MEAN, CLIP_STD

LLAMA2, VICUNA0, BLIP = "minigpt4/llama2", "minigpt4/vicuna0", "instructblip/vicuna7b"


@pytest.fixture
def load(make):
    def read(name):
        return backbones.load(name, make(name)[0], dtype="float32", device="cpu")

    return read


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.effect_noise((61, 40), 70).convert("RGB").save(path)
    return path


@pytest.mark.parametrize("name", [LLAMA2, BLIP])
def test_pixels_are_squeezed_to_a_square(load, picture, name):
    image = Image.open(picture)
    found = load(name).preprocess(image)
    square = np.asarray(image.resize((28, 28), Image.Resampling.BICUBIC)) / 255
    expected = (square - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() < 1e-5


def test_prompts_of_the_forks_differ_in_the_last_blank():
    for here, fork, words in (
        ("llama2", "llama2-hadpo", "[/INST]"),
        ("vicuna0", "vicuna0-lrv", "###Assistant:"),
    ):
        mine, theirs = (minigpt4.VARIANTS[name].prompts for name in (here, fork))
        assert mine.train == theirs.train
        assert theirs.evaluate.text.endswith(words)
        assert mine.evaluate.text == theirs.evaluate.text + " "


def test_both_prompts_of_llama2_as_text(load):
    backbone = load(LLAMA2)
    train, evaluate = (backbone.prompt_ids("Who?", prompt=p) for p in ("train", "evaluate"))
    bos = backbone.tokenizer.bos
    assert train.count(bos) == 1 and train[0] == bos
    assert evaluate.count(bos) == 2 and evaluate[0] == bos
    assert backbone.tokenizer.decode(train).split() == [
        "[INST]",
        "<Img>",
        "</Img>",
        "Who?",
        "[/INST]",
    ]
    (lone,) = backbone.tokenizer.encode(" ")[-1:]
    assert train[-1] == evaluate[-1] == lone


def test_an_end_that_is_a_text(load):
    backbone = load(VICUNA0)
    end = backbone.end_ids
    ids = backbone.response_ids("There is a dog.")
    assert ids[-len(end) :] == end and ids[: -len(end)] == backbone.tokenizer.encode(
        "There is a dog."
    )
    assert backbone.tokenizer.eos not in ids
    assert bool(backbone.ends(torch.tensor(ids)))
    assert not bool(backbone.ends(torch.tensor(ids[:-1])))
    assert bool(backbone.ends(torch.tensor([5, backbone.tokenizer.eos])))
    assert bool(backbone.ends(torch.tensor(backbone.tokenizer.encode("###"))))
    assert not bool(backbone.ends(torch.tensor([5])))
    rows = torch.tensor([[7, 8, *end], [*end, 7, 8]])
    assert backbone.ends(rows).tolist() == [True, False]
    assert backbone.ends(rows[None]).shape == (1, 2)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("A dog.###", "A dog."),
        ("A dog.###Human: And? ###Assistant: A cat.###", "A dog."),
        ("Assistant: A dog.", " A dog."),
        ("No.", "No."),
    ],
)
def test_what_vicuna0_said_ends_at_the_marks(load, said, text):
    backbone = load(VICUNA0)
    assert backbone.decode(backbone.tokenizer.encode(said)) == text


def test_marks_of_vicuna0_are_words_for_llama2(load):
    backbone = load(LLAMA2)
    assert backbone.decode(backbone.response_ids("A ### b.")) == "A ### b."
    assert backbone.response_ids("A.") == [*backbone.tokenizer.encode("A."), 2]
    assert backbone.end_ids == [2]


def test_cut_answers_keep_the_whole_end(load):
    backbone = load(VICUNA0)
    pair = Pair(
        pair_id="1",
        image_id="1",
        image="1",
        instruction="Who?",
        chosen="A dog. " * 30,
        rejected="No.",
        kind="pope",
        source="test",
    )
    prefix = len(backbone.expand(backbone.prompt_ids("Who?", prompt="train")))
    example = batch.tokenize(backbone, pair, max_length=prefix + 9)
    assert len(example.chosen) == 9 and example.cut == 1
    end = backbone.end_ids
    assert list(example.chosen[-len(end) :]) == end
    whole = backbone.response_ids(pair.chosen)
    assert list(example.chosen[: -len(end)]) == whole[: 9 - len(end)]


def test_long_instructions_keep_their_end(load):
    backbone = load(BLIP)
    text = " ".join(f"w{k}" for k in range(300)) + " dog?"
    train, evaluate = (backbone.prompt_ids(text, prompt=p) for p in ("train", "evaluate"))
    eos = backbone.tokenizer.eos
    assert evaluate == [IMAGE, eos, *backbone.tokenizer.encode(text)]
    assert len(train) == 1 + 128 and train[:2] == [IMAGE, eos]
    assert train[2:] == evaluate[-127:]
    short = backbone.prompt_ids("A dog?", prompt="train")
    assert short == [IMAGE, eos, *backbone.tokenizer.encode("A dog?")]
    seen = backbone.word_pieces.encode(text)
    whole = backbone.word_pieces.encode("dog?")
    assert len(seen) == 128 and seen[0] == whole[0] and seen[-len(whole) + 1 :] == whole[1:]


def test_image_tokens_follow_the_instruction_and_nothing_else(load, picture):
    backbone = load(BLIP)
    pixels = backbone.preprocess(Image.open(picture))[None]
    texts = ["Is there a dog?", "Is there a dog in the image, or is there none?", "Who?"]
    together = backbone.image_tokens(pixels, texts, image_of=[0, 0, 0])
    for k, text in enumerate(texts):
        alone = backbone.image_tokens(pixels, [text])
        assert torch.allclose(together[k], alone[0], atol=1e-5)  # padding says nothing
    assert (together[0] - together[1]).abs().max() > 1e-2
    with pytest.raises(ValueError, match="as many instructions"):
        backbone.image_tokens(pixels, [])


@pytest.mark.parametrize("name", [VICUNA0, BLIP])
def test_generation_equals_rereading_everything(load, picture, name):
    backbone = load(name)
    texts = ["Is there a dog?", "Describe this image in detail."]
    questions = [
        Question(
            question_id=text,
            benchmark="shr",
            split="val",
            image_id="1",
            image=str(picture),
            text=text,
        )
        for text in texts
    ]
    decoding = generation.Decoding(name="greedy", beams=1, max_new_tokens=6)
    answers = list(generation.generate(backbone, questions, decoding, model="base"))
    pixels = backbone.preprocess(Image.open(picture))[None]
    for text, answer in zip(texts, answers, strict=True):
        ids = backbone.expand(backbone.prompt_ids(text, prompt="evaluate"))
        written = []
        for _ in range(6):
            row = torch.tensor([[*ids, *written]])
            n = row.shape[1]
            mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
            embeds = backbone.embed(row, backbone.image_tokens(pixels, [text]))
            with torch.no_grad():
                hidden = backbone.hidden_states(embeds, mask, torch.arange(n)[None])
            written.append(int((hidden[0, -1] @ backbone.lm_head_weight.T).argmax()))
            if backbone.ends(torch.tensor(written)):
                break
        assert answer.text == backbone.decode(written).strip() and answer.tokens == len(written)


@pytest.mark.parametrize("name", [LLAMA2, VICUNA0, BLIP])
def test_training_moves_the_adapter_only(load, tiny_pairs, tmp_path, name):
    backbone = load(name)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    settings = TrainConfig(
        steps=2,
        batch_pairs=4,
        micro_batch_pairs=2,
        learning_rate=1e-2,
        schedule="constant",
        lora_rank=2,
    )
    first, second = trainer.steps(backbone, tiny_pairs, settings)
    assert first.metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert second.metrics["loss"] != pytest.approx(math.log(2), abs=1e-6)
    after = {
        key.replace("base_layer.", ""): value
        for key, value in backbone.state_dict().items()
        if ".lora_" not in key
    }
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    packed = batch.pack([batch.tokenize(backbone, tiny_pairs[0], max_length=2048)])
    pixels = batch.read_pixels(backbone, packed.images)

    def logps(model):
        with torch.no_grad():
            return batch.answer_logps(model, packed, batch.embed(model, packed, pixels))

    trained = logps(backbone)
    adapter.merge(backbone)
    backbone.save_original(tmp_path / "merged", dtype=torch.float32)
    merged = backbones.load(name, backbone.files_with(tmp_path / "merged"), device="cpu")
    assert torch.allclose(logps(merged), trained, atol=1e-3)
    assert (trained - logps(load_base(name, backbone))).abs().max() > 1e-3


def load_base(name, backbone):
    return backbones.load(name, backbone.files, device="cpu")
