"""The records that cross stages, and the files that hold them.

A stage reads files of records and writes files of records, so each can be rerun alone. A record is
a frozen dataclass of plain values: `image` is a file's path, ids are strings. Files of records are
JSON Lines, one record a line, each checked against its dataclass by pydantic. A file is written
beside its place and then renamed, so a reader sees the old one or the new one, never a part.
"""

import functools
import hashlib
import json
import math
import operator
import os
import re
import shutil
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from hadpo.places import fill, shorten, variables_of


class BadInput(ValueError):
    """Input that a user must fix: the message says where, what was found, what was expected."""

    exit_code = 2  # of a command that it ends; other errors that a user can fix have one too

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message without a traceback."""
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference pair: two responses to one instruction about one image."""

    pair_id: str
    image_id: str
    image: str
    instruction: str
    chosen: str
    rejected: str
    kind: Literal["description", "pope"]  # of the texts; "pope": a question like POPE's, yes or no
    source: str  # where the pair came from: a file's name, or "mined"


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One example to finetune on: what is asked about one image, and what should be answered."""

    instruction_id: str
    image_id: str
    image: str
    instruction: str  # "": one of the backbone's own requests for a caption
    answer: str
    kind: Literal["positive", "negative", "chart", "caption"]
    source: str  # where it came from: a file's name, or "generated"
    task: str = ""  # as the file says it: "Image Captioning", "negative", ...
    weight: float = 1.0  # of its loss


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
    objects: tuple[str, ...] = ()  # names of the objects that are present, if annotated


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a judge is asked: rule on each claim, given the evidence."""

    case_id: str  # the question_id of the answer that makes the claims
    model: str  # whose claims they are; if several models are compared: "", see claim_models
    claims: tuple[str, ...]
    evidence: Evidence
    rubric: str = "shr"  # how claims are judged: "shr" labels sentences, "gavie" grades answers
    question: str = ""  # what the claims answer, if the judge needs to know it
    claim_models: tuple[str, ...] = ()  # of each claim, in the order in which they are shown

    def model_of(self, place: int) -> str:
        """Whose claim stands at a place, counted from 0 (`Verdict.place` counts from 1)."""
        return self.claim_models[place] if self.claim_models else self.model


