"""Fetch what a backbone or a data set needs, and say what is present: `hadpo fetch`, `doctor`.

`sources.yaml` is the manifest: what a thing consists of, where it comes from and where it goes.
What a user already has is looked at and checked, not fetched again.
"""

import functools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from hadpo.data.fetch import hosts, images, plain
from hadpo.data.fetch.files import WEIGHTS, is_transformers, missing_weights, problem_of, unpack
from hadpo.data.fetch.plain import STANDARD, FetchFailed, Patience, Progress
from hadpo.plugins import choices
from hadpo.records import BadInput, parse

SOURCES = Path(__file__).with_name("sources.yaml")
Resolve = Callable[[str], Path]
_ORIGINS = ("hub", "url", "drive", "drive_folder", "image_list", "made")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file or folder; exactly one of the first six fields says where it comes from."""

    hub: str = ""
    url: str = ""
    drive: str = ""
    drive_folder: str = ""
    image_list: str = ""
    made: str = ""
    to: str
    mirrors: tuple[str, ...] = ()
    kind: Literal["model", "dataset"] = "model"
    files: tuple[str, ...] = ()
    holds: dict[str, int] = field(default_factory=dict)
    weights: bool = False
    unpack: bool = False
    bytes: int = 0
    sha256: str = ""
    gigabytes: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        if sum(bool(getattr(self, origin)) for origin in _ORIGINS) != 1:
            raise ValueError(f"{self.to}: name one of {', '.join(_ORIGINS)}")

    @property
    def origin(self) -> str:
        """Which of the fields is set: "hub", "url", ..."""
        return next(name for name in _ORIGINS if getattr(self, name))

    @property
    def source(self) -> str:
        """What to show: the address, or the name at its host."""
        value = getattr(self, self.origin)
        pages = {
            "hub": "https://huggingface.co/" + "datasets/" * (self.kind == "dataset"),
            "drive": "https://drive.google.com/file/d/",
            "drive_folder": "https://drive.google.com/drive/folders/",
        }
        return pages.get(self.origin, "") + value

    @property
    def size(self) -> int:
        """Bytes to fetch; about, if nobody has published them."""
        return self.bytes or round(self.gigabytes * 1e9)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A backbone, an adapter or a data set."""

    title: str
    licence: str
    items: tuple[Item, ...] = ()
    same_as: str = ""


def sources() -> dict[str, Source]:
    """All sources by name; those of the file that `HADPO_SOURCES` names win. Raises BadInput."""
    own = os.environ.get("HADPO_SOURCES")
    return _read(SOURCES) | (_read(Path(own)) if own else {})


@functools.cache
def _read(path: Path) -> dict[str, Source]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: not readable as YAML: {error}") from error
    found, problems = {}, []
    for name, value in parse(values, dict[str, Any], where=str(path)).items():
        try:
            found[name] = parse(value, Source, where=f"{path}: {name}")
        except BadInput as error:
            problems.append(str(error))
    if problems:
        raise BadInput("\n".join(problems))
    return found


def source(name: str) -> Source:
    """The source `name` with all its items; BadInput for no such name says the nearest one."""
    table = sources()
    if name not in table:
        raise BadInput(f"nothing named {name!r} to fetch; {choices(name, table)}")
    found = table[name]
    if not found.same_as:
        return found
    return Source(title=found.title, licence=found.licence, items=table[found.same_as].items)


@dataclass(frozen=True, kw_only=True)
class ItemState:
    """One item on disk, after it was looked at or fetched."""

    item: Item
    path: Path
    status: Literal["present", "missing", "broken"]
    detail: str  # what is missing or broken; "" if the item is present
    was_fetched: bool = False  # now
    problem: str = ""  # why it could not be fetched
    note: str = ""


def look(item: Item, path: Path, *, deep: bool = False) -> ItemState:
    """The state of an item that should lie at `path`; `deep` reads whole files for their hash."""
    if problem := _missing(item, path):
        return ItemState(item=item, path=path, status="missing", detail=problem)
    if problem := _broken(item, path, deep=deep):
        return ItemState(item=item, path=path, status="broken", detail=problem)
    return ItemState(item=item, path=path, status="present", detail="")


def _missing(item: Item, path: Path) -> str:
    """What of an item is not there; "" if all of it is."""
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


def _broken(item: Item, path: Path, *, deep: bool) -> str:
    """What is wrong with the files of an item; "" if nothing is seen."""
    for file in [path] if path.is_file() else _small_sample(path, item):
        if problem := plain.no_content(file):
            return f"{file}: {problem}"
    if not path.is_file() or item.unpack:
        return ""
    sha256 = item.sha256 if deep else ""
    problem = plain.other_than_published(path, size=item.bytes, sha256=sha256)
    return f"{path}: {problem}" if problem else ""


def _small_sample(folder: Path, item: Item) -> list[Path]:
    """The files that are named one by one, and the weights; not thousands of images."""
    named = [folder / name for name, least in item.holds.items() if least == 1 and "*" not in name]
    weights = [p for p in folder.glob("*") if p.suffix in WEIGHTS]
    return [path for path in {*named, *(weights if item.weights else [])} if path.is_file()]


