"""A tiny random mPLUG-Owl in its authors' layout, at ordinary scales or with a small stream."""

import json
import shutil

import pytest

OWL = {
    "model_type": "mplug-owl",
    "num_query_tokens": 3,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "layer_norm_eps": 1e-6,
        "hidden_act": "quick_gelu",
    },
    "visual_abstractor_config": {
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-6,
    },
    "text_config": {
        "model_type": "llama",
        "vocab_size": 360,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512,
    },
}


def owl_shapes(config):
    """Every key of the authors' file and its shape, from the published table of keys."""
    eye, resampler, text = (
        config[name] for name in ("vision_config", "visual_abstractor_config", "text_config")
    )
    v, i, patch = eye["hidden_size"], eye["intermediate_size"], eye["patch_size"]
    a, m, seen = (
        resampler[key] for key in ("hidden_size", "intermediate_size", "encoder_hidden_size")
    )
    h, f, n = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    norms, linears, plain = {}, {}, {}
    plain["query_tokens"] = (1, config["num_query_tokens"], a)
    plain["vision_model.embeddings.cls_token"] = (1, 1, v)
    positions = (eye["image_size"] // patch) ** 2 + 1
    plain["vision_model.embeddings.position_embedding"] = (1, positions, v)
    plain["vision_model.embeddings.patch_embed.weight"] = (v, 3, patch, patch)
    norms["vision_model.embeddings.pre_layernorm"] = v
    norms["vision_model.post_layernorm"] = v
    for k in range(eye["num_hidden_layers"]):
        start = f"vision_model.encoder.layers.{k}."
        norms[start + "input_layernorm"] = norms[start + "post_attention_layernorm"] = v
        linears[start + "self_attn.query_key_value"] = (3 * v, v)
        linears[start + "self_attn.dense"] = (v, v)
        linears[start + "mlp.fc1"], linears[start + "mlp.fc2"] = (i, v), (v, i)
    for k in range(resampler["num_hidden_layers"]):
        start = f"abstractor.encoder.layers.{k}.crossattention."
        norms[start + "norm1"] = norms[start + "output.norm2"] = a
        norms[start + "normk"], norms[start + "output.mlp.ffn_ln"] = seen, m
        linears[start + "attention.query"] = (a, a)
        linears[start + "attention.key"] = linears[start + "attention.value"] = (a, seen)
        linears[start + "output.out_proj"] = (a, a)
        linears[start + "output.mlp.w1"] = linears[start + "output.mlp.w3"] = (m, a)
        linears[start + "output.mlp.w2"] = (a, m)
    linears["abstractor.visual_fc"] = (h, a)
    plain["abstractor.vit_eos"] = (1, 1, h)
    plain["language_model.model.embed_tokens.weight"] = (n, h)
    plain["language_model.lm_head.weight"] = (n, h)
    plain["language_model.model.norm.weight"] = (h,)
    for k in range(text["num_hidden_layers"]):
        start = f"language_model.model.layers.{k}."
        for name in "qkvo":
            plain[f"{start}self_attn.{name}_proj.weight"] = (h, h)
        plain[start + "self_attn.rotary_emb.inv_freq"] = (h // text["num_attention_heads"] // 2,)
        plain[start + "mlp.gate_proj.weight"] = plain[start + "mlp.up_proj.weight"] = (f, h)
        plain[start + "mlp.down_proj.weight"] = (h, f)
        plain[start + "input_layernorm.weight"] = (h,)
        plain[start + "post_attention_layernorm.weight"] = (h,)
    for name, width in norms.items():
        plain |= {name + ".weight": (width,), name + ".bias": (width,)}
    for name, shape in linears.items():
        plain |= {name + ".weight": shape, name + ".bias": shape[:1]}
    return plain


def owl_weights(config, *, small=False):
    """Random weights; biases are not zero, norms not one.

    With a small stream, everything that adds to a residual is a thousandth, so that a wrong
    epsilon, which is nothing beside ordinary variances, becomes plain to see.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in owl_shapes(config).items():
        value = torch.randn(shape, generator=generator)
        is_norm = "norm" in key or "ffn_ln" in key
        if is_norm and key.endswith("weight"):
            value = 1 + 0.2 * value
        elif len(shape) == 1:
            value = 0.2 * value
        else:
            value = value * shape[-1] ** -0.5
        weights[key] = value
    if small:
        adds = ("cls_token", "position_embedding", "patch_embed.weight", "query_tokens")
        adds += ("pre_layernorm.", "post_layernorm.", "norm1.", "dense.", "fc2.", "out_proj.")
        adds += ("w2.", "embed_tokens.", "o_proj.", "down_proj.")
        for key in weights:
            if any(part in key + "." for part in adds):
                weights[key] = weights[key] * 1e-3
            elif ".w1." in key or ".w3." in key:
                weights[key] = weights[key] * 0.03
            elif "visual_fc.weight" in key:
                weights[key] = weights[key] * 1e3
    return weights


@pytest.fixture
def make_owl(tmp_path, tiny_files):
    """Writes a checkpoint folder; gives back the folder and the weights in it."""
    import torch

    def make(*, small=False, config=OWL, weights=None, name="mplug-owl-llama-tiny"):
        folder = tmp_path / name
        folder.mkdir()
        weights = owl_weights(config, small=small) if weights is None else weights
        torch.save(weights, folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(config))
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        processor = {"resolution": 28, "image_mean": mean, "image_std": std}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        shutil.copy(tiny_files["language_model"] / "tokenizer.model", folder)
        return folder, weights

    make.config, make.shapes = OWL, owl_shapes
    return make
