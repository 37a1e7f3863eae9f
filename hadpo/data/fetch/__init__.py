"""Fetch what a backbone or a data set needs, and say what is there: `hadpo fetch`, `hadpo doctor`.

`sources.yaml` is the manifest. What a user already has is found and checked, not fetched again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hadpo.data.fetch import drive, hub, images, plain
from hadpo.data.fetch.files import Found, is_transformers, look, problem_of
from hadpo.data.fetch.manifest import Item, Source, source, sources
from hadpo.data.fetch.plain import STANDARD, FetchFailed, Patience, Progress
from hadpo.data.fetch.unpack import unpack

__all__ = [
    "FetchFailed",
    "Found",
    "Item",
    "Outcome",
    "Patience",
    "Source",
    "fetch",
    "is_transformers",
    "look",
    "look_all",
    "names_for",
    "problem_of",
    "source",
    "sources",
]
Resolve = Callable[[str], Path]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One item after it was looked at or fetched; what went wrong, or ""; and what to know."""

    found: Found
    was_fetched: bool
    problem: str = ""
    note: str = ""


def look_all(name: str, resolve: Resolve, *, deep: bool = False) -> list[Found]:
    """The state of everything that `name` consists of.

    Args:
        name: of the manifest.
        resolve: fills in the variables of a path.
        deep: read whole files, to compare their hashes.

    Raises:
        BadInput: no such name.
    """
    return [look(item, resolve(item.to), deep=deep) for item in source(name).items]


def fetch(
    name: str,
    resolve: Resolve,
    *,
    patience: Patience = STANDARD,
    progress: Callable[[Item], Progress | None] = lambda item: None,
) -> Iterator[Outcome]:
    """Fetch what of `name` is not there, item by item; one that fails does not stop the others.

    Args:
        name: of the manifest.
        resolve: fills in the variables of a path.
        patience: of plain addresses and Drive.
        progress: for each item, whom to tell about its bytes.

    Raises:
        BadInput: no such name.
    """
    for item in source(name).items:
        path = resolve(item.to)
        found = look(item, path, deep=True)
        if found.status == "present" and not item.image_list:
            yield Outcome(found=found, was_fetched=False)
            continue
        problem = note = ""
        try:
            if found.status == "broken" and path.is_file():
                path.unlink()
            note = _fetch(item, path, resolve, patience, progress(item))
        except FetchFailed as error:
            problem = str(error)
        found = look(item, path)
        if not problem and found.status != "present":
            problem = f"fetched, but {found.found}; {item.source} has changed"
        yield Outcome(found=found, was_fetched=not problem, problem=problem, note=note)


def names_for(path: str) -> list[str]:
    """Names of the sources that put something at a recipe's path, or below it."""
    return [
        name
        for name, found in sources().items()
        for item in source(name).items
        if _covers(item, path)
    ]


def _covers(item: Item, path: str) -> bool:
    places = [item.to, *(f"{item.to}/{held}" for held in item.holds)]
    wanted = path.rstrip("/")
    return any(place == wanted or place.startswith(wanted + "/") for place in places)


def _fetch(
    item: Item, path: Path, resolve: Resolve, patience: Patience, progress: Progress | None
) -> str:
    """Fetch one item; returns what there is to know about it."""
    if item.hub:
        hub.snapshot(item.hub, path, kind=item.kind, patterns=item.files)
        return ""
    if item.drive_folder:
        drive.download_folder(item.drive_folder, path, about=item.size)
        return ""
    if item.image_list:
        counts = images.fetch_images(resolve(item.image_list), path, progress=progress)
        text = ", ".join(f"{count} {what}" for what, count in counts.items())
        return f"images: {text}" + f" (listed in {path / images.DEAD})" * bool(counts["dead"])
    published = {"size": item.bytes, "sha256": item.sha256}
    name = item.drive or Path(urlsplit(item.url).path).name
    target = path / f".{name}" if item.unpack else path
    if item.drive:
        drive.download_file(
            *(item.drive, target),
            **published,
            about=item.size,
            patience=patience,
            progress=progress,
        )
    else:
        plain.check_space(path.parent, item.size * (2 if item.unpack else 1), source=item.url)
        plain.download(item.url, target, **published, patience=patience, progress=progress)
    if not item.unpack:
        return ""
    count = unpack(target, path)
    target.unlink()
    return f"{count} files unpacked"
