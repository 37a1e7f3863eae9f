"""Readers of the original data sets, one module each: their files in, records of ours out.

A reader is a module of this package; its name is the data set's. It declares the fields that it
reads as a frozen dataclass whose types say what is refused (`Text`, `ImageId`, `Box`, ...; fields
that it does not read are ignored), takes the values of a file from `json_records`,
`read_json_lines`, `read_csv` or `stream_list`, and the records from `raw_records`.

All readers take a `Report`. A file that cannot be read at all (missing, empty, no JSON, wrong top
level) raises `BadInput` at once; a broken record is reported, and `report.finish()` lists every
one of them together, or, with `on_bad="skip"`, leaves them counted. What a reader drops by a rule
of the original is counted too: `report.counts` names everything that did not come through.
"""

import codecs
import contextlib
import csv
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import ijson
from pydantic import AfterValidator, BeforeValidator, Field

from hadpo.records import HTML, BadInput, Evidence, Question, decode, parse, read_json, read_text
from hadpo.text import fold, visible

_SHOWN = 20  # problems in one message; the rest are counted
_STORED = 1000  # problems whose text is stored: a file of a million broken records must fit
_WIDE = 80  # characters of a value in a message
_MANY = 2000  # words
# What the backbones' prompts are made of; each begins with one of <[#.
_MARKER = re.compile(
    r"</?s>|</?Img>|<ImageHere>|<image>|\[/?INST\]|###\s*(?:Human|Assistant)\b", re.IGNORECASE
)
_LONGEST = 255  # bytes of a file's name
_DIGITS = 20  # more are no image's number
# Characters that no text, name or id has: no printer shows them, and some tools stop at the first.
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1b\x7f]")
Item = TypeVar("Item")
Fields = TypeVar("Fields")


class Report:
    """Broken records and left-out records of one or several readers.

    Without `asks`, what is read is joined with answers that are there: no photo need be.
    """

    def __init__(self, on_bad: Literal["error", "skip"] = "error", *, asks: bool = True) -> None:
        self.on_bad = on_bad
        self.asks = asks
        self.problems: list[str] = []  # the first ones
        self.n_problems = 0
        self.counts: Counter[str] = Counter()

    def bad(self, problem: str, *, source: str) -> None:
        """Note a broken record, which is left out: its place, what was found and expected."""
        self.n_problems += 1
        if len(self.problems) < _STORED:
            self.problems.append(problem)
        self.counts[f"{source}: broken, left out"] += 1

    @contextlib.contextmanager
    def checking(self, source: str) -> Iterator[None]:
        """A block that reads one record: if it raises `BadInput`, the record is a broken one."""
        try:
            yield
        except BadInput as error:
            self.bad(str(error), source=source)

    def left_out(self, why: str, *, source: str, count: int = 1) -> None:
        """Count records that are left out by a rule, not because they are broken."""
        if count:
            self.counts[f"{source}: {why}"] += count

    def finish(self) -> dict[str, int]:
        """The counts by name; BadInput lists the first problems, unless they may be skipped."""
        if self.problems and self.on_bad == "error":
            more = self.n_problems - _SHOWN
            tail = [f"... and {more} more"] if more > 0 else []
            hint = "fix them, or set on_bad to 'skip' to leave them out and count them"
            raise BadInput("\n".join([*self.problems[:_SHOWN], *tail, hint]))
        return dict(sorted(self.counts.items()))


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What prepare has read so far: from it, benchmarks make their questions and evidence."""

    data: Any  # the recipe's section data, with the paths that benchmarks add to it
    resolve: Callable[[str], Path]  # a path of the section -> where it lies
    note: Callable[[Path], Path]  # hashes a small file into the manifest, and returns it
    report: Report
    asked: Mapping[str, Collection[str]] = field(default_factory=dict)  # benchmark -> image ids
    images: Mapping[str, Evidence] = field(default_factory=dict)  # of Visual Genome, by id
    photos: Mapping[str, Evidence] = field(default_factory=dict)  # of COCO, by file name

    def has(self, benchmark: Any) -> bool:
        """Whether there is what a benchmark's module reads: the first setting of its `FILES`."""
        setting = next(iter(getattr(benchmark, "FILES", ())), "")
        return not setting or bool(getattr(self.data, setting))

    def folder(self, setting: str, *names: str) -> Path:
        """The folder that a setting names; its files of these names are hashed if they exist."""
        path = self.resolve(getattr(self.data, setting))
        for name in names:
            if (path / name).is_file():
                self.note(path / name)
        return path


