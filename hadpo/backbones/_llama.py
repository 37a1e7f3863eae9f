"""The language model of all four families: LLaMA, built from a checkpoint's config."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hadpo.backbones import _attention
from hadpo.records import BadInput

# What `config.json` must say, and what LLaMA-1 files leave to LLaMA's own defaults.
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps")
_OPTIONAL = {
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
    "head_dim": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Checkpoints of 2023 store the rotary tables; rounded to fp16 they would move the logits.
STORED_TABLES = {
    "model.layers.{}.rotary_emb.inv_freq": "rotary tables are computed in float32",
    "model.rotary_emb.inv_freq": "rotary tables are computed in float32",
    "{}position_ids": "positions are counted, not stored",
}


def build(config: Mapping[str, Any], *, where: str) -> LlamaForCausalLM:
    """An empty LLaMA on the meta device; only its rotary tables are real, in float32.

    Args:
        config: the checkpoint's `config.json`, or the `text_config` in it.
        where: the file, for error messages.

    Raises:
        BadInput: a size is missing.
    """
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise BadInput(f"{where}: no {', '.join(missing)}; a LLaMA config.json has them")
    values = {key: config[key] for key in _REQUIRED}
    values |= {key: config.get(key, default) for key, default in _OPTIONAL.items()}
    if isinstance(config.get("rope_parameters"), Mapping):
        values["rope_parameters"] = dict(config["rope_parameters"])
    else:
        values["rope_theta"] = config.get("rope_theta") or 10000.0
        values["rope_scaling"] = config.get("rope_scaling")
    llama = LlamaConfig(tie_word_embeddings=False, use_cache=False, **values)
    llama._attn_implementation = _attention.NAME
    with init_empty_weights(include_buffers=False):
        return LlamaForCausalLM(llama)


def causal_mask(real: Bool[Tensor, "rows length"]) -> Bool[Tensor, "rows 1 length length"]:
    """Mask of right-padded rows: True where a query may look; padded queries keep a causal row."""
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    return (causal & real[:, None, :])[:, None]


def forward(
    model: LlamaForCausalLM,
    embeds: Float[Tensor, "rows length width"],
    mask: Bool[Tensor, "rows 1 length seen"],
    positions: Int[Tensor, "rows length"],
    cache: Any = None,
    *,
    prefix: _attention.Prefix | None = None,
    parts: Sequence[_attention.Parts] | None = None,
) -> Float[Tensor, "rows length width"]:
    """Hidden states after the final norm.

    The mask is passed to attention as it is; with `parts`, which say the same, it is not looked at.
    """
    shared = {"prefix": prefix, "parts": parts}
    output = model.model(
        inputs_embeds=embeds,
        attention_mask=mask,  # type: ignore[arg-type]
        position_ids=positions,  # type: ignore[arg-type]
        past_key_values=cache,
        use_cache=cache is not None,
        **{name: value for name, value in shared.items() if value is not None},
    )
    return output.last_hidden_state
