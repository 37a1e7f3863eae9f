"""A finished run as a few small files that can be shared: numbers, settings and tables only."""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from hadpo import config
from hadpo.records import BadInput, replacing
from hadpo.runs.manifest import Manifest, list_manifests, read_manifest

KEPT = (
    *("manifest.json", "metrics.json", "metrics.jsonl", "outcomes.jsonl"),
    *("counts.json", "decoding.json"),
)
FORMS = (".md", ".csv")  # of tables; `hadpo compare` makes the others of an export again
PUBLISHED = ("reported_", "audit_")  # tables that papers_results/reported has already
MOST_BYTES = 1_000_000  # of one file
MOST_BYTES_IN_ALL = 3_000_000
_PATH = re.compile(r"(?<![\w.:/}<~-])(?:/[\w.@+-]+){2,}/?")  # absolute, on this machine
_SECRET = re.compile(r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,})")
_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")


def export(name: str, target: Path, *, runs_folder: Path) -> list[Path]:
    """Copy what a paper needs of run `name` to `target`: manifests, metrics and tables.

    No image, no weight, no answer text; paths of this machine are cut down to their last part, and
    a file with a key in it stops the export. The same run gives the same bytes.

    Returns:
        The files written.

    Raises:
        BadInput: the run is not there or not finished, it is too large to be shared, a key stands
            in it, or `target` holds something else.
    """
    stages = [m for m in list_manifests(runs_folder) if m.name == name]
    unfinished = [f"{m.stage} is {m.status}" for m in stages if m.status != "done"]
    if not stages or unfinished:
        state = ", ".join(unfinished) or "there is no such run"
        raise BadInput(f"run {name!r} in {runs_folder} cannot be exported: {state}")
    _check_target(target, name)
    contents = {
        path.relative_to(runs_folder / name): _clean(path, manifest)
        for manifest in stages
        for path in _kept(runs_folder / name / manifest.stage)
    }
    _check_sizes(contents)
    with replacing(target) as part:
        shutil.rmtree(part, ignore_errors=True)
        for place, text in contents.items():
            (part / place).parent.mkdir(parents=True, exist_ok=True)
            (part / place).write_text(text, encoding="utf-8", newline="\n")
        if target.exists():
            shutil.rmtree(target)
    return [target / place for place in contents]


def _kept(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in KEPT if (folder / name).is_file())
    tables = folder / "tables"
    if tables.is_dir():
        own = (path for path in tables.iterdir() if not path.name.startswith(PUBLISHED))
        yield from sorted(path for path in own if path.suffix in FORMS)


def _clean(path: Path, manifest: Manifest) -> str:
    """The text of a file without what is of this machine only; refuses a secret."""
    text = path.read_text(encoding="utf-8")
    if path.name == "manifest.json":
        kept = dataclasses.replace(manifest, command="", pid=0)
        text = json.dumps(dataclasses.asdict(kept), indent=1, default=str) + "\n"
    secrets = [v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= 8]
    if _SECRET.search(text) or any(secret in text for secret in secrets):
        raise BadInput(f"{path}: a key or token stands in it; take it out before it is shared")
    return _PATH.sub(lambda found: f".../{Path(found[0]).name}", text)


def _check_sizes(contents: dict[Path, str]) -> None:
    sizes = {place: len(text.encode()) for place, text in contents.items()}
    large = [f"{place} ({size:,} bytes)" for place, size in sizes.items() if size > MOST_BYTES]
    if large:
        raise BadInput(f"too large to be shared, at most {MOST_BYTES:,} bytes: {', '.join(large)}")
    if sum(sizes.values()) > MOST_BYTES_IN_ALL:
        raise BadInput(
            f"too large to be shared: {sum(sizes.values()):,} bytes in {len(sizes)} files, at most "
            f"{MOST_BYTES_IN_ALL:,}"
        )


def _check_target(target: Path, name: str) -> None:
    """Raise BadInput where `target` holds anything but an export of the same run."""
    if not target.exists():
        return
    folders = [target / stage for stage in config.SECTIONS]
    if target.is_dir() and not any(target.iterdir()):
        return
    names = {m.name for m in map(read_manifest, folders) if m is not None}
    if names != {name}:
        held = f"an export of {', '.join(sorted(names))}" if names else "other files"
        raise BadInput(f"{target} holds {held}; choose another folder")
    strange = [
        path
        for path in target.rglob("*")
        if path.is_file() and path.name not in KEPT and path.suffix not in FORMS
    ]
    if strange:
        raise BadInput(f"{strange[0]} is no part of an export; move it, or choose another folder")
