"""Each known way to get LLaVA wrong, against a plain restatement of the authors' formulas.

The restatement works on the authors' own keys in float64, one head at a time. Ours must equal it,
and must be far from what it gives with the pitfall put in. Epsilons are looked at where they show:
on weights with a small residual stream.
"""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hadpo import backbones

EXACT = 1e-9  # float64 against float64
ADDS = ("class_embedding", "patch_embedding", "position_embedding", "pre_layrnorm", "out_proj")
ADDS += ("fc2", "embed_tokens", "o_proj", "down_proj")  # what adds to a residual stream


def norm(x, weights, name, eps):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + eps) ** -0.5
    return centred * scale * weights[name + ".weight"] + weights[name + ".bias"]


def rms(x, weight, eps):
    return x * (x.pow(2).mean(-1, keepdim=True) + eps) ** -0.5 * weight


def linear(x, weights, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def gelu_tanh(x):
    return x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2


def attend(query, key, value, heads, *, causal=False):
    found = []
    for q, k, v in zip(*(x.chunk(heads, -1) for x in (query, key, value)), strict=True):
        scores = q @ k.T / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        found.append(scores.softmax(-1) @ v)
    return torch.cat(found, -1)


def see(weights, pixels, *, eps=1e-5, act=quick_gelu, pre=True, leave_out=1, cls=False):
    """Patches of one image: 14 pixels each, 2 heads, 3 layers of which the last is unused."""
    start = "vision_model."
    kernel = weights[start + "embeddings.patch_embedding.weight"].flatten(1)
    rows = [weights[start + "embeddings.class_embedding"]]
    for y in range(2):
        for x in range(2):
            rows.append(kernel @ pixels[:, y * 14 : y * 14 + 14, x * 14 : x * 14 + 14].flatten())
    x = torch.stack(rows) + weights[start + "embeddings.position_embedding.weight"]
    if pre:
        x = norm(x, weights, start + "pre_layrnorm", eps)
    for k in range(3 - leave_out):
        name = f"{start}encoder.layers.{k}."
        y = norm(x, weights, name + "layer_norm1", eps)
        qkv = [linear(y, weights, f"{name}self_attn.{n}_proj") for n in "qkv"]
        x = x + linear(attend(*qkv, 2), weights, name + "self_attn.out_proj")
        y = act(linear(norm(x, weights, name + "layer_norm2", eps), weights, name + "mlp.fc1"))
        x = x + linear(y, weights, name + "mlp.fc2")
    return x if cls else x[1:]


def connect(weights, features, *, act=gelu):
    start = "model.mm_projector."
    return linear(act(linear(features, weights, start + "0")), weights, start + "2")


def turn(x, heads, theta):
    """Rotary positions, half against half."""
    parts = []
    for part in x.chunk(heads, -1):
        half = part.shape[-1] // 2
        angle = torch.arange(len(x))[:, None] * theta ** (-torch.arange(half) / half)[None]
        a, b = part[:, :half], part[:, half:]
        parts += [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
    return torch.cat(parts, -1)


def speak(weights, x, *, eps=1e-5, theta=10000.0):
    """States after the final norm; 4 heads, 2 layers."""
    theta = torch.tensor(theta, dtype=torch.float64)
    for k in range(2):
        layer = {n.removeprefix(f"model.layers.{k}."): v for n, v in weights.items()}
        y = rms(x, layer["input_layernorm.weight"], eps)
        q, key, v = (y @ layer[f"self_attn.{n}_proj.weight"].T for n in "qkv")
        y = attend(turn(q, 4, theta), turn(key, 4, theta), v, 4, causal=True)
        x = x + y @ layer["self_attn.o_proj.weight"].T
        y = rms(x, layer["post_attention_layernorm.weight"], eps)
        gate = y @ layer["mlp.gate_proj.weight"].T
        y = gate / (1 + torch.exp(-gate)) * (y @ layer["mlp.up_proj.weight"].T)
        x = x + y @ layer["mlp.down_proj.weight"].T
    return rms(x, weights["model.norm.weight"], eps)


@pytest.fixture
def make(tiny_files, tmp_path):
    """The tiny LLaVA in float64, and all weights by the authors' keys; perhaps a small stream."""

    def load(*, small):
        files = {}
        weights = {}
        for part, place in tiny_files.items():
            files[part] = tmp_path / part
            shutil.copytree(place, files[part])
        own = load_file(files["language_model"] / "model.safetensors")
        tower = torch.load(files["vision"] / "pytorch_model.bin", weights_only=True)
        for table in (own, tower):
            for key in table:
                if small and any(name in key for name in ADDS):
                    table[key] = table[key] * 1e-3
        save_file(own, files["language_model"] / "model.safetensors")
        torch.save(tower, files["vision"] / "pytorch_model.bin")
        assert json.loads((files["vision"] / "config.json").read_text())["model_type"] == "clip"
        weights = {key: value.double() for key, value in (own | tower).items()}
        backbone = backbones.load("llava/mini", files, dtype="float32", device="cpu")
        return backbone.double(), weights

    return load


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


SEEN = {  # name -> whether a small stream shows it, and what it changes in `see`
    "select_layer -1": (False, {"leave_out": 0}),
    "vision act gelu": (False, {"act": gelu}),
    "vision eps 1e-6": (True, {"eps": 1e-6}),
    "pre_layrnorm dropped": (False, {"pre": False}),
}


@pytest.mark.parametrize("name", SEEN)
def test_pitfall_of_the_encoder(make, name):
    small, wrong = SEEN[name]
    backbone, weights = make(small=small)
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        found = backbone.features(pixels)[0]
    assert relative(found, see(weights, pixels[0])) < EXACT
    assert relative(found, see(weights, pixels[0], **wrong)) > 1e-3, "pitfall unseen"


def test_pitfall_gelu_of_the_projector(make):
    backbone, weights = make(small=False)
    features = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        found = backbone.connect(features, ())[0]
    assert relative(found, connect(weights, features[0])) < EXACT
    assert relative(found, connect(weights, features[0], act=gelu_tanh)) > 1e-5, "pitfall unseen"


@pytest.mark.parametrize(
    ("small", "wrong"),
    [(True, {"eps": 1e-6}), (False, {"theta": 500000.0})],
    ids=["rms eps 1e-6", "rope theta"],
)
def test_pitfall_of_the_language_model(make, float64_norm, small, wrong):
    backbone, weights = make(small=small)
    ids = torch.randint(3, 360, (1, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        mask = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
        found = backbone.hidden_states(backbone.embed(ids), mask, torch.arange(9)[None])[0]
    embeds = backbone.embed(ids)[0]
    assert relative(found, speak(weights, embeds)) < 1e-6  # rotary tables are float32
    assert relative(found, speak(weights, embeds, **wrong)) > 1e-2, "pitfall unseen"
