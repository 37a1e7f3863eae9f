"""Readers of the original data sets, one module each: their files in, records of ours out.

All readers take a `Report`. A file that cannot be read at all (missing, empty, no JSON, wrong top
level) ends in `BadInput` at once; a broken record is reported, and `report.finish()` lists every
one of them together, or, with `on_bad="skip"`, leaves them counted. What a reader drops by a rule
of the original is counted too: `report.counts` is the whole story of what did not come through.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from hadpo.records import BadInput

_SHOWN = 20  # problems in one message; the rest are counted
_KEPT = 1000  # problems whose text is kept: a file of a million broken records must fit
_WIDE = 80  # characters of a value in a message
_MANY = 2000  # words
# What the backbones' prompts are made of; each begins with one of <[#.
_MARKER = re.compile(
    r"</?s>|</?Img>|<ImageHere>|<image>|\[/?INST\]|###\s*(?:Human|Assistant)\b", re.IGNORECASE
)
_LONGEST = 255  # bytes of a file's name
_DIGITS = 20  # more are no image's number
_HALF = re.compile("[\ud800-\udfff]")  # JSON can say it, and no file can hold it


class Report:
    """Broken records and left-out records of one or several readers."""

    def __init__(self, on_bad: Literal["error", "skip"] = "error") -> None:
        self.on_bad = on_bad
        self.problems: list[str] = []  # the first ones
        self.n_problems = 0
        self.counts: Counter[str] = Counter()

    def bad(self, problem: str, *, source: str) -> None:
        """Note a broken record, which is left out: where it stands, what was found and expected."""
        self.n_problems += 1
        if len(self.problems) < _KEPT:
            self.problems.append(problem)
        self.counts[f"{source}: broken, left out"] += 1

    def left_out(self, why: str, *, source: str, count: int = 1) -> None:
        """Count records that are left out by a rule, not because they are broken."""
        if count:
            self.counts[f"{source}: {why}"] += count

    def finish(self) -> dict[str, int]:
        """The counts, sorted by name.

        Raises:
            BadInput: there are problems and they may not be skipped; lists the first 20 of them
                and counts the others.
        """
        if self.problems and self.on_bad == "error":
            more = self.n_problems - _SHOWN
            tail = [f"... and {more} more"] if more > 0 else []
            hint = "mend them, or set on_bad to 'skip' to leave them out and count them"
            raise BadInput("\n".join([*self.problems[:_SHOWN], *tail, hint]))
        return dict(sorted(self.counts.items()))


def read_text(path: Path, *, expected: str) -> str:
    """The text of a file that says something.

    Raises:
        BadInput: no such file, empty, or no UTF-8.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {expected}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark in front
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 (byte {error.start}); {expected}") from error
    if not text.strip():
        raise BadInput(f"{path}: the file is empty; {expected}")
    return text


def read_json(path: Path, kind: type, *, expected: str) -> Any:
    """The content of a JSON file whose top level is a `kind` (list or dict).

    Raises:
        BadInput: no such file, empty, no UTF-8, no JSON (an HTML page, a cut-off file), or another
            top level; the message says what to expect there.
    """
    text = read_text(path, expected=expected)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: {_no_json(text, error)}; {expected}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; 100,000 brackets
        raise BadInput(f"{path}: not JSON that can be read ({error}); {expected}") from error
    if not isinstance(value, kind):
        raise BadInput(f"{path}: the top level is a {_name(value)}; {expected}")
    return value


def read_json_lines(path: Path, report: Report, *, source: str, expected: str) -> Iterator[Any]:
    """`(where, object)` of each non-empty line of a JSON Lines file; broken lines are reported."""
    text = read_text(path, expected=expected)
    if _html(text):
        raise BadInput(f"{path}: an HTML page, not JSON lines: the download failed; {expected}")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            report.bad(f"{where}: not JSON ({error.msg}): {line[:60]!r}", source=source)
            continue
        except (ValueError, RecursionError) as error:
            report.bad(f"{where}: not JSON that can be read ({error})", source=source)
            continue
        if isinstance(value, dict):
            yield where, value
        else:
            report.bad(f"{where}: expected an object, found a {_name(value)}", source=source)