Label = Literal["correct", "incorrect", "hallucination", "cannot judge", "scored", "unparsed"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's ruling on one claim; an unreadable reply is `unparsed`, its text kept in `raw`."""

    case_id: str
    model: str
    claim: str
    label: Label
    kind: str = ""  # what sort of hallucination, if the judge knows: "absent", "attribute", ...
    reason: str = ""
    raw: str = ""
    scores: dict[str, float] = field(default_factory=dict)  # if label is "scored"
    place: int = 0  # from 1, of the claim in a case with `claim_models`; 0: a case of one model


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of one benchmark; `value` is None, and n 0, without a valid denominator."""

    benchmark: str
    split: str
    model: str
    name: str
    value: float | None  # fractions, counts or words; never percent
    n: int  # the denominator; of a measure with `counts_answers`, how many answers
    n_unreadable: int = 0
    low: float | None = None  # 95 % interval
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the metrics of one model on one split rest on, without its answers.

    Every ratio is a ratio of two sums over images: `sums` has the numerators and the denominators
    of each metric, one number an image. `right` says of each labelled question, in the order of
    their ids, whether it was answered rightly ("1") or not ("0").
    """

    benchmark: str
    split: str
    model: str
    questions: str  # sha256 of the questions that were answered: ids, images, texts, labels
    n_questions: int
    images: tuple[str, ...]
    sums: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    right: str = ""


# Reading


Record = TypeVar("Record")
_LARGEST = 2**63  # of integers in JSON: no field holds a larger one
_SHOWN = 80  # characters of a value in a message
HTML = ("<!doctype", "<html", "<?xml")  # how a page begins that a failed download left
_TOO_DEEP = "lists and objects are nested too deeply"
_EXPECTED = {  # kinds of pydantic's errors -> what a message says is expected
    "string_type": "str",
    "int_type": "int",
    "int_from_float": "int",
    "float_type": "float",
    "bool_type": "bool",
    "finite_number": "a finite number",
    "tuple_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "dataclass_exact_type": "an object",
}


def read_jsonl(path: str | Path, kind: type[Record], *, torn_end: bool = False) -> Iterator[Record]:
    """Records of type `kind` from a JSON Lines file, one after the other.

    Args:
        path: the file; a byte order mark and empty lines are ignored.
        kind: a dataclass; its fields are the schema.
        torn_end: drop a last line that a killed writer left unfinished instead of raising.

    Raises:
        BadInput: no such file, or a line that `decode` or `parse` refuses; names file and line.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    known = variables_of(Path(path))
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if torn_end and not line.endswith(b"\n"):
                return
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BadInput(f"{where}: not UTF-8 (byte {error.start} of the line)") from error
            if text.strip():
                yield _placed(parse(decode(text, where=where), kind, where=where), known, where)


def _placed(record: Record, known: dict[str, str], where: str) -> Record:
    """The record with the variables of its image's path filled in; see `places`."""
    image = getattr(record, "image", None)
    if not isinstance(image, str) or not image.startswith("${"):
        return record
    path = fill(image, known)
    if "${" in path:
        raise BadInput(
            f"{where}: field 'image': {image[:_SHOWN]!r}, but the file lies in no run, or the "
            f"variable is unknown; known here: {', '.join(known)}"
        )
    return replace(record, image=path)  # pyright: ignore[reportArgumentType]


def decode(text: str, *, where: str) -> Any:
    """The value of a JSON text; what JSON's readers take in silence is refused.

    Raises:
        BadInput: not JSON, a key that stands twice in one object, a number that is not finite or an
            integer beyond 64 bits, or lists and objects nested too deeply; names `where`.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        is_cut_off = error.pos >= len(text.rstrip()) - 1
        reason = "it is cut off" if is_cut_off else f"{error}: {text[error.pos :][:40]!r}"
        raise BadInput(f"{where}: not JSON ({reason})") from error
    except RecursionError as error:
        raise BadInput(f"{where}: {_TOO_DEEP}") from error
    except ValueError as error:
        number = re.escape(str(error).rpartition("finite number, found ")[2])
        key = re.search(rf'"([^"]*)"\s*:[^":{{}}]*{number}', text)
        raise BadInput(f"{where}: {key[1] + ': ' if key else ''}{error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST <= int(digits) < _LARGEST:
        raise ValueError(f"an integer of {len(digits)} digits, too large for 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"expected a finite number, found {digits[:_SHOWN]}")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_finite
)


def parse(
    value: Any, kind: type[Record], *, where: str, extra: Literal["forbid", "ignore"] = "forbid"
) -> Record:
    """A record of type `kind` from decoded JSON, checked strictly: no text is read as a number.

    Args:
        value: the decoded JSON.
        kind: a dataclass; its fields are the schema.
        where: place of the value, for messages.
        extra: what happens to fields that the dataclass does not have.

    Raises:
        BadInput: `where`, and of each problem the field, what was expected and what was found.
    """
    from pydantic import ValidationError

    try:
        (record,) = _adapter(kind, extra).validate_json(json.dumps([value]))
    except RecursionError as error:
        raise BadInput(f"{where}: {_TOO_DEEP}") from error
    except ValidationError as error:
        problems = _problems(error.errors(include_url=False), kind, value)
        raise BadInput(f"{where}: {'; '.join(problems)}") from error
    return record


@functools.cache
def _adapter(kind: type, extra: Literal["forbid", "ignore"]) -> Any:
    """What reads a list of one record; pydantic is imported, and this built, at the first use."""
    from pydantic import ConfigDict, TypeAdapter

    strict = ConfigDict(strict=True, extra=extra, allow_inf_nan=False)
    one: Any = types.GenericAlias(tuple, (kind,))
    return TypeAdapter(one, config=strict)


def _problems(errors: Iterable[Mapping[str, Any]], kind: type, value: Any) -> Iterator[str]:
    """What pydantic found, in our words; the missing fields of one object are one problem."""
    missing: dict[tuple[str | int, ...], list[str]] = {}
    for error in errors:
        path = error["loc"][1:]
        if error["type"] == "missing":
            missing.setdefault(path[:-1], []).append(repr(_dotted(path)))
        else:
            yield _problem(error, path, kind)
    for path, names in missing.items():
        found = sorted(functools.reduce(operator.getitem, path, value))
        yield f"no field {', '.join(names)} (found {str(found)[:_SHOWN]})"


def _problem(error: Mapping[str, Any], path: Sequence[str | int], kind: type) -> str:
    if error["type"] == "json_invalid":
        is_deep = "recursion" in error["msg"]
        return _TOO_DEEP if is_deep else "half a character (a lone surrogate) in a text"
    if error["type"] == "unexpected_keyword_argument":
        for step in path[:-1]:
            kind = _inner(kind, step)
        known = [f.name for f in fields(kind)] if is_dataclass(kind) else "none of that name"
        return f"unknown field {_dotted(path)!r}; {getattr(kind, '__name__', kind)} has {known}"
    at = f"field {_dotted(path)!r}: " if path else ""
    if error["type"] == "value_error":  # of a check of ours
        return f"{at}{error['ctx']['error']}"
    found = error["input"]
    if error["type"] == "literal_error":
        return f"{at}expected one of {error['ctx']['expected']}, found {repr(found)[:_SHOWN]}"
    expected = _EXPECTED.get(error["type"], error["msg"])
    return f"{at}expected {expected}, found {f'{type(found).__name__} {found!r}'[:_SHOWN]}"


def _dotted(path: Sequence[str | int]) -> str:
    """Where a value stands in a record: "evidence.regions[0].x"."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def _inner(kind: Any, step: str | int) -> Any:
    """The type of a dataclass's field, or of a tuple's items."""
    if is_dataclass(kind):
        return typing.get_type_hints(kind)[str(step)]
    return typing.get_args(kind)[0]


def read_text(path: str | Path, *, expected: str) -> str:
    """The text of a file that is not empty; a byte order mark is ignored.

    Args:
        path: the file.
        expected: the end of each message: what the file should be, or what to do.

    Raises:
        BadInput: no such file, no UTF-8, empty, or a page that a failed download left.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file; {expected}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 (byte {error.start}); {expected}") from error
    if not text.strip():
        raise BadInput(f"{path}: the file is empty; {expected}")
    if text.lstrip()[:15].lower().startswith(HTML):
        raise BadInput(f"{path}: an HTML page: the download failed; {expected}")
    return text


def read_json(path: str | Path, kind: type, *, expected: str) -> Any:
    """The content of a JSON file whose top level is a `kind` (list or dict).

    Raises:
        BadInput: as `read_text` and `decode`, or another top level.
    """
    text = read_text(path, expected=expected)
    try:
        value = decode(text, where=str(path))
    except BadInput as error:
        raise BadInput(f"{error}; {expected}") from error
    if not isinstance(value, kind):
        found = {dict: "object", list: "list"}.get(type(value), type(value).__name__)
        raise BadInput(f"{path}: the top level is of type {found}; {expected}")
    return value


# Writing


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, default=vars)


def to_json(record: Any, known: dict[str, str] | None = None) -> str:
    """One JSON line of a record, without the newline; the inverse of `parse`.

    Args:
        record: a dataclass.
        known: variables of the file that it goes to, for its image's path; see `places`.

    Raises:
        ValueError: a number that is not finite, which `read_jsonl` would refuse.
    """
    values = vars(record)
    if known and isinstance(values.get("image"), str):
        values = {**values, "image": shorten(values["image"], known)}
    return _ENCODER.encode(values)


def write_jsonl(path: str | Path, records: Iterable[Any]) -> int:
    """Write all records to a file, atomically; makes its folder. Returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count, known = 0, variables_of(path)
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(to_json(record, known) + "\n")
            count += 1
    return count


def write_text(path: Path, text: str, *, is_durable: bool = False) -> None:
    """Write a text file atomically; see `replacing`."""
    with replacing(path, is_durable=is_durable) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, is_durable: bool = False, **how: Any) -> None:
    """Write a value as an indented JSON file, atomically; `how` is of `json.dumps`."""
    options: dict[str, Any] = {"indent": 1} | how
    text = json.dumps(value, **options)
    write_text(path, text + "\n", is_durable=is_durable)


