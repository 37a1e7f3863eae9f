"""`manifest.json`: what a stage was asked, what it used, how it ended. It alone says so."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hadpo import config
from hadpo.places import fill, shorten, variables_of
from hadpo.records import BadInput, input_hashes, parse, write_json
from hadpo.runs.lock import host, is_alive

# The files that a stage wrote, as a list for a person.

_BOOKKEEPING = {"notebook.ipynb", "report.html", "manifest.json", "manifest.json.part"}


class Outputs:
    """Files and folders of a stage, with their sizes; a notebook shows them as a list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes = {
            path.name + "/" * path.is_dir(): _size(path)
            for path in sorted(folder.iterdir())
            if path.name not in _BOOKKEEPING
        }

    def __repr__(self) -> str:
        lines = [f"  {name:24} {_readable(size):>10}" for name, size in self.sizes.items()]
        return "\n".join([str(self.folder), *lines])


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


# unreadable: never written; how a list shows a manifest that it cannot read
Status = Literal["running", "done", "failed", "interrupted", "unreadable"]
PACKAGES = ["hadpo", "torch", "transformers", "peft", "accelerate", "numpy", "pandas", "pillow"]
PACKAGES += ["papermill"]


@dataclass(kw_only=True)
class Manifest:
    """All that is needed to say what a stage did; rewritten, atomically, at each change."""

    name: str
    stage: str
    recipe: str
    is_mini: bool
    settings: dict[str, Any]  # all sections that the stage reads, resolved
    overrides: dict[str, Any]  # the parameters that were given beside the recipe
    earlier: str  # the run whose earlier stages were read
    parents: dict[str, str]  # earlier stage -> its run_id
    run_id: str
    status: Status = "running"
    error: str = ""
    pid: int = 0
    pid_started: int = 0  # seconds since 1970; 0: unknown
    host: str = ""  # where that process runs
    started: str = ""  # UTC, ISO 8601
    finished: str = ""
    duration_seconds: float = 0.0  # summed over restarts
    starts: int = 0  # 1, and one more for each time it was resumed
    peak_memory_bytes: int = 0  # of the process
    peak_device_memory_bytes: int = 0
    git_commit: str = ""
    git_dirty: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    command: str = ""
    # one entry a start, with its commit and versions: results of a resumed stage are of several
    history: tuple[dict[str, Any], ...] = ()
    # what the stage noted: counts, hashes, decoding
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another host wrote it last; whether its process lives cannot be told here."""
        return self.host not in ("", host())

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json`; a reader sees the old or the new one, never a torn one."""
        path, values = folder / "manifest.json", dataclasses.asdict(self)
        known = variables_of(path) | {"RUN": str(folder.parent)}
        values["facts"] = _each_text(values["facts"], lambda text: shorten(text, known))
        write_json(path, values, is_durable=self.status == "done", default=str)


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The value with a function applied to every text in it, at any depth; keys stay."""
    if isinstance(value, dict):
        return {key: _each_text(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage folder, None if there is none yet.

    A `running` whose process is gone is given back as `interrupted`: nobody was left to write it.
    What runs on another host is believed.

    Raises:
        BadInput: the file is no manifest of this version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # no JSON, too deep, or no text
        cure = "delete the stage's folder to redo it"
        raise BadInput(f"{path}: not JSON ({error}); {cure}") from error
    try:
        manifest = parse(values, Manifest, where=str(path))
        known = variables_of(path)
        manifest.facts = _each_text(manifest.facts, lambda text: fill(text, known))
    except BadInput as error:
        raise BadInput(f"{error}; written by another version of hadpo? rerun the stage") from error
    is_ours = manifest.status == "running" and not manifest.is_elsewhere
    if is_ours and not is_alive(manifest.pid, manifest.pid_started):
        manifest.status = "interrupted"
        manifest.error = manifest.error or f"process {manifest.pid} was killed"
    return manifest


def check_weights(folder: Path, places: Iterable[Path]) -> None:
    """Refuse weights of the stage in `folder` that are no longer those that it wrote.

    Raises:
        BadInput: names the files that differ from the manifest's `weights`.
    """
    manifest = read_manifest(folder)
    noted = manifest.facts.get("weights", {}) if manifest else {}
    now = input_hashes(places, below=folder.parent)
    if changed := [name for name in now if noted and noted.get(name) != now[name]]:
        raise BadInput(
            f"{folder.parent}: {', '.join(changed)}: not what stage {folder.name} wrote; put it "
            f"back, or redo the stage with --redo-from {folder.name}"
        )


def list_manifests(folder: Path) -> Iterator[Manifest]:
    """Manifests of all runs below `folder`, by name, then in the order of their start.

    One that cannot be read is listed as `unreadable`, with the reason as its error.
    """
    for run in sorted(p for p in folder.glob("*") if p.is_dir()):
        found = (_read_or_say_why(stage) for stage in sorted(run.glob("*")) if stage.is_dir())
        yield from sorted((m for m in found if m), key=lambda m: m.started)


def _read_or_say_why(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except BadInput as error:
        texts = dict.fromkeys(("recipe", "earlier", "run_id"), "")
        values: dict[str, Any] = {key: {} for key in ("settings", "overrides", "parents")} | texts
        values |= {"name": folder.parent.name, "stage": folder.name, "is_mini": False}
        return Manifest(**values, status="unreadable", error=str(error))


@functools.cache  # what this process runs does not change
def describe_code() -> tuple[str, bool]:
    """Git commit of the checkout that the package runs from, and whether it has changes."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(config.PACKAGE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", str(config.ROOT)))
    except FileNotFoundError:  # no git on this machine
        return "", False


@functools.cache
def describe_versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that change results."""
    versions = {"python": platform.python_version()} | dict.fromkeys(PACKAGES, "absent")
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
