"""What lies on disk: is an item of the manifest there, and is it what it should be?"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hadpo.data.fetch.manifest import Item
from hadpo.records import file_hash

_PAGE = (b"<!doctype", b"<html")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One item on disk: its state, and what was found there."""

    item: Item
    path: Path
    status: Literal["present", "missing", "broken"]
    found: str


def look(item: Item, path: Path, *, deep: bool = False) -> Found:
    """The state of an item that should lie at `path`; `deep` reads whole files for their hash."""
    problem = missing(item, path) or broken(item, path, deep=deep)
    if problem:
        is_there = path.exists() and not missing(item, path)
        return Found(
            item=item, path=path, status="broken" if is_there else "missing", found=problem
        )
    return Found(item=item, path=path, status="present", found=str(path))


def missing(item: Item, path: Path) -> str:
    """What of an item is not there; "" where all of it is."""
    if not path.exists():
        return f"nothing at {path}"
    lost = []
    for pattern, least in item.holds.items():
        count = sum(1 for _ in path.glob(pattern)) if path.is_dir() else 0
        if count < least:
            lost.append(pattern if least == 1 else f"{pattern} ({count} of {least} files)")
    if not lost and item.weights:
        lost = missing_weights(path)
    return f"{path} lacks {', '.join(lost)}" if lost else ""


def missing_weights(folder: Path) -> list[str]:
    """Files of weights that a checkpoint folder lacks."""
    for name in _INDEXES:
        if (folder / name).is_file():
            try:
                shards = set(
                    json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values()
                )
            except (ValueError, KeyError, AttributeError):
                return [f"a readable {name}"]
            return sorted(shard for shard in shards if not (folder / shard).is_file())
    if any((folder / name).is_file() for name in _SINGLES):
        return []
    return ["weights (" + ", ".join(_SINGLES + _INDEXES) + ")"]


def broken(item: Item, path: Path, *, deep: bool) -> str:
    """What is wrong with the files of an item; "" where nothing is seen."""
    files = [path] if path.is_file() else _small_sample(path, item)
    for file in files:
        problem = no_content(file)
        if problem:
            return f"{file}: {problem}"
    if not path.is_file() or item.unpack:
        return ""
    size = path.stat().st_size
    if item.bytes and size != item.bytes:
        return f"{path}: {size} bytes, published are {item.bytes}"
    if deep and item.sha256:
        found = file_hash(path)
        if not found.startswith(item.sha256):
            return f"{path}: sha256 {found[:16]}..., published is {item.sha256}..."
    return ""


def no_content(path: Path) -> str:
    """What a file is that a failed download left: a web page, a pointer, nothing; or ""."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file; run `git lfs pull` in its folder"
    if start.startswith(_PAGE) and path.suffix not in (".html", ".htm"):
        return "a web page, not the file"
    return ""


def _small_sample(folder: Path, item: Item) -> list[Path]:
    """The files that are named one by one, and the weights; not thousands of images."""
    named = [folder / name for name, least in item.holds.items() if least == 1 and "*" not in name]
    weights = [
        p for p in folder.glob("*") if p.suffix in (".safetensors", ".bin", ".pth", ".model")
    ]
    return [path for path in {*named, *(weights if item.weights else [])} if path.is_file()]


def problem_of(path: Path) -> str:
    """What is wrong with a file or a checkpoint folder that is there; "" where nothing is seen.

    Nothing is loaded: shards are counted, and their own tables of contents say how long they are.
    """
    if path.is_file():
        return _problem_of_file(path)
    settings = read_config(path)
    if settings:
        if "delta" in str(settings.get("_name_or_path", "")).lower():
            return f"{path}: weights as a difference to LLaMA (a delta), which is no model"
        lost = missing_weights(path) if "model_type" in settings else []
        if lost:
            return f"{path} lacks {', '.join(lost)}"
    for file in sorted(path.glob("*")):
        if file.suffix in (".safetensors", ".bin", ".pth", ".model"):
            problem = _problem_of_file(file)
            if problem:
                return problem
    return ""


def is_transformers(folder: Path) -> bool:
    """Whether a folder is laid out as transformers saves a model of vision and language."""
    return "text_config" in read_config(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder; empty where there is none to read."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _problem_of_file(path: Path) -> str:
    problem = no_content(path) or truncated(path)
    return f"{path}: {problem}" if problem else ""


def truncated(path: Path) -> str:
    """Whether a file of weights ends before it should, by its own table of contents; or ""."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                table = json.loads(file.read(length)) if length < size else None
            except ValueError:
                table = None
        if not isinstance(table, dict):
            return f"no safetensors file, or cut off ({size} bytes)"
        ends = [row["data_offsets"][1] for name, row in table.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
        return f"{size} bytes of {expected}: cut off" if size < expected else ""
    if path.suffix in (".bin", ".pth"):
        with path.open("rb") as file:
            start = file.read(2)
        if start == b"PK" and not zipfile.is_zipfile(path):  # the table of contents stands last
            return f"cut off after {size} bytes"
    return ""
