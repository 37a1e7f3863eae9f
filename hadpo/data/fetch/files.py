"""What lies on disk: is an item of the manifest there, and is it what it should be?"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hadpo.data.fetch.manifest import Item

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
        found = sha256(path)
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


def sha256(path: Path) -> str:
    """Hash of a file, read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _small_sample(folder: Path, item: Item) -> list[Path]:
    """The files that are named one by one, and the weights; not thousands of images."""
    named = [folder / name for name, least in item.holds.items() if least == 1 and "*" not in name]
    weights = [
        p for p in folder.glob("*") if p.suffix in (".safetensors", ".bin", ".pth", ".model")
    ]
    return [path for path in {*named, *(weights if item.weights else [])} if path.is_file()]