# Fields of raw records


def parse_raw(value: Any, kind: type[Fields], *, where: str) -> Fields:
    """The fields that `kind` declares of a decoded record.

    BadInput lists all that are not right.
    """
    return parse(value, kind, where=where, extra="ignore")


def check_text(text: str) -> str:
    """The text; ValueError if no model may read or say it, see `Text`."""
    if not text or not visible(text).strip():
        raise ValueError("the text is empty")
    if len(text) > _MANY and len(text.split()) > _MANY:
        raise ValueError(f"{len(text.split())} words; no model reads more than {_MANY}")
    if any(sign in text for sign in "<[#") and (marker := _MARKER.search(text)):
        raise ValueError(f"the prompt marker {marker[0]!r} in the text")
    return _check_control(text)


def _check_control(text: str) -> str:
    if control := _CONTROL.search(text):
        raise ValueError(f"the control character {control[0]!r} in {text[:_WIDE]!r}")
    return text


def _check_noun(name: str) -> str:
    if not visible(name).strip():
        raise ValueError("the name is empty")
    if visible(name) != unicodedata.normalize("NFC", name):
        raise ValueError(f"a character of no width in the name {ascii(name)[:_WIDE]}")
    return unicodedata.normalize("NFC", _check_control(name))


def _number_as_text(value: Any) -> str:
    text = str(value).strip() if isinstance(value, (int, str)) else ""
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS):
        raise ValueError(f"expected a number, found {str(value)[:_WIDE]!r}")
    return str(int(text))


def _name_as_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"expected str or int, found {type(value).__name__} {str(value)[:_WIDE]}")
    return _check_control(str(value))


def _check_box(sides: list[float]) -> tuple[float, ...]:
    if len(sides) != 4:
        raise ValueError(f"expected x, y, width, height, found {sides!r}")
    return tuple(sides)


def _check_path(relative: str) -> str:
    path = Path(relative)
    if path.is_absolute() or ".." in path.parts or not relative.strip():
        raise ValueError(f"path {relative[:_WIDE]!r} does not stay inside its folder")
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in path.parts]
    if "\0" in relative or max(sizes) > _LONGEST:
        raise ValueError(f"path {relative[:_WIDE]!r} can be no file's name")
    return relative


def _check_stem(stem: str) -> str:
    _check_path(f"{stem}.jpg")
    return stem


# A text that a model is to read or to say: not empty, not longer than any of the models reads, and
# without control characters or a marker of a prompt, which a tokenizer would take for the real one.
Text = Annotated[str, AfterValidator(check_text)]
# An image's id as text; files hold it as a number or as a string of digits.
ImageId = Annotated[str, BeforeValidator(_number_as_text)]
# An id as text that may be a name; files hold it as a number or as a string.
Name = Annotated[str, BeforeValidator(_name_as_text)]
# A name that an image's file has, too.
Stem = Annotated[Name, AfterValidator(_check_stem)]
# A path that stays inside its folder.
InnerPath = Annotated[str, AfterValidator(_check_path)]
# What an object is called: not empty, in Unicode's composed form, every character visible.
Noun = Annotated[str, AfterValidator(_check_noun)]
# Width or height of an image in pixels.
Side = Annotated[int, Field(gt=0)]
# x, y, width and height in pixels.
Box = Annotated[list[float], AfterValidator(_check_box)]


def inside(folder: Path, relative: str, *, where: str) -> Path:
    """The path `relative` below `folder`; BadInput if it climbs out, or can be no file's name."""
    try:
        return folder / _check_path(relative)
    except ValueError as error:
        raise BadInput(f"{where}: {error} ({folder})") from error


def raw_records(
    values: Iterable[tuple[str, Any]],
    kind: type[Fields],
    report: Report,
    *,
    source: str,
    once: Collection[str] = (),
) -> Iterator[tuple[str, Fields]]:
    """`(where, fields)` of the values (each with its place) that are records; others are reported.

    No two may have the same in a field that `once` names, as far as a person sees: an id in two
    forms of Unicode is one id.
    """
    seen: set[tuple[str, str]] = set()
    for where, value in values:
        with report.checking(source):
            raw = parse_raw(value, kind, where=where)
            keys = [(name, visible(str(getattr(raw, name))).strip()) for name in once]
            if twice := [f"{name} {key}" for name, key in keys if (name, key) in seen]:
                raise BadInput(f"{where}: {', '.join(twice)} is there twice")
            seen.update(keys)
            yield where, raw


