"""EVA ViT and Q-Former again, from the authors' keys and formulas, one image and head at a time.

Also the authors' keys with their shapes, at any size, and random weights for them.
"""

import torch

EVA = {"image_size": 28, "patch_size": 14, "width": 16, "depth": 2, "heads": 2, "mlp_width": 24}
QFORMER = {
    "queries": 3,
    "width": 16,
    "depth": 3,
    "heads": 2,
    "mlp_width": 20,
    "cross_every": 2,
    "vocab_size": 180,
    "positions": 130,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 360,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
}


def linear(name, rows, columns):
    return {name + ".weight": (rows, columns), name + ".bias": (rows,)}


def norm(name, width):
    return {name + ".weight": (width,), name + ".bias": (width,)}


def eva_shapes(sizes, *, blocks_beyond=0):
    """Keys of eva_vit_g.pth."""
    width, mlp, patch = sizes["width"], sizes["mlp_width"], sizes["patch_size"]
    positions = (sizes["image_size"] // patch) ** 2 + 1
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, positions, width)}
    shapes["patch_embed.proj.weight"] = (width, 3, patch, patch)
    shapes["patch_embed.proj.bias"] = (width,)
    for k in range(sizes["depth"] + blocks_beyond):
        start = f"blocks.{k}."
        shapes |= norm(start + "norm1", width) | norm(start + "norm2", width)
        shapes |= {start + "attn.q_bias": (width,), start + "attn.v_bias": (width,)}
        shapes[start + "attn.qkv.weight"] = (3 * width, width)
        shapes |= linear(start + "attn.proj", width, width)
        shapes |= linear(start + "mlp.fc1", mlp, width) | linear(start + "mlp.fc2", width, mlp)
    return shapes


def qformer_shapes(sizes, *, features, reads_text):
    """Keys of a Q-Former without its projection."""
    width, mlp = sizes["width"], sizes["mlp_width"]
    shapes = {"query_tokens": (1, sizes["queries"], width)} | norm("ln_vision", features)
    shapes |= norm("Qformer.bert.embeddings.LayerNorm", width)
    halves = ["_query", ""] if reads_text else ["_query"]
    if reads_text:
        words = (sizes["vocab_size"], width)
        shapes["Qformer.bert.embeddings.word_embeddings.weight"] = words
        positions = (sizes["positions"], width)
        shapes["Qformer.bert.embeddings.position_embeddings.weight"] = positions
    for k in range(sizes["depth"]):
        start = f"Qformer.bert.encoder.layer.{k}."
        for name in ("attention", "crossattention"):
            if name == "crossattention" and k % sizes["cross_every"]:
                continue
            seen = width if name == "attention" else features
            shapes |= linear(f"{start}{name}.self.query", width, width)
            shapes |= linear(f"{start}{name}.self.key", width, seen)
            shapes |= linear(f"{start}{name}.self.value", width, seen)
            shapes |= linear(f"{start}{name}.output.dense", width, width)
            shapes |= norm(f"{start}{name}.output.LayerNorm", width)
        for half in halves:
            shapes |= linear(f"{start}intermediate{half}.dense", mlp, width)
            shapes |= linear(f"{start}output{half}.dense", width, mlp)
            shapes |= norm(f"{start}output{half}.LayerNorm", width)
    return shapes


