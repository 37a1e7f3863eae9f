"""The records that cross stages, and the JSON Lines files that hold them. Read this file first.

A stage reads files of records and writes files of records, so each can be rerun alone. Every record
is a frozen dataclass of plain values; `image` is the path of an image file, ids are strings.
"""

import dataclasses
import hashlib
import json
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

_WHOLE_BYTES = 64 * 2**20  # of larger files, two ends are hashed
_END_BYTES = 2**20
_HASHED = {".json", ".jsonl", ".model", ".safetensors", ".bin", ".pth", ".pt"}  # in a folder


class BadInput(ValueError):
    """Input that a user must mend: the message says where, what was found, what was expected."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference pair: two responses to one instruction about one image."""

    pair_id: str
    image_id: str
    image: str
    instruction: str
    chosen: str
    rejected: str
    kind: Literal["description", "pope"]
    source: str  # where the pair came from: a file's name, or "mined"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark about one image; `label` is the gold answer, if there is one."""

    question_id: str
    benchmark: str
    split: str
    image_id: str
    image: str
    text: str
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model (`base`, `merged`, ...) said to one question."""

    question_id: str
    benchmark: str
    split: str
    model: str
    image_id: str
    text: str
    tokens: int  # generated tokens, the end marker included
    finish: Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Region:
    """A described box of an image, in pixels, as Visual Genome has them."""

    x: float
    y: float
    width: float
    height: float
    phrase: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known about one image: what a judge may rule by."""

    image_id: str
    image: str
    width: int
    height: int
    regions: tuple[Region, ...] = ()
    facts: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()  # names of the objects that are present, where annotated


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a judge is asked: rule on each claim, given the evidence."""

    case_id: str  # the question_id of the answer that makes the claims
    model: str
    claims: tuple[str, ...]
    evidence: Evidence


Label = Literal["correct", "hallucination", "cannot judge", "unparsed"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's ruling on one claim; an unreadable reply is `unparsed`, its text kept in `raw`."""

    case_id: str
    model: str
    claim: str
    label: Label
    kind: str = ""  # what sort of hallucination: "absent", "attribute", ... where the judge knows
    reason: str = ""
    raw: str = ""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of one benchmark; `value` is None, and n 0, where it has no valid denominator."""

    benchmark: str
    split: str
    model: str
    name: str
    value: float | None  # fractions, counts or words; never percent
    n: int  # items the value rests on
    n_unreadable: int = 0
    low: float | None = None  # 95 % interval
    high: float | None = None


Record = TypeVar("Record")


def read_jsonl(path: Path, kind: type[Record], *, torn_end: bool = False) -> Iterator[Record]:
    """Records of type `kind` from a JSON Lines file, one after the other.

    Args:
        path: the file.
        kind: a dataclass of this module; its fields are the schema.
        torn_end: drop a last line that a killed writer left unfinished instead of raising.

    Raises:
        BadInput: a line that is no JSON, or a field that is missing, unknown or of another type.
    """
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if torn_end and not line.endswith("\n"):
                return
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}:{number}: not JSON ({error.msg}): {line[:60]!r}") from error
            yield parse(value, kind, where=f"{path}:{number}")


def parse(value: Any, kind: type[Record], *, where: str) -> Record:
    """A record of type `kind` from decoded JSON, checked field by field.

    Raises:
        BadInput: names `where`, the field, what was found and what was expected.
    """
    if not isinstance(value, Mapping):
        raise BadInput(f"{where}: expected an object, found {type(value).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    for name in value:
        if name not in fields:
            raise BadInput(f"{where}: unknown field {name!r}; {kind.__name__} has {list(fields)}")
    found = {}
    for name, field in fields.items():
        if name in value:
            found[name] = _convert(value[name], hints[name], where=f"{where}: field {name!r}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BadInput(f"{where}: no field {name!r} (found {sorted(value)})")
    return kind(**found)


def _convert(value: Any, hint: Any, *, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise BadInput(f"{where}: expected one of {list(arguments)}, found {value!r}")
        return value
    if origin is types.UnionType:
        if value is None:
            return None
        return _convert(value, next(a for a in arguments if a is not types.NoneType), where=where)
    if hint is Any:
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise BadInput(f"{where}: expected an object, found {type(value).__name__}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise BadInput(f"{where}: expected a list, found {type(value).__name__}")
        return tuple(_convert(v, arguments[0], where=f"{where}[{i}]") for i, v in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return parse(value, hint, where=where)  # pyright: ignore[reportArgumentType]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise BadInput(f"{where}: expected {hint.__name__}, found {type(value).__name__} {value!r}")
    return value


def to_json(record: Any) -> str:
    """One JSON line of a record, without the newline; the inverse of `parse`."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False)


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write all records, atomically (never a torn file in sight); returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    count = 0
    with part.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(to_json(record) + "\n")
            count += 1
    os.replace(part, path)  # noqa: PTH105 - Path.replace is the same call; this one says "atomic"
    return count


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: a reader sees all of it or none, so it may be a done mark."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def drop_torn_end(path: Path) -> None:
    """Cut a last line that a killed writer left unfinished off a file, where there is one."""
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)


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