def one_label(
    questions: Iterable[tuple[str, Question]], report: Report, *, source: str
) -> dict[str, Question]:
    """Questions by their place; one that an image was asked before with another label is broken."""
    labels: dict[tuple[str, str], str | None] = {}
    found: dict[str, Question] = {}
    for where, question in questions:
        key = question.image_id, fold(visible(question.text))
        if (before := labels.setdefault(key, question.label)) == question.label:
            found[where] = question
        else:
            asked = f"image {question.image_id} is asked {question.text[:_WIDE]!r}"
            report.bad(f"{where}: {asked}: {question.label}, and {before} before", source=source)
    return found


def with_images(
    records: Mapping[str, Item], report: Report, *, source: str, lost: str = ""
) -> list[Item]:
    """The records (by their place) whose image file is there; each missing file is reported once.

    The records that are left out so are counted as `lost`, if it says something.
    """
    missing: set[str] = set()
    for where, record in records.items() if report.asks else ():
        image = getattr(record, "image", "")
        if image and image not in missing and not Path(image).is_file():
            missing.add(image)
            report.bad(f"{where}: no image file {image}", source=source)
    left = [r for r in records.values() if getattr(r, "image", "") not in missing]
    if lost:
        report.left_out(lost, source=source, count=len(records) - len(left))
    return left


def question(
    benchmark: str,
    number: object,
    image: Evidence,
    text: str,
    *,
    split: str,
    label: str | None = None,
) -> Question:
    """A question about an image that is known; its id is "<benchmark>-<number>"."""
    return Question(
        question_id=f"{benchmark}-{number}",
        benchmark=benchmark,
        split=split,
        image_id=image.image_id,
        image=image.image,
        text=text,
        label=label,
    )


def refuse_unknown(ids: Iterable[str], images: Mapping[str, Evidence], *, source: str) -> None:
    """Raise BadInput if Visual Genome does not have one of the images; lists the first 20."""
    unknown = [key for key in dict.fromkeys(ids) if key not in images]
    if unknown:
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        raise BadInput(
            f"{source}: {len(unknown)} images that Visual Genome does not have: "
            f"{', '.join(unknown[:20])}{more}"
        )


# Files that are read as a whole


def json_records(path: Path, *, expected: str) -> Iterator[tuple[str, Any]]:
    """`(where, value)` of each element of a JSON list; raises as `read_json`."""
    for number, value in enumerate(read_json(path, list, expected=expected)):
        yield f"{path}: record {number}", value


def read_json_lines(
    path: Path, report: Report, *, source: str, expected: str
) -> Iterator[tuple[str, Any]]:
    """`(where, value)` of each non-empty line of a JSON Lines file; broken lines are reported.

    A file that is one JSON list is read as its elements.
    """
    text = read_text(path, expected=expected)
    if text.lstrip().startswith("["):
        yield from json_records(path, expected=expected)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            with report.checking(source):
                where = f"{path}:{number}"
                value = decode(line, where=where)
                yield where, value


