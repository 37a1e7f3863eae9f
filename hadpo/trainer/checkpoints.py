"""Checkpoints of a training: one file each, written beside and moved into place."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hadpo.config import COMPUTED_ALIKE, TrainConfig
from hadpo.records import BadInput, Instruction, Pair, input_hashes, replacing

_KEPT = 2  # newest checkpoints that stay on disk
_FREE = {*COMPUTED_ALIKE, "controls"}  # they change neither the update nor the order of the pairs


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that an update depends on; the dropout of update k is drawn from the seed and k alone."""

    step: int  # updates done
    fingerprint: dict[str, str]
    adapter: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    stopping: dict[str, Any] = field(default_factory=dict)  # of a training that may stop early


def fingerprint(
    name: str,
    objective: str,
    settings: TrainConfig,
    pairs: Sequence[Pair | Instruction],
    weights: Iterable[Path],
) -> dict[str, str]:
    """What must be the same for a training to go on: each setting, and hashes of pairs and weights.

    Args:
        name: of the backbone.
        objective: "dpo" or "sft".
        settings: those that change the weights or their order count.
        pairs: all, in their order.
        weights: files or folders of the backbone; their contents count, not where they lie.
    """
    kept = {key: str(value) for key, value in asdict(settings).items() if key not in _FREE}
    contents = sorted(input_hashes(weights, below=Path()).values())
    return {
        "backbone": name,
        "objective": objective,
        **kept,
        "pairs": _hash(asdict(pair) for pair in pairs),
        "weights": _hash(contents),
    }


def _hash(values: Iterable[Any]) -> str:
    """Of the JSON list of the values, which is never there as a whole."""
    found = hashlib.sha256(b"[")
    for place, value in enumerate(values):
        found.update((", " * (place > 0) + json.dumps(value, sort_keys=True)).encode())
    found.update(b"]")
    return found.hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint, then drop all but the newest ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{checkpoint.step:06d}.pt"
    with replacing(path, is_shared=True) as part, part.open("wb") as file:
        torch.save(vars(checkpoint), file)
    for old in _paths(folder)[:-_KEPT]:
        old.unlink()
    return path


def last_step(folder: Path) -> int:
    """Updates done by the newest checkpoint; 0 without one."""
    paths = _paths(folder)
    return int(paths[-1].stem.removeprefix("step-")) if paths else 0


def newest(folder: Path, expected: Mapping[str, str]) -> Checkpoint | None:
    """The newest checkpoint of the folder; None where there is none.

    Raises:
        BadInput: it belongs to a training with other settings, pairs or weights; names them.
    """
    for torn in folder.glob("step-*.part"):  # of a process that was killed
        torn.unlink(missing_ok=True)
    paths = _paths(folder)
    if not paths:
        return None
    checkpoint = Checkpoint(**torch.load(paths[-1], map_location="cpu", weights_only=True))
    found = checkpoint.fingerprint
    if other := [key for key, value in expected.items() if found.get(key) != value]:
        shown = (f"{key} (found {found.get(key)}, expected {expected[key]})" for key in other)
        raise BadInput(
            f"{paths[-1]}: from a training with other {', '.join(shown)}; "
            "start anew with --force, or under another name"
        )
    return checkpoint


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))
