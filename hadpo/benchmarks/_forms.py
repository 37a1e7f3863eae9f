"""The layouts in which others write answers, and files of them as plain records.

A benchmark declares its own as `FORMS`; lmms-eval's samples and VLMEvalKit's tables have one layout
for all benchmarks, `lmms_eval` and `vlmevalkit` say where a benchmark's fields stand in it.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hadpo.data import Report, json_records, read_json_lines
from hadpo.records import BadInput, read_json, read_text

# Places of a value, the first that holds one counts: "doc.id", "resps.0", "set+number" joined by _.
Fields = tuple[str, ...]
_WRAPPERS = ("imgToEval", "logs")  # keys of an object that holds the records: CHAIR, old lmms-eval
_EXPECTED = "expected answers: JSON lines, a list, a .tsv, .csv or .xlsx table"
_CELL = 2**24  # characters; a table may hold pictures


@dataclass(frozen=True, kw_only=True)
class Form:
    """One layout of answers: which fields of a record say what.

    A file is of the first form whose `answer` and `needs` its first record has. Answers meet their
    questions by id, else by photo and text, else by their order; a text that stands beside is
    checked in any case.
    """

    name: str  # whose it is
    example: str  # a record, for the message about a file that is of no form
    answer: Fields
    needs: Fields = ()  # what tells this form from others: all of them are there
    id: Fields = ()  # the end of a question's id, after - or _: 12 of "pope-random-12"
    split: Fields = ()  # of the question; several are separated by commas
    image: Fields = ()  # the photo's file
    asked: Fields = ()  # what was asked: it holds the question's text
    label: Fields = ()  # the right answer: the file can be scored without a file of questions
    replies: Mapping[str, Fields] = field(default_factory=dict)  # rubric -> a judge's raw reply

    def fits(self, record: Any) -> bool:
        """Whether a record has the fields that this form needs."""
        needed = [self.answer, *((place,) for place in self.needs)]
        return all(value_of(record, fields) is not None for fields in needed)


def lmms_eval(
    *, id: Fields = (), split: Fields = (), image: Fields = ("doc.image_source",)
) -> Form:
    """lmms-eval's samples (`--log_samples`): JSON lines or, of old versions, one object."""
    return Form(
        name="lmms-eval's samples",
        example='{"doc_id": 0, "doc": {...}, "target": "yes", "filtered_resps": ["Yes"]}',
        answer=("filtered_resps.0", "filtered_resps", "resps.0.0"),
        needs=("doc_id",),
        id=id,
        split=split,
        image=image,
        asked=("doc.question", "input"),
        label=("target", "doc.answer"),
    )


def vlmevalkit(*, id: Fields = (), split: Fields = (), image: Fields = ()) -> Form:
    """VLMEvalKit's tables of predictions."""
    return Form(
        name="VLMEvalKit's tables",
        example="a table with the columns index, question, answer, prediction",
        answer=("prediction",),
        needs=("index", "question"),
        id=id,
        split=split,
        image=image,
        asked=("question",),
        label=("answer",),
    )


def value_of(record: Any, fields: Fields) -> str | None:
    """The first of some fields that holds a text or a number, as text; None if none does."""
    for place in fields:
        if "+" in place:
            parts = [value_of(record, (part,)) for part in place.split("+")]
            if None not in parts:
                return "_".join(map(str, parts))
            continue
        found: Any = record
        for step in place.split("."):
            if isinstance(found, Mapping):
                found = found.get(step)
            else:
                items = found if isinstance(found, list) and step.isdigit() else []
                found = next(iter(items[int(step) :]), None) if items else None
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            return str(found)
    return None


def records_of(path: Path, report: Report) -> list[tuple[str, Any]]:
    """`(where, record)` of every record of a file of answers.

    Raises:
        BadInput: no such file, nothing in it, or of no kind that can be read.
    """
    kind = path.suffix.lower()
    if kind == ".xlsx":
        return list(_sheet(path))
    text = read_text(path, expected=_EXPECTED)
    if kind in (".tsv", ".csv"):
        return list(_table(path, text.splitlines(keepends=True), "\t" if kind == ".tsv" else ","))
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):  # lines, or what the reader of lines refuses
        whole = None
    inner = next((whole[k] for k in _WRAPPERS if isinstance(whole, dict) and k in whole), None)
    if inner is not None:
        read_json(path, dict, expected=_EXPECTED)  # refuses keys that stand twice
        values = list(inner.values()) if isinstance(inner, dict) else inner
        return [(f"{path}: record {number}", value) for number, value in enumerate(values)]
    if isinstance(whole, list):
        return list(json_records(path, expected=_EXPECTED))
    return list(read_json_lines(path, report, source="answers", expected=_EXPECTED))


def _table(path: Path, lines: Sequence[str], separator: str) -> Iterator[tuple[str, Any]]:
    usual = csv.field_size_limit(_CELL)
    rows = csv.reader(lines, delimiter=separator, strict=True)
    try:
        yield from _named(((f"{path}:{rows.line_num}", row) for row in rows), path)
    except csv.Error as error:
        raise BadInput(f"{path}:{rows.line_num}: no table ({error}); {_EXPECTED}") from error
    finally:
        csv.field_size_limit(usual)  # it holds for the whole process


def _sheet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import openpyxl  # pyright: ignore[reportMissingModuleSource]
    except ImportError as error:
        raise BadInput(
            f"{path}: tables of Excel need the extra benchmarks (pip install 'hadpo[benchmarks]'); "
            "or save it as .tsv"
        ) from error
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {_EXPECTED}")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = list(book[book.sheetnames[0]].iter_rows(values_only=True))
    except Exception as error:  # openpyxl raises whatever the parts of the file raise
        raise BadInput(f"{path}: no table of Excel ({error}); {_EXPECTED}") from error
    yield from _named(((f"{path}:{n}", list(row)) for n, row in enumerate(rows, start=1)), path)


def _named(rows: Iterator[tuple[str, list[Any]]], path: Path) -> Iterator[tuple[str, Any]]:
    """Rows as records, by the names in the first; an empty cell is an empty text."""
    _, head = next(rows, ("", []))
    names = [str(name) for name in head if name is not None]
    if not names or len(names) != len(set(names)):
        raise BadInput(f"{path}:1: expected names of columns, each once; found {head[:8]}")
    for where, cells in rows:
        if len(cells) != len(head):
            raise BadInput(f"{where}: expected {len(head)} cells, found {len(cells)}")
        if any(cell not in (None, "") for cell in cells):
            yield where, {n: "" if c is None else c for n, c in zip(head, cells, strict=True)}
