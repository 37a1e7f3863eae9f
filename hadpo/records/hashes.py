"""Hashes of input files, so that a manifest says what its numbers rest on."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from hadpo.records.kinds import BadInput

_WHOLE_BYTES = 64 * 2**20  # of larger files, two ends are hashed
_END_BYTES = 2**20
_HASHED = {".json", ".jsonl", ".model", ".safetensors", ".bin", ".pth", ".pt"}  # in a folder


def input_hashes(places: Iterable[str | Path], *, below: Path) -> dict[str, str]:
    """SHA-256 of input files, cheap enough for weights of many GB.

    A file of more than 64 MB is told by its size and the hash of its first and last MB; its key
    says so.

    Args:
        places: files, or folders whose own weights, configs and records count; what is not there,
            as the name of a model in a cache, is left out.
        below: the run's folder; keys are paths relative to it, or a file's name with its parent
            (and more of its path where two would be called the same).
    """
    files: dict[Path, None] = {}
    for place in map(Path, places):
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        wanted = [p for p in inside if p == place or p.suffix in _HASHED]
        files |= dict.fromkeys(p for p in wanted if p.is_file())
    found: dict[str, str] = {}
    for path in files:
        end = "" if path.stat().st_size <= _WHOLE_BYTES else " (size, first and last MB)"
        names = [str(path.relative_to(below))] if path.is_relative_to(below) else []
        names += ["/".join(path.parts[-k:]) for k in range(2, len(path.parts) + 1)]
        key = next(name + end for name in names if name + end not in found)
        found[key] = _file_hash(path)
    return found


def refuse_changed(noted: Mapping[str, str], found: Mapping[str, str], *, where: Path) -> None:
    """Refuse to go on with a file of answers that other inputs gave.

    Args:
        noted: hashes of an earlier start, from the manifest; where it has none of `found`, nothing
            is known of it, and nothing is refused.
        found: hashes of today.
        where: what was begun.

    Raises:
        BadInput: names the inputs that differ.
    """
    changed = [key for key, value in found.items() if noted.get(key) != value]
    if changed and any(key in noted for key in found):
        raise BadInput(
            f"{where} was begun with other files than there are now: {', '.join(changed)} differ; "
            "put them back, start anew with --force, or choose another --name"
        )


def _file_hash(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(file.read(_END_BYTES))
        file.seek(-_END_BYTES, os.SEEK_END)
        digest.update(file.read())
    return f"{size} bytes, {digest.hexdigest()}"
