"""A LLaMA folder, as Meta's and Vicuna's weights are passed around: config, tokenizer, weights."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from hadpo.backbones import _checkpoint, _llama
from hadpo.backbones._tokenizer import LlamaTokenizer
from hadpo.records import BadInput, write_text

PUBLISHED_WIDTHS = {4096: "7b", 5120: "13b"}
_LEAST_NORM = 0.05  # mean of the last norm's weights: around 1 in a LLaMA, nearly 0 in a difference
KEYS = {"model.{}": "model.{}", "lm_head.weight": "lm_head.weight"}


@dataclass(frozen=True, kw_only=True)
class LlamaFolder:
    """What a folder holds beside its weights; `model` is still empty, on the meta device."""

    path: Path
    config: dict[str, Any]
    tokenizer: LlamaTokenizer
    model: LlamaForCausalLM

    @staticmethod
    def open(path: Path) -> "LlamaFolder":
        """Read config and tokenizer.

        Raises:
            BadInput: a file is missing or broken, or they are of different models.
        """
        config = _checkpoint.read_json(path / "config.json")
        return LlamaFolder.of(path, config)

    @staticmethod
    def of(path: Path, config: Mapping[str, Any]) -> "LlamaFolder":
        """The folder with a config that was read elsewhere; errors as in `open`."""
        where = str(path / "config.json")
        kind = config.get("model_type", "llama")
        if kind != "llama":
            raise BadInput(f"{where}: model_type {kind!r}; expected a plain LLaMA folder")
        tokenizer = LlamaTokenizer(path)
        model = _llama.build(config, where=where)
        tokenizer.check_rows(model.config.vocab_size, where=str(where))
        return LlamaFolder(path=path, config=dict(config), tokenizer=tokenizer, model=model)

    def check_width(self, wanted: int, *, name: str) -> None:
        """Refuse the published size of another variant; sizes that were never published pass.

        Raises:
            BadInput: for example a 13B folder for a 7B variant.
        """
        width = self.model.config.hidden_size
        check_width(self.path / "config.json", width, wanted, name=name)


def check_width(path: Path, width: int, wanted: int, *, name: str) -> None:
    """As `LlamaFolder.check_width`, of the `config.json` at `path`."""
    if width != wanted and width in PUBLISHED_WIDTHS:
        raise BadInput(
            f"{path}: hidden_size {width}, a {PUBLISHED_WIDTHS[width].upper()} model; {name} is "
            f"made for {wanted}: choose the other variant, or the folder of this one"
        )


def fill(
    model: LlamaForCausalLM, folder: Path, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Read the weights, shard by shard.

    Raises:
        BadInput: keys do not fit, or these are differences of weights (Vicuna's "delta").
    """
    _checkpoint.fill(
        model,
        _checkpoint.weight_files(folder, what="language_model"),
        keys=KEYS,
        ignored=_llama.STORED_TABLES,
        dtype=dtype,
        device=device,
    )
    norm = float(model.model.norm.weight.abs().float().mean())
    if norm < _LEAST_NORM:
        raise BadInput(
            f"{folder}: these look like delta weights (the last norm's are {norm:.3f} on average); "
            "add them to LLaMA's first, with FastChat's apply_delta, and name the merged folder"
        )


def save(
    folder: Path,
    model: LlamaForCausalLM,
    *,
    config: Mapping[str, Any],
    tokenizer: LlamaTokenizer,
    dtype: torch.dtype,
) -> None:
    """Write a LLaMA folder; rows of the vocabulary beyond the config's are left out."""
    rows = config["vocab_size"]
    weights = {}
    for name, value in model.state_dict().items():
        key = _checkpoint.translate(name, KEYS)
        if key is None:
            continue
        if key in ("model.embed_tokens.weight", "lm_head.weight"):
            value = value[:rows]
        weights[key] = value.detach().to(device="cpu", dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    _checkpoint.write_tensors(folder, weights, shard_bytes=_checkpoint.SHARD_BYTES)
    written = {**config, "torch_dtype": str(dtype).removeprefix("torch.")}
    write_text(folder / "config.json", json.dumps(written, indent=1))
    for path in tokenizer.path.parent.glob("*token*"):
        if path.suffix in (".model", ".json") and path.parent != folder:
            shutil.copyfile(path, folder / path.name)
