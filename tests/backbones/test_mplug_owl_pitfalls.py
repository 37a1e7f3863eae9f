"""Each known way to get mPLUG-Owl wrong, against a plain restatement of the authors' formulas.

The restatement works on the authors' own keys in float64, one head at a time. Ours must equal it,
and must be far from what it gives with the pitfall put in. Epsilons are looked at where they show:
on weights with a small residual stream.
"""

import pytest
import torch

from hadpo import backbones

EXACT = 1e-9  # float64 against float64


def norm(x, weights, name, eps):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + eps) ** -0.5
    return centred * scale * weights[name + ".weight"] + weights[name + ".bias"]


def linear(x, weights, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def silu(x):
    return x / (1 + torch.exp(-x))


def look(query, key, value):
    scores = query @ key.T / query.shape[-1] ** 0.5
    return scores.softmax(-1) @ value


def see(
    weights, pixels, config, *, eps=1e-6, act=quick_gelu, heads_first=True, pre=True, post=True
):
    """One image; its normed states, CLS first."""
    heads, patch = config["num_attention_heads"], config["patch_size"]
    start = "vision_model.embeddings."
    kernel = weights[start + "patch_embed.weight"].flatten(1)
    rows = [weights[start + "cls_token"][0, 0]]
    side = pixels.shape[-1] // patch
    for y in range(side):
        for x in range(side):
            part = pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            rows.append(kernel @ part.flatten())
    x = torch.stack(rows) + weights[start + "position_embedding"][0]
    if pre:
        x = norm(x, weights, start + "pre_layernorm", eps)
    for k in range(config["num_hidden_layers"]):
        name = f"vision_model.encoder.layers.{k}."
        fused = linear(
            norm(x, weights, name + "input_layernorm", eps),
            weights,
            name + "self_attn.query_key_value",
        )
        size = fused.shape[-1] // heads // 3
        seen = []
        for head in range(heads):
            if heads_first:
                parts = [fused[:, (3 * head + j) * size :][:, :size] for j in range(3)]
            else:
                parts = [fused[:, (j * heads + head) * size :][:, :size] for j in range(3)]
            seen.append(look(*parts))
        x = x + linear(torch.cat(seen, -1), weights, name + "self_attn.dense")
        y = norm(x, weights, name + "post_attention_layernorm", eps)
        y = act(linear(y, weights, name + "mlp.fc1"))
        x = x + linear(y, weights, name + "mlp.fc2")
    return norm(x, weights, "vision_model.post_layernorm", eps) if post else x


def abstract(
    weights,
    features,
    config,
    *,
    eps=1e-5,
    eps_mlp=1e-6,
    act=silu,
    from_normed=True,
    sees_itself=True,
    cls=True,
    end=True,
):
    """One image's tokens."""
    heads = config["num_attention_heads"]
    x = weights["query_tokens"][0]
    features = features if cls else features[1:]
    for k in range(config["num_hidden_layers"]):
        name = f"abstractor.encoder.layers.{k}.crossattention."
        normed = norm(x, weights, name + "norm1", eps)
        keys = norm(features, weights, name + "normk", eps)
        keys = torch.cat([normed, keys]) if sees_itself else keys
        parts = [
            linear(side, weights, f"{name}attention.{part}").chunk(heads, -1)
            for part, side in (("query", normed), ("key", keys), ("value", keys))
        ]
        seen = torch.cat([look(*head) for head in zip(*parts, strict=True)], -1)
        x = (normed if from_normed else x) + linear(seen, weights, name + "output.out_proj")
        y = norm(x, weights, name + "output.norm2", eps)
        gated = act(linear(y, weights, name + "output.mlp.w1")) * linear(
            y, weights, name + "output.mlp.w3"
        )
        gated = norm(gated, weights, name + "output.mlp.ffn_ln", eps_mlp)
        x = x + linear(gated, weights, name + "output.mlp.w2")
    tokens = linear(x, weights, "abstractor.visual_fc")
    last = weights["abstractor.vit_eos"][0]
    return torch.cat([tokens, last if end else last * 0])


def rms(x, weight, eps):
    return x * (x.pow(2).mean(-1, keepdim=True) + eps) ** -0.5 * weight


def turn(x):
    """Rotary positions of one head: pairs (i, i + size / 2)."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x)).double()[:, None] * 10000.0 ** -(torch.arange(half) / half)
    a, b = x[:, :half], x[:, half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def speak(weights, x, config, *, eps=1e-6):
    """LLaMA's states behind the last norm, for one text."""
    heads = config["num_attention_heads"]
    hidden_future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for k in range(config["num_hidden_layers"]):
        layer = {
            key.removeprefix(f"language_model.model.layers.{k}."): value
            for key, value in weights.items()
        }
        y = rms(x, layer["input_layernorm.weight"], eps)
        q, key, v = (
            (y @ layer[f"self_attn.{n}_proj.weight"].T).chunk(heads, -1) for n in ("q", "k", "v")
        )
        seen = []
        for i in range(heads):
            scores = turn(q[i]) @ turn(key[i]).T / q[i].shape[-1] ** 0.5
            seen.append(scores.masked_fill(hidden_future, -torch.inf).softmax(-1) @ v[i])
        x = x + torch.cat(seen, -1) @ layer["self_attn.o_proj.weight"].T
        y = rms(x, layer["post_attention_layernorm.weight"], eps)
        y = silu(y @ layer["mlp.gate_proj.weight"].T) * (y @ layer["mlp.up_proj.weight"].T)
        x = x + y @ layer["mlp.down_proj.weight"].T
    return rms(x, weights["language_model.model.norm.weight"], eps)


PITFALLS = {  # name -> which stream shows it, and what it changes in `see` or `abstract`
    "qkv as [3, heads, size]": ("ordinary", see, {"heads_first": False}),
    "post_layernorm dropped": ("ordinary", see, {"post": False}),
    "pre_layernorm dropped": ("ordinary", see, {"pre": False}),
    "vision eps 1e-5": ("small", see, {"eps": 1e-5}),
    "vision act gelu": ("ordinary", see, {"act": gelu}),
    "abstractor eps 1e-6": ("small", abstract, {"eps": 1e-6}),
    "ffn_ln eps 1e-5": ("small", abstract, {"eps_mlp": 1e-5}),
    "abstractor act gelu": ("ordinary", abstract, {"act": gelu}),
    "residual from the un-normed queries": ("ordinary", abstract, {"from_normed": False}),
    "vit_eos zero": ("ordinary", abstract, {"end": False}),
    "CLS removed": ("ordinary", abstract, {"cls": False}),
    "queries left out of the keys": ("ordinary", abstract, {"sees_itself": False}),
}


def ours(folder):
    files = {"language_model": folder}
    return backbones.load("mplug_owl/llama-7b", files, dtype="float32", device="cpu").double()


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", PITFALLS)
def test_pitfall(make_owl, name):
    stream, where, wrong = PITFALLS[name]
    folder, weights = make_owl(small=stream == "small")
    weights = {key: value.double() for key, value in weights.items()}
    backbone = ours(folder)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        features = backbone.features(pixels)
        tokens = backbone.connect(features, ())
    eye, resampler = make_owl.config["vision_config"], make_owl.config["visual_abstractor_config"]
    for i in range(2):
        found = features[i] if where is see else tokens[i]
        source, config = (pixels[i], eye) if where is see else (features[i], resampler)
        assert relative(found, where(weights, source, config)) < EXACT
        assert relative(found, where(weights, source, config, **wrong)) > 1e-3, "pitfall unseen"


def test_pitfall_rms_eps(make_owl, float64_norm):
    folder, weights = make_owl(small=True)
    weights = {key: value.double() for key, value in weights.items()}
    backbone = ours(folder)
    ids = torch.randint(3, 360, (1, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mask = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
        found = backbone.hidden_states(backbone.embed(ids), mask, torch.arange(9)[None])[0]
    embeds, config = backbone.embed(ids)[0], make_owl.config["text_config"]
    assert relative(found, speak(weights, embeds, config)) < 1e-6  # rotary tables are float32
    assert relative(found, speak(weights, embeds, config, eps=1e-5)) > 0.1
