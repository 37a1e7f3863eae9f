"""The committed weights: the authors' layout, small, and trained on what the code says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor

import hadpo.mini
from tools.train_mini.language import EOS, IGNORED, before_image, tokens
from tools.train_mini.tokenizer import words

WEIGHTS = Path(hadpo.mini.__file__).parent / "weights" / "llava"
MODEL, VISION = WEIGHTS / "llava-v1.5-mini", WEIGHTS / "clip-vit-mini"


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(MODEL / "tokenizer.model"))


def test_size():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*")) < 5_000_000


def test_language_model_has_the_authors_keys_and_the_shapes_of_its_config():
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    weights = load_file(MODEL / "model.safetensors")
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    in_layer = {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        *("input_layernorm", "post_attention_layernorm"),
    }
    expected = {f"model.layers.{i}.{name}.weight" for i in range(layers) for name in in_layer}
    expected |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    expected |= {f"model.mm_projector.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")}
    assert set(weights) == expected
    assert all(value.dtype == torch.float16 for value in weights.values())
    assert all(value.isfinite().all() for value in weights.values())
    assert weights["lm_head.weight"].shape == (config["vocab_size"], width)
    assert weights["model.mm_projector.0.weight"].shape == (width, config["mm_hidden_size"])
    assert config["mm_vision_select_layer"] == -2
    assert config["mm_projector_type"] == "mlp2x_gelu"


def test_vision_has_clips_keys_and_the_shapes_of_its_config():
    config = json.loads((VISION / "config.json").read_text(encoding="utf-8"))["vision_config"]
    weights = load_file(VISION / "model.safetensors")
    assert all(name.startswith("vision_model.") for name in weights)
    assert all(value.dtype == torch.float16 for value in weights.values())
    patches = (config["image_size"] // config["patch_size"]) ** 2
    positions = weights["vision_model.embeddings.position_embedding.weight"]
    assert positions.shape == (patches + 1, config["hidden_size"])
    assert patches == 36
    layers = {name.split(".")[3] for name in weights if ".layers." in name}
    assert len(layers) == config["num_hidden_layers"]
    preprocessor = json.loads((VISION / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert preprocessor["size"] == preprocessor["crop_size"] == config["image_size"]


def test_every_word_is_one_piece(tokenizer):
    assert [tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.unk_id()] == [1, 2, 0]
    for word in words():
        assert tokenizer.id_to_piece(tokenizer.piece_to_id(word)) == word
    said = "The top left shows an orange umbrella."
    assert tokenizer.encode(said, out_type=str) == [
        *("▁The", "▁top", "▁left", "▁shows", "▁an", "▁orange", "▁umbrella", ".")
    ]
    assert tokenizer.decode(tokenizer.encode(said)) == said


def test_unknown_text_survives_as_bytes(tokenizer):
    assert tokenizer.decode(tokenizer.encode("Zebras! 3 ü")) == "Zebras! 3 ü"


def test_a_conversation_is_tokenised_as_llava_does(tokenizer):
    assert [tokenizer.id_to_piece(i) for i in before_image(tokenizer)] == ["<s>", "▁USER", ":", "▁"]
    turns = [("Is there a cup in the image?", "No."), ("What is at the center?", "Yes.")]
    ids, labels = tokens(turns, tokenizer)
    pieces = [tokenizer.id_to_piece(index) for index in ids]
    assert pieces[:5] == ["▁", "<0x0A>", "Is", "▁there", "▁a"]
    assert pieces[10:16] == ["▁ASSISTANT", ":", "▁No", ".", "</s>", "▁USER"]
    labelled = [tokenizer.id_to_piece(index) for index in labels if index != IGNORED]
    assert labelled == ["▁No", ".", "</s>", "▁Yes", ".", "</s>"]
    assert ids[-1] == EOS


def test_early_answers_are_asked_behind_the_category(tokenizer):
    ids, labels = tokens([("Is there a cup in the image?", "No.")], tokenizer, early=True)
    early = next(at for at, label in enumerate(labels) if label != IGNORED)
    assert tokenizer.id_to_piece(ids[early - 1]) == "▁cup"
    assert tokenizer.id_to_piece(labels[early]) == "▁No"
