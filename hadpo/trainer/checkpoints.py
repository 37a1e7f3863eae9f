"""Checkpoints of a training: one file each, written beside and moved into place."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from hadpo.config import COMPUTED_ALIKE, TrainConfig
from hadpo.records import (
    BadInput,
    Instruction,
    Pair,
    file_hash,
    input_hashes,
    replacing,
)
from hadpo.runs import disk_full, is_disk_full

_log = logging.getLogger(__name__)
_KEPT = 2  # newest checkpoints that stay on disk
# They change neither the update nor the order of the pairs.
_FREE = COMPUTED_ALIKE | {"controls", "control_learning_rate", "control_steps"}


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

    Settings count that change the weights or the order of the pairs; of files and folders their
    contents, not their places.
    """
    fixed = {key: str(value) for key, value in asdict(settings).items() if key not in _FREE}
    contents = sorted(input_hashes(weights, below=Path()).values())
    return {
        "backbone": name,
        "objective": objective,
        **fixed,
        "pairs": _hash(_contents(pairs)),
        "weights": _hash(contents),
    }


def _contents(records: Sequence[Pair | Instruction]) -> Iterator[dict[str, Any]]:
    """The records, with the content of their pictures instead of the place."""
    pictures: dict[str, str] = {}
    for record in records:
        if record.image not in pictures:
            try:
                pictures[record.image] = file_hash(Path(record.image))
            except OSError as error:
                raise BadInput(f"no image {record.image} ({error.strerror})") from error
        yield asdict(record) | {"image": pictures[record.image]}


def _hash(values: Iterable[Any]) -> str:
    """Of the JSON list of the values."""
    parts = (", " * (n > 0) + json.dumps(value, sort_keys=True) for n, value in enumerate(values))
    return stream_hash(part.encode() for part in chain("[", parts, "]"))


def stream_hash(parts: Iterable[Any]) -> str:
    """SHA-256 of bytes, one part after the other, which are never in memory as a whole."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint, then drop all but the newest ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{checkpoint.step:06d}.pt"
    with replacing(path, is_shared=True, is_durable=True) as part, part.open("wb") as file:
        torch.save(vars(checkpoint), file)
    for old in _paths(folder)[:-_KEPT]:
        old.unlink()
    return path


def last_step(folder: Path) -> int:
    """Updates done by the newest whole checkpoint; 0 without one."""
    paths = _whole(folder)
    return int(paths[-1].stem.removeprefix("step-")) if paths else 0


def newest(folder: Path, expected: Mapping[str, str]) -> Checkpoint | None:
    """The newest whole checkpoint of the folder; None without one.

    Raises:
        BadInput: it belongs to a training with other settings, pairs or weights; names them.
    """
    for torn in folder.glob("step-*.part"):  # of a process that was killed
        torn.unlink(missing_ok=True)
    paths = _whole(folder)
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


def _whole(folder: Path) -> list[Path]:
    """All checkpoints, the newest one whole: a damaged one is set aside, the one before it counts.

    Raises:
        BadInput: all are damaged.
    """
    paths, damaged = _paths(folder), []
    while paths and (problem := _damage(paths[-1])):
        damaged.append(paths.pop())
        _log.warning("%s is damaged (%s); the checkpoint before it is used", damaged[-1], problem)
    if damaged and not paths:
        raise BadInput(
            f"{damaged[0]}: damaged, and no older checkpoint is whole; start anew with --force"
        )
    for path in damaged:
        path.replace(path.with_suffix(".damaged"))
    return paths


def _damage(path: Path) -> str:
    """What is wrong with a file that torch has written, by its checksums; "" if it is whole."""
    try:
        with zipfile.ZipFile(path) as file:
            part = file.testzip()
            return f"{part} has another checksum" if part else ""
    except (zipfile.BadZipFile, OSError) as error:
        return str(error)


@dataclass
class Stopping:
    """The best held-out loss so far, and the weights that had it.

    Args:
        patience: looks without a better loss; 0: never stop, and keep nothing.
    """

    patience: int
    best: float | None = None
    since: int = 0  # looks
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether it was time to stop."""
        return 0 < self.patience <= self.since

    def look(self, loss: float | None, weights: Mapping[str, Tensor]) -> bool:
        """Note a look; whether to stop. A loss that is not a number is never better."""
        if not self.patience:
            return False
        if loss is not None and (self.best is None or loss < self.best):
            self.best, self.since = loss, 0
            self.weights = {key: value.detach().cpu().clone() for key, value in weights.items()}
        else:
            self.since += 1
        return self.is_over

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {key: value for key, value in vars(self).items() if key != "patience"}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        vars(self).update(state)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def explain_endings(folder: Path) -> Iterator[None]:
    """Within it, a full disk is one clear message: a BadEnvironment that names the run's folder."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        raise disk_full(folder) from error
