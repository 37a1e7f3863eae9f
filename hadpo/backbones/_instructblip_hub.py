"""InstructBLIP as transformers publishes it: one folder with all parts under other names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig

from hadpo.backbones import _checkpoint
from hadpo.backbones._eva import EvaSizes
from hadpo.backbones._llama_folder import LlamaFolder
from hadpo.backbones._qformer import QFormerSizes
from hadpo.records import BadInput

_EVA_SIZES = {  # `vision_config` -> ours
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
}
_QFORMER_SIZES = {  # `qformer_config` -> ours
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "cross_attention_frequency": "cross_every",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "positions",
}
# Published files have no prefix and a head inside the language model; transformers 5 saves both so
# or with "model." in front and the head outside.
LANGUAGE_KEYS = {
    "language_model.model.{}": "model.{}",
    "language_model.lm_head.weight": "lm_head.weight",
    "model.language_model.{}": "model.{}",
    "lm_head.weight": "lm_head.weight",
}
_KEYS = {
    "query_tokens": "connector.query_tokens",
    "qformer.{}": "connector.transformer.{}",
    "language_projection.{}": "connector.projection.{}",
    "vision_model.post_layernorm.{}": "vision.ln_vision.{}",
    "vision_model.{}": "vision.{}",
}
KEYS = _KEYS | {f"model.{theirs}": ours for theirs, ours in _KEYS.items()}
_STORED = {
    "{}inv_freq": "rotary tables are computed in float32",
    "{}position_ids": "positions are counted, not stored",
}
_LANGUAGE = "read as the part language_model"
_OTHERS = "read as the parts vision and qformer"


def is_hub(folder: Path) -> bool:
    """Whether this is transformers' folder of a whole InstructBLIP."""
    path = folder / "config.json"
    return path.is_file() and "qformer_config" in _checkpoint.read_json(path)


def open_llama(folder: Path) -> LlamaFolder:
    """The language model's config and tokenizer; BadInput where it is no LLaMA."""
    config = _checkpoint.read_json(folder / "config.json")
    text = {key: value for key, value in config.get("text_config", {}).items() if key != "dtype"}
    if text.get("model_type") != "llama":
        kind = text.get("model_type")
        raise BadInput(f"{folder}/config.json: text_config is of {kind!r}, expected a Vicuna")
    # transformers leaves out of the file what is LLaMA's default
    return LlamaFolder.of(folder, LlamaConfig(**text).to_dict())


def sizes(folder: Path) -> tuple[EvaSizes, QFormerSizes]:
    """Sizes of encoder and Q-Former."""
    config = _checkpoint.read_json(folder / "config.json")
    queries = {"queries": config["num_query_tokens"]} if "num_query_tokens" in config else {}
    eva = _renamed(config.get("vision_config", {}), _EVA_SIZES)
    default = {"vocab_size": 30522}  # transformers', which it leaves out of the file
    qformer = _renamed(default | config["qformer_config"], _QFORMER_SIZES)
    return EvaSizes(**eva), QFormerSizes(**qformer, **queries)


def fill_language(
    model: nn.Module, folder: Path, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Fill the language model."""
    others = {key: _OTHERS for key in KEYS if key not in LANGUAGE_KEYS}
    _fill(model, folder, LANGUAGE_KEYS, others, dtype=dtype, device=device)


def fill_others(
    parts: Mapping[str, nn.Module], folder: Path, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Fill `vision` and `connector`."""
    others = dict.fromkeys(LANGUAGE_KEYS, _LANGUAGE)
    _fill(nn.ModuleDict(dict(parts)), folder, KEYS, others, dtype=dtype, device=device)


def _fill(
    module: nn.Module,
    folder: Path,
    keys: Mapping[str, str],
    others: Mapping[str, str],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    _checkpoint.fill(
        module,
        _checkpoint.weight_files(folder, what="language_model"),
        keys=keys,
        ignored={**others, **_STORED},
        dtype=dtype,
        device=device,
    )


def _renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, int]:
    return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
