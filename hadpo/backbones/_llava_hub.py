"""A LLaVA written as transformers keeps it, whole: for everybody who loads models with that."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hadpo.backbones import _checkpoint, _clip
from hadpo.records import write_text

KEYS = {  # ours -> transformers' folder, by the published names
    "language_model.{}": "language_model.{}",
    "connector.0.{}": "multi_modal_projector.linear_1.{}",
    "connector.2.{}": "multi_modal_projector.linear_2.{}",
}
_TOWER = "vision_tower.vision_model."
_ROWS = 64  # the vocabulary becomes a multiple of it: room for <image>, as in the published folders
_TEXT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps"),
    *("rope_theta", "rope_scaling", "attention_bias", "head_dim"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)


def save(
    folder: Path,
    parts: Mapping[str, nn.Module],
    *,
    original_config: Mapping[str, Any],
    image_tokens: int,
    vision_folder: Path,
    tokenizer: Path,
    dtype: torch.dtype,
) -> None:
    """Write a folder for `LlavaForConditionalGeneration`.

    Args:
        folder: loses the weights that it had.
        parts: `language_model` and `connector`.
        original_config: the authors' `config.json`.
        image_tokens: of one image.
        vision_folder: of CLIP; its tower is copied whole, with the layers that LLaVA leaves out.
        tokenizer: `tokenizer.model`.
        dtype: of the files.
    """
    vocab = int(original_config["vocab_size"])
    rows = -(-(vocab + 1) // _ROWS) * _ROWS
    weights = {}
    for part, module in parts.items():
        for name, value in module.state_dict().items():
            key = _checkpoint.translate(f"{part}.{name}", KEYS)
            assert key is not None  # the table covers both parts
            if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                value = torch.cat([value[:vocab], value.new_zeros(rows - vocab, value.shape[1])])
            weights[key] = value
    weights |= {_TOWER + name: value for name, value in _tower(vision_folder)}
    folder.mkdir(parents=True, exist_ok=True)
    _checkpoint.write_tensors(folder, weights, shard_bytes=_checkpoint.SHARD_BYTES, dtype=dtype)
    vision = _checkpoint.read_json(vision_folder / "config.json")
    text = {key: original_config[key] for key in _TEXT if original_config.get(key) is not None}
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": vocab,
        "image_seq_length": image_tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": original_config["mm_vision_select_layer"],
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "text_config": {**text, "model_type": "llama", "vocab_size": rows},
        "vision_config": {
            **vision.get("vision_config", vision),
            "model_type": "clip_vision_model",
        },
    }
    write_text(folder / "config.json", json.dumps(config, indent=1))
    for path in [*tokenizer.parent.glob("*token*"), vision_folder / "preprocessor_config.json"]:
        if path.suffix in (".model", ".json") and path.is_file() and path.parent != folder:
            shutil.copyfile(path, folder / path.name)


def _tower(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The encoder's weights by their names inside it, from CLIP's folder or transformers'."""
    for path in _checkpoint.weight_files(folder, what="vision"):
        for key, value in _checkpoint.read_tensors(path):
            name = _checkpoint.translate(key, _clip.KEYS)
            if name is not None and not name.endswith("position_ids"):
                yield name, value.clone()
