"""The table of sources as data: what a thing consists of, where it comes from and where it goes."""

import functools
import os
from dataclasses import field
from pathlib import Path
from typing import Literal

import pydantic
import yaml
from pydantic.dataclasses import dataclass

from hadpo.plugins import choices
from hadpo.records import BadInput

SOURCES = Path(__file__).with_name("sources.yaml")
_STRICT = pydantic.ConfigDict(extra="forbid")
_ORIGINS = ("hub", "url", "drive", "drive_folder", "image_list")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Item:
    """One file or folder; exactly one of the first five fields says where it comes from."""

    hub: str = ""
    url: str = ""
    drive: str = ""
    drive_folder: str = ""
    image_list: str = ""
    to: str
    kind: Literal["model", "dataset"] = "model"
    files: tuple[str, ...] = ()
    holds: dict[str, int] = field(default_factory=dict)
    weights: bool = False
    unpack: bool = False
    bytes: int = 0
    sha256: str = ""
    gigabytes: float = 0.0
    note: str = ""

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
        """Bytes to fetch; about, where nobody has published them."""
        return self.bytes or round(self.gigabytes * 1e9)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Source:
    """A backbone, an adapter or a data set."""

    title: str
    licence: str
    items: tuple[Item, ...] = ()
    same_as: str = ""


def sources() -> dict[str, Source]:
    """All sources by name; those of the file that `HADPO_SOURCES` names, a mirror's, win.

    Raises:
        BadInput: a file breaks the rules.
    """
    own = os.environ.get("HADPO_SOURCES")
    return _read(SOURCES) | (_read(Path(own)) if own else {})


@functools.cache
def _read(path: Path) -> dict[str, Source]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: not readable as YAML: {error}") from error
    try:
        found = pydantic.TypeAdapter(dict[str, Source]).validate_python(values)
    except pydantic.ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise BadInput("\n".join(f"{path}: {line}" for line in lines)) from error
    for name, source in found.items():
        for item in source.items:
            if sum(bool(getattr(item, origin)) for origin in _ORIGINS) != 1:
                raise BadInput(f"{path}: {name}: {item.to}: name one of {', '.join(_ORIGINS)}")
    return found


def source(name: str) -> Source:
    """The source `name`, with the items of the one that it is the same as.

    Raises:
        BadInput: no such name; the message has the nearest one.
    """
    table = sources()
    if name not in table:
        raise BadInput(f"nothing named {name!r} to fetch; {choices(name, table)}")
    found = table[name]
    if not found.same_as:
        return found
    return Source(title=found.title, licence=found.licence, items=table[found.same_as].items)