@contextmanager
def replacing(path: Path, *, is_shared: bool = False, is_durable: bool = False) -> Iterator[Path]:
    """A place to write a file or a folder to; when the block ends well, it becomes `path`.

    A reader of `path` sees all of the old file or all of the new one, so it may be a done mark.
    What a block that fails has written is deleted: a full disk needs the room.

    Args:
        path: the file, or a folder that is not there any more when the block ends.
        is_shared: other processes may write the same file now: each gets a place of its own.
        is_durable: it is on the disk before it appears, so that a power cut leaves no torn file.
    """
    owner = f".{os.getpid()}" if is_shared else ""
    part = path.with_name(f"{path.name}{owner}.part")
    try:
        yield part
        if is_durable:
            flush(part)
        part.replace(path)
        if is_durable:
            flush(path.parent, deep=False)
    except BaseException:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        raise


def flush(path: Path, *, deep: bool = True) -> None:
    """Wait until a file, or a folder with all that lies in it, is on the disk (fsync)."""
    inside = path.rglob("*") if deep and path.is_dir() else ()
    for each in (*inside, path):
        if each.is_symlink() or not (each.is_file() or each.is_dir()):
            continue
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def drop_torn_end(path: Path) -> None:
    """Cut off a last line that a killed writer left unfinished, if the file has one."""
    content = path.read_bytes() if path.is_file() else b""
    if not content.endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)