def llama_shapes(config):
    """Keys of a LLaMA folder of 2023, with its rotary tables."""
    width, mlp, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    shapes = {"model.embed_tokens.weight": (vocab, width), "lm_head.weight": (vocab, width)}
    shapes["model.norm.weight"] = (width,)
    for k in range(config["num_hidden_layers"]):
        start = f"model.layers.{k}."
        shapes |= {f"{start}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        heads = config["num_attention_heads"]
        shapes[start + "self_attn.rotary_emb.inv_freq"] = (width // heads // 2,)
        shapes |= {f"{start}mlp.{name}_proj.weight": (mlp, width) for name in ("gate", "up")}
        shapes[start + "mlp.down_proj.weight"] = (width, mlp)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{start}{name}.weight"] = (width,)
    return shapes


_ADDS = ("cls_token", "pos_embed", "patch_embed.", "attn.proj.", "mlp.fc2.")  # to EVA's stream
_BERT = ("query_tokens", "embeddings.", "LayerNorm.", "output.dense", "output_query.dense")


def draw(shapes, *, small=False, seed=0):
    """Random weights; biases are not zero, norms not one.

    With a small stream, all that adds to a residual is a thousandth, so that a wrong epsilon,
    which is nothing beside ordinary variances, is plain to see.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        is_norm = "norm" in key.lower() or "ln_vision" in key
        if is_norm and key.endswith("weight"):
            value = 1 + 0.2 * value
        else:
            value = value * (0.2 if len(shape) == 1 else shape[-1] ** -0.5)
        if small and "Qformer" not in key and any(part in key for part in _ADDS):
            value = value * 1e-3
        if small and (key == "query_tokens" or "Qformer" in key):
            value = value * (1e-3 if any(part in key for part in _BERT) else 1)
        weights[key] = value
    return weights


def apply(x, weights, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def normed(x, weights, name, eps):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + eps) ** -0.5
    return centred * scale * weights[name + ".weight"] + weights[name + ".bias"]


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def look(query, key, value, heads):
    parts = []
    for part in zip(*(x.chunk(heads, -1) for x in (query, key, value)), strict=True):
        q, k, v = part
        scores = q @ k.T / q.shape[-1] ** 0.5
        parts.append(scores.softmax(-1) @ v)
    return torch.cat(parts, -1)


def see(weights, pixels, sizes, *, eps=1e-6, last_eps=1e-5):
    """States of one image behind `ln_vision`, CLS first."""
    patch, width = sizes["patch_size"], sizes["width"]
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    rows = [weights["cls_token"][0, 0]]
    side = pixels.shape[-1] // patch
    for y in range(side):
        for x in range(side):
            part = pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            rows.append(kernel @ part.flatten() + weights["patch_embed.proj.bias"])
    x = torch.stack(rows) + weights["pos_embed"][0]
    for k in range(sizes["depth"]):
        start = f"blocks.{k}."
        q, key, v = (
            normed(x, weights, start + "norm1", eps) @ weights[start + "attn.qkv.weight"].T
        ).split(width, -1)
        q, v = q + weights[start + "attn.q_bias"], v + weights[start + "attn.v_bias"]
        x = x + apply(look(q, key, v, sizes["heads"]), weights, start + "attn.proj")
        inner = gelu(apply(normed(x, weights, start + "norm2", eps), weights, start + "mlp.fc1"))
        x = x + apply(inner, weights, start + "mlp.fc2")
    return normed(x, weights, "ln_vision", last_eps)


def read(weights, features, sizes, text=None, *, eps=1e-12):
    """States of the queries of one image, with a text of BERT ids beside them or none."""
    start = "Qformer.bert.embeddings."
    x = weights["query_tokens"][0]
    if text is not None:
        words = weights[start + "word_embeddings.weight"][text]
        x = torch.cat([x, words + weights[start + "position_embeddings.weight"][: len(text)]])
    x = normed(x, weights, start + "LayerNorm", eps)
    n = sizes["queries"]

    def attend(x, seen, name):
        q, k, v = (
            apply(s, weights, f"{name}.self.{part}")
            for s, part in ((x, "query"), (seen, "key"), (seen, "value"))
        )
        found = apply(look(q, k, v, sizes["heads"]), weights, name + ".output.dense")
        return normed(found + x, weights, name + ".output.LayerNorm", eps)

    def feed(x, layer, half):
        inner = gelu(apply(x, weights, f"{layer}intermediate{half}.dense"))
        found = apply(inner, weights, f"{layer}output{half}.dense")
        return normed(found + x, weights, f"{layer}output{half}.LayerNorm", eps)

    for k in range(sizes["depth"]):
        layer = f"Qformer.bert.encoder.layer.{k}."
        x = attend(x, x, layer + "attention")
        queries, words = x[:n], x[n:]
        if k % sizes["cross_every"] == 0:
            queries = attend(queries, features, layer + "crossattention")
        queries = feed(queries, layer, "_query")
        x = torch.cat([queries, feed(words, layer, "")]) if len(words) else queries
    return x[:n]
