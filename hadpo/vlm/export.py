"""Checkpoint folders out: weights and config as they are published, whole files only."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hadpo.records import replacing, write_json

_INDEX = "model.safetensors.index.json"
_SHARD_BYTES = 5 * 10**9


def write_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    shard_bytes: int = _SHARD_BYTES,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights as safetensors: one file, or shards and their index, atomically per file.

    Args:
        folder: loses the weights that it had.
        tensors: on any device.
        shard_bytes: largest file.
        dtype: of the files; one shard at a time is cast. None: as the tensors are.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for key, value in tensors.items():
        n_bytes = value.numel() * (dtype or value.dtype).itemsize
        if size and size + n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += n_bytes
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for old in [*folder.glob("model*.safetensors"), folder / _INDEX]:
        if old.name not in names:  # an index of earlier weights would win over the new file
            old.unlink(missing_ok=True)
    for name, keys in zip(names, shards, strict=True):
        shard = {key: tensors[key].detach().to("cpu", dtype).contiguous() for key in keys}
        with replacing(folder / name) as part:
            save_file(shard, part, metadata={"format": "pt"})
    if len(shards) > 1:
        places = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {}, "weight_map": places}
        write_json(folder / _INDEX, index)


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    config: Mapping[str, Any],
    beside: Iterable[Path],
    dtype: torch.dtype,
) -> None:
    """Write a checkpoint folder: weights, `config.json`, and copies of other files.

    Args:
        folder: loses the weights that it had.
        tensors: by the keys of the files.
        config: of the model; `torch_dtype` is added.
        beside: paths of the tokenizer and the like; all but `.model` and `.json` are left out.
        dtype: of the files.
    """
    write_tensors(folder, tensors, dtype=dtype)
    whole = {**config, "torch_dtype": str(dtype).removeprefix("torch.")}
    write_json(folder / "config.json", whole)
    for path in beside:
        if path.suffix in (".model", ".json") and path.is_file() and path.parent != folder:
            shutil.copyfile(path, folder / path.name)