def field(
    record: Mapping[str, Any], name: str, kind: type | tuple[type, ...], *, where: str
) -> Any:
    """A field of a decoded record, checked.

    Raises:
        BadInput: no object, or its field is missing or of another type. Readers catch it and report
            the record.
    """
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected an object, found {_name(record)}")
    if name not in record:
        raise BadInput(f"{where}: no field {name!r} (found {str(sorted(record))[:_WIDE]})")
    value = record[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        shown = repr(value)[:_WIDE]
        raise BadInput(f"{where}: field {name!r}: expected {names}, found {_name(value)} {shown}")
    if isinstance(value, str) and not value.isascii() and _HALF.search(value):
        raise BadInput(f"{where}: field {name!r}: half a character (a lone surrogate) in the text")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{where}: field {name!r}: expected a number, found {value!r}")
    return value


def said(record: Mapping[str, Any], name: str, *, where: str) -> str:
    """A field with a text that a model is to read or to say.

    Raises:
        BadInput: missing, empty, longer than any of the models reads, or with a marker of a
            prompt inside, which a tokenizer would take for the real one.
    """
    text = field(record, name, str, where=where)
    if not text or text.isspace():
        raise BadInput(f"{where}: field {name!r} is empty")
    if len(text) > _MANY and len(text.split()) > _MANY:
        raise BadInput(
            f"{where}: field {name!r}: {len(text.split())} words; no model reads more than {_MANY}"
        )
    if any(sign in text for sign in "<[#") and (marker := _MARKER.search(text)):
        raise BadInput(f"{where}: field {name!r}: the prompt marker {marker[0]!r} in the text")
    return text


def image_id(record: Mapping[str, Any], *, where: str) -> str:
    """The image's id as text; files hold it as a number or as a string of digits.

    Raises:
        BadInput: missing, or neither of the two.
    """
    value = field(record, "image_id", (int, str), where=where)
    text = value.strip() if isinstance(value, str) else f"{value:d}"
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS):
        raise BadInput(
            f"{where}: field 'image_id': expected a number, found {str(value)[:_WIDE]!r}"
        )
    return str(int(text))


def box(record: Mapping[str, Any], name: str, *, where: str) -> tuple[float, float, float, float]:
    """A field with x, y, width and height in pixels.

    Raises:
        BadInput: missing, or not four numbers.
    """
    sides = field(record, name, list, where=where)
    if len(sides) != 4:
        raise BadInput(f"{where}: field {name!r}: expected x, y, width, height, found {sides!r}")
    x, y, width, height = (
        float(field({name: side}, name, (int, float), where=where)) for side in sides
    )
    return x, y, width, height


def inside(folder: Path, relative: str, *, where: str) -> Path:
    """The path `relative` below `folder`.

    Raises:
        BadInput: the path climbs out of the folder, or is absolute.
    """
    path = Path(relative)
    if path.is_absolute() or ".." in path.parts or not relative.strip():
        raise BadInput(f"{where}: path {relative[:_WIDE]!r} does not stay inside {folder}")
    if "\0" in relative or any(len(part.encode()) > _LONGEST for part in path.parts):
        raise BadInput(f"{where}: path {relative[:_WIDE]!r} can be no file's name")
    return folder / path


def missing_images(paths: Iterable[tuple[str, str]], report: Report, *, source: str) -> set[str]:
    """Report every `(where, path)` whose file is not there; returns the missing paths."""
    missing: set[str] = set()
    for where, path in paths:
        if path not in missing and not Path(path).is_file():
            missing.add(path)
            report.bad(f"{where}: no image file {path}", source=source)
    return missing


def _html(text: str) -> bool:
    return text.lstrip()[:15].lower().startswith(("<!doctype", "<html", "<?xml"))


def _no_json(text: str, error: json.JSONDecodeError) -> str:
    if _html(text):
        return "an HTML page, not JSON: the download failed"
    if error.pos >= len(text.rstrip()) - 1:
        return "the JSON ends in the middle: the file is cut off"
    return f"not JSON ({error.msg}): {text[error.pos : error.pos + 40]!r}"


def _name(value: Any) -> str:
    return {dict: "object", list: "list", str: "str", type(None): "null"}.get(
        type(value), type(value).__name__
    )