def resume_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """The records that earlier starts appended to a file; a line that a kill tore is cut off.

    Raises:
        BadInput: a broken line; see `read_jsonl`.
    """
    drop_torn_end(path)
    return list(read_jsonl(path, kind)) if path.is_file() else []


def append_jsonl(path: Path, records: Iterable[Record]) -> Iterator[Record]:
    """Append records to a file as they come; each is given on once it is written."""
    known = variables_of(path)
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(to_json(record, known) + "\n")
            file.flush()
            yield record


# Hashes


_WHOLE_BYTES = 64 * 2**20  # of larger inputs, two ends are hashed
_END_BYTES = 2**20
_HASHED = {".json", ".jsonl", ".model", ".safetensors", ".bin", ".pth", ".pt"}  # in a folder


def file_hash(path: Path) -> str:
    """SHA-256 of a whole file, read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """SHA-256 of bytes, or of a text as UTF-8."""
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def input_hashes(places: Iterable[str | Path], *, below: Path) -> dict[str, str]:
    """SHA-256 of a stage's input files, so that its manifest says what its numbers rest on.

    Of a file of more than 64 MB its size and its first and last MB stand for it, as its key says.

    Args:
        places: files, or folders whose own weights, configs and records count; what does not exist,
            such as the name of a model in a cache, is left out.
        below: the run's folder; keys are paths relative to it, or the ends of paths.
    """
    files: dict[Path, None] = {}
    for place in map(Path, places):
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        wanted = [p for p in inside if p == place or p.suffix in _HASHED]
        files |= dict.fromkeys(p for p in wanted if p.is_file())
    hashes: dict[str, str] = {}
    for path in files:
        is_whole = path.stat().st_size <= _WHOLE_BYTES
        end = "" if is_whole else " (size, first and last MB)"
        names = [str(path.relative_to(below))] if path.is_relative_to(below) else []
        names += ["/".join(path.parts[-k:]) for k in range(2, len(path.parts) + 1)]
        key = next(name + end for name in names if name + end not in hashes)
        hashes[key] = file_hash(path) if is_whole else _hash_of_ends(path)
    return hashes


def _hash_of_ends(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(_END_BYTES)
        file.seek(-_END_BYTES, os.SEEK_END)
        return f"{path.stat().st_size} bytes, {value_hash(start + file.read())}"


def refuse_changed(before: Mapping[str, str], now: Mapping[str, str], *, where: Path) -> None:
    """Refuse to go on with a file of answers that other inputs gave.

    Args:
        before: hashes of an earlier start; if it has none of `now`, nothing is refused.
        now: today's hashes.
        where: what was begun.

    Raises:
        BadInput: names the inputs that differ.
    """
    changed = [key for key, value in now.items() if before.get(key) != value]
    if changed and any(key in before for key in now):
        raise BadInput(
            f"{where} was begun with other files than there are now: {', '.join(changed)} differ; "
            "put them back, start anew with --force, or choose another --name"
        )