def read_csv(
    path: Path, report: Report, *, source: str, expected: str, needs: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """`(where, cells by column)` of each row of a CSV file; broken rows are reported.

    Raises:
        BadInput: no such file, empty, no UTF-8, no CSV, a column twice, or one of `needs` missing.
    """
    _start_of(path, expected)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            names = [name.strip() for name in next(lines)]
            if missing := [name for name in needs if name not in names]:
                raise BadInput(
                    f"{path}:1: no column {', '.join(missing)} (found {names[:8]}); {expected}"
                )
            counts = Counter(map(visible, filter(None, names)))
            if twice := [name for name, count in counts.items() if count > 1]:
                raise BadInput(f"{path}:1: column {twice[0]!r} is there twice; {expected}")
            for row in lines:
                where = f"{path}:{lines.line_num}"
                if len(row) == len(names):
                    yield where, dict(zip(names, row, strict=True))
                elif row:
                    found = f"expected {len(names)} columns, found {len(row)}: {row[0][:40]!r}"
                    report.bad(f"{where}: {found}; quote texts that have commas", source=source)
        except csv.Error as error:
            raise BadInput(f"{path}:{lines.line_num}: not CSV ({error}); {expected}") from error
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: not UTF-8, after line {lines.line_num}; {expected}") from error


# Large JSON files, one record at a time: memory does not grow with the file


def stream_list(
    path: Path, *, expected: str, below: str = "", called: str = "record"
) -> Iterator[tuple[str, Any]]:
    """`(where, value)` of the elements of a JSON list, decoded one by one.

    What comes after the last element is checked too, so a file that is cut off raises at its end.
    `below` is the key of an object that may hold the list instead, `called` what `where` calls an
    element.

    Raises:
        BadInput: no such file, empty, no UTF-8, no JSON, or another top level.
    """
    with _opened(path, "[{" if below else "[", expected) as (file, first):
        is_wrapped = first == "{"
        prefix = f"{below}.item" if is_wrapped else "item"
        values = ijson.items(file, prefix, use_float=True)
        number = -1
        for number, value in enumerate(_checked(values, path, expected)):
            yield f"{path}: {called} {number}", value
        if is_wrapped and number < 0:
            file.seek(0)
            _first_bytes(file)
            _refuse_other_object(file, path, below, expected)


def stream_object(path: Path, *, expected: str) -> Iterator[tuple[str, Any]]:
    """Key and value of each entry of a JSON object, decoded one by one; else as `stream_list`."""
    with _opened(path, "{", expected) as (file, _):
        values = ijson.kvitems(file, "", use_float=True)
        yield from _checked(values, path, expected)


@contextlib.contextmanager
def _opened(path: Path, starts: str, expected: str) -> Iterator[tuple[BinaryIO, str]]:
    """The file, open before its first value, and the character that this begins with."""
    text = _start_of(path, expected)
    first = text[:1].decode("latin-1")
    if first not in starts:
        kinds = {"[": "of type list", "{": "of type object"}
        found = kinds.get(first, f"no JSON list ({text[:20]!r})")
        raise BadInput(f"{path}: the top level is {found}; {expected}")
    with path.open("rb") as file:
        _first_bytes(file)
        yield file, first


def _start_of(path: Path, expected: str) -> bytes:
    """The first bytes of a file that are not blank; BadInput if it can be no file of text."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {expected}")
    with path.open("rb") as file:
        text = _first_bytes(file)
    if not text:
        raise BadInput(f"{path}: the file is empty; {expected}")
    if text.lower().startswith(tuple(mark.encode() for mark in HTML)):
        raise BadInput(f"{path}: an HTML page: the download failed; {expected}")
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadInput(f"{path}: not UTF-8 but UTF-16; {expected}")
    return text


def _checked(values: Iterable[Item], path: Path, expected: str) -> Iterator[Item]:
    """The values; an error of the parser becomes one of ours."""
    count = 0
    try:
        for value in values:
            yield value
            count += 1
    except (ijson.JSONError, UnicodeDecodeError, OverflowError, ValueError) as error:
        reason = str(error).split("\n")[0].strip()
        raise BadInput(
            f"{path}: after {count} records: not JSON that can be read, or the file is cut off "
            f"({reason}); {expected}"
        ) from error


def _first_bytes(file: BinaryIO) -> bytes:
    """The first bytes that are not blank; the file stands after a byte order mark, if any."""
    mark = codecs.BOM_UTF8  # some editors put it in front; a JSON parser refuses it
    start = len(mark) if file.read(len(mark)) == mark else 0
    file.seek(start)
    for piece in itertools.takewhile(bool, iter(lambda: file.read(64), b"")):
        if text := piece.lstrip(b" \t\r\n"):
            file.seek(start)
            return text
    return b""


def _refuse_other_object(file: BinaryIO, path: Path, key: str, expected: str) -> None:
    """Raise unless the object has a list, if only an empty one, below `key`."""
    for prefix, event, _ in ijson.parse(file, use_float=True):
        if prefix == key:
            if event == "start_array":
                return
            raise BadInput(f"{path}: {key!r} is no list; {expected}")
    raise BadInput(f"{path}: an object without {key!r}; {expected}")
