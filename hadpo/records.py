"""The records that cross stages, and the JSON Lines files that hold them. Read this file first.

A stage reads files of records and writes files of records, so each can be rerun alone. Every record
is a frozen dataclass of plain values; `image` is the path of an image file, ids are strings.
"""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar


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
    model: str  # whose claims they are; where several models are compared, "" and see claim_models
    claims: tuple[str, ...]
    evidence: Evidence
    rubric: str = "shr"  # how claims are judged: "shr" labels sentences, "gavie" grades answers
    question: str = ""  # what the claims answer, where the judge is to know
    claim_models: tuple[str, ...] = ()  # of each claim, in the order in which they are shown

    def model_of(self, place: int) -> str:
        """Whose claim stands at a place, counted from 0."""
        return self.claim_models[place] if self.claim_models else self.model


Label = Literal["correct", "hallucination", "cannot judge", "scored", "unparsed"]


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
    scores: dict[str, float] = dataclasses.field(default_factory=dict)  # where label is "scored"
    place: int = 0  # among claims of several models that were shown together, from 1; 0: alone


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
