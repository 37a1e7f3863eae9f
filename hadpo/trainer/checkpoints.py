"""Checkpoints of a training: one file each, written beside and moved into place."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hadpo.config import TrainConfig
from hadpo.records import BadInput, Pair

_KEPT = 2  # newest checkpoints that stay on disk
# Settings that change neither the weights nor their order.
_FREE = {"checkpoint_every", "log_every", "activation_checkpointing", "controls"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that an update depends on; the dropout of update k is drawn from the seed and k alone."""

    step: int  # updates done
    fingerprint: str
    adapter: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def fingerprint(name: str, objective: str, settings: TrainConfig, pairs: Sequence[Pair]) -> str:
    """What must be the same for a training to go on: backbone, objective, settings and pairs."""
    kept = {key: value for key, value in asdict(settings).items() if key not in _FREE}
    text = json.dumps([name, objective, kept, [asdict(pair) for pair in pairs]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint, then drop all but the newest ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{checkpoint.step:06d}.pt"
    part = path.with_suffix(".part")
    torch.save(vars(checkpoint), part)
    os.replace(part, path)  # noqa: PTH105 - says "atomic"
    for old in _paths(folder)[:-_KEPT]:
        old.unlink()
    return path


def last_step(folder: Path) -> int:
    """Updates done by the newest checkpoint; 0 without one."""
    paths = _paths(folder)
    return int(paths[-1].stem.removeprefix("step-")) if paths else 0


def newest(folder: Path, expected: str) -> Checkpoint | None:
    """The newest checkpoint of the folder; None where there is none.

    Raises:
        BadInput: it belongs to a training with other settings, pairs or another backbone.
    """
    paths = _paths(folder)
    if not paths:
        return None
    checkpoint = Checkpoint(**torch.load(paths[-1], map_location="cpu", weights_only=True))
    if checkpoint.fingerprint != expected:
        raise BadInput(
            f"{paths[-1]}: from a training with other settings, pairs or another backbone; "
            "start anew with --force, or under another name"
        )
    return checkpoint


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))
