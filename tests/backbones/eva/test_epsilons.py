"""Encoder and Q-Former against a plain restatement, and what a wrong epsilon does.

At ordinary scales an epsilon is too small to see: it is put into weights with a small residual
stream.
"""

import pytest
import torch
from torch import nn

from hadpo import backbones

SMALL = ["minigpt4/llama2", "minigpt4/vicuna0", "instructblip/vicuna7b"]
TEXT = "Is there a dog in the image?"


def compare(restated, backbone, weights):
    """Relative differences from the restatement, in float64: behind `ln_vision`, and of queries."""
    backbone = backbone.double()
    weights = {key: value.double() for key, value in weights.items()}
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn(3, 28, 28, generator=generator, dtype=torch.float64)
    if "ln_vision.weight" not in weights:
        width = restated.EVA["width"]
        weights |= {"ln_vision.weight": torch.ones(width), "ln_vision.bias": torch.zeros(width)}
    seen = restated.see(weights, pixels, restated.EVA)
    with torch.no_grad():
        features = backbone.features(pixels[None])[0]
    found = {"features": (features - seen).abs().max() / seen.abs().max()}
    if "query_tokens" in weights:
        text = mask = None
        if backbone.image_tokens_depend_on_instruction:
            text = torch.tensor([backbone.word_pieces.encode(TEXT)])
            mask = torch.ones_like(text, dtype=torch.bool)
        queries = restated.read(weights, seen, restated.QFORMER, None if text is None else text[0])
        with torch.no_grad():
            states = backbone.connector.states(seen[None], text, mask)[0, : len(queries)]
        found["queries"] = (states - queries).abs().max() / queries.abs().max()
    return {name: float(value) for name, value in found.items()}


def block_eps(backbone):
    for layer in backbone.vision.encoder.layers:
        layer.layer_norm1.eps = layer.layer_norm2.eps = 1e-5


def last_eps(backbone):
    backbone.vision.ln_vision.eps = 1e-6


def bert_eps(backbone):
    for module in backbone.connector.transformer.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


EPSILONS = [
    (name, put_in, what)
    for name in SMALL
    for put_in, what in ((block_eps, "features"), (last_eps, "features"), (bert_eps, "queries"))
    if not (put_in is bert_eps and name == "minigpt4/llama2")
]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_ours_is_the_restatement(make, restated, name, small):
    files, weights = make(name, small=small)
    backbone = backbones.load(name, files, dtype="float32", device="cpu")
    found = compare(restated, backbone, weights)
    assert found and max(found.values()) < 1e-7, found


@pytest.mark.parametrize(("name", "put_in", "what"), EPSILONS)
def test_a_wrong_epsilon_shows_in_a_small_stream(make, restated, name, put_in, what):
    files, weights = make(name, small=True)
    backbone = backbones.load(name, files, dtype="float32", device="cpu")
    put_in(backbone)
    assert compare(restated, backbone, weights)[what] > 1e-3