def look_all(name: str, resolve: Resolve, *, deep: bool = False) -> list[ItemState]:
    """The state of everything that `name` of the manifest consists of; for `deep` see `look`."""
    return [look(item, resolve(item.to), deep=deep) for item in source(name).items]


def fetch(
    name: str,
    resolve: Resolve,
    *,
    patience: Patience = STANDARD,
    progress: Callable[[Item], Progress | None] = lambda item: None,
) -> Iterator[ItemState]:
    """Fetch what of `name` is not there, item by item; the others are fetched even if one fails.

    `progress` gives, for each item, what is called with its bytes so far and in all.
    """
    for item in source(name).items:
        path = resolve(item.to)
        state = look(item, path, deep=True)
        if state.status == "present" and not item.image_list:
            yield state
            continue
        problem = note = ""
        try:
            if state.status == "broken" and path.is_file():
                path.unlink()
            note = _fetch_from_any(item, path, resolve, patience, progress(item))
        except FetchFailed as error:
            problem = str(error)
        state = look(item, path)
        if not problem and state.status != "present":
            problem = f"fetched, but {state.detail}; {item.source} has changed"
        yield replace(state, was_fetched=not problem, problem=problem, note=note)


def names_for(path: str) -> list[str]:
    """Names of the sources that put something at a recipe's path, or below it."""
    table = sources()
    items = {name: table[each.same_as or name].items for name, each in table.items()}
    return [name for name, some in items.items() for item in some if _covers(item, path)]


def _covers(item: Item, path: str) -> bool:
    places = [item.to, *(f"{item.to}/{held}" for held in item.holds)]
    wanted = path.rstrip("/")
    return any(place == wanted or place.startswith(wanted + "/") for place in places)


def check_access(items: Sequence[Item]) -> list[str]:
    """What the hub would not give, a line each: licences to be accepted, logins to be made.

    Asked before the first byte, so that the last of ten items is not the one that is refused.
    """
    return list(filter(None, (hosts.refusal(i.hub, kind=i.kind) for i in items if i.hub)))


def missing_bytes(states: Sequence[ItemState]) -> tuple[int, str]:
    """Bytes to fetch, and which disk has too little room for them with what is unpacked; or ""."""
    wanted: Counter[tuple[int, Path]] = Counter()
    absent = {s.path / s.item.source: s for s in states if s.status != "present"}
    for state in absent.values():
        place = next(p for p in (state.path, *state.path.parents) if p.exists())
        folder = place if place.is_dir() else place.parent
        disk = folder.stat().st_dev
        known = next((f for d, f in wanted if d == disk), folder)
        wanted[disk, known] += state.item.size * (2 if state.item.unpack else 1)
    lines = [
        f"{folder}: {need / 1e9:.1f} GB to fetch and unpack, {free / 1e9:.1f} GB free"
        for (_, folder), need in wanted.items()
        if need > (free := shutil.disk_usage(folder).free)
    ]
    return sum(state.item.size for state in absent.values()), "; ".join(lines)


def _fetch_from_any(
    item: Item, path: Path, resolve: Resolve, patience: Patience, progress: Progress | None
) -> str:
    """`_fetch`, and if that fails, from each mirror in turn."""
    try:
        return _fetch(item, path, resolve, patience, progress)
    except FetchFailed as error:
        reasons = [str(error)]
    for url in item.mirrors:
        mirror = replace(item, url=url, hub="", drive="", mirrors=())
        try:
            return f"from the mirror {url}. {_fetch(mirror, path, resolve, patience, progress)}"
        except FetchFailed as error:
            reasons.append(str(error))
    raise FetchFailed("; ".join(reasons))


def _fetch(
    item: Item, path: Path, resolve: Resolve, patience: Patience, progress: Progress | None
) -> str:
    """Fetch one item; returns a note about it, or ""."""
    if item.made:
        raise FetchFailed(f"{path}: {resolve(item.made)}")
    if item.hub:
        hosts.snapshot(item.hub, path, kind=item.kind, patterns=item.files)
        return ""
    if item.drive_folder:
        hosts.drive_folder(item.drive_folder, path, about=item.size)
        return ""
    if item.image_list:
        counts = images.fetch_images(resolve(item.image_list), path, progress=progress)
        text = ", ".join(f"{count} {what}" for what, count in counts.items())
        return f"images: {text}" + f" (listed in {path / images.DEAD})" * bool(counts["dead"])
    published = {"size": item.bytes, "sha256": item.sha256}
    name = item.drive or Path(urlsplit(item.url).path).name
    target = path / f".{name}" if item.unpack else path
    if item.drive:
        about = item.size
        hosts.drive_file(
            item.drive, target, **published, about=about, patience=patience, progress=progress
        )
    else:
        plain.check_space(path.parent, item.size * (2 if item.unpack else 1), source=item.url)
        plain.download(item.url, target, **published, patience=patience, progress=progress)
    if not item.unpack:
        return ""
    count = unpack(target, path)
    target.unlink()
    return f"{count} files unpacked"
