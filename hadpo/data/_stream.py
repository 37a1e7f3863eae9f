"""Large JSON files, one record at a time: memory does not grow with the file."""

import codecs
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import ijson

from hadpo.records import BadInput

_MARK = codecs.BOM_UTF8  # some editors put a byte order mark in front; a JSON parser refuses it
_BLANKS = b" \t\r\n"
_HTML = (b"<!doctype", b"<html", b"<?xml")
Item = TypeVar("Item")


def stream_list(path: Path, *, expected: str, below: str = "") -> Iterator[Any]:
    """The elements of a JSON list, decoded one by one; with `below`, also of one in an object.

    What comes after the last element is checked too, so a file that is cut off raises at its end.

    Args:
        path: the file.
        expected: what the message says that should be there.
        below: key of an object that may hold the list instead.

    Raises:
        BadInput: no such file, empty, no UTF-8, no JSON, or another top level.
    """
    with _opened(path, "[{" if below else "[", expected) as (file, first):
        is_wrapped = first == "{"
        found = ijson.items(file, f"{below}.item" if is_wrapped else "item", use_float=True)
        count = 0
        for value in _checked(found, path, expected):
            yield value
            count += 1
        if is_wrapped and not count:
            file.seek(0)
            _first_bytes(file)
            _refuse_other_object(file, path, below, expected)


def stream_object(path: Path, *, expected: str) -> Iterator[tuple[str, Any]]:
    """Key and value of each entry of a JSON object, decoded one by one; else as `stream_list`."""
    with _opened(path, "{", expected) as (file, _):
        yield from _checked(ijson.kvitems(file, "", use_float=True), path, expected)


@contextlib.contextmanager
def _opened(path: Path, starts: str, expected: str) -> Iterator[tuple[BinaryIO, str]]:
    """The file, standing before its first value, and the character that this begins with."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {expected}")
    with path.open("rb") as file:
        text = _first_bytes(file)
        if not text:
            raise BadInput(f"{path}: the file is empty; {expected}")
        if text.lower().startswith(_HTML):
            raise BadInput(f"{path}: an HTML page, not JSON: the download failed; {expected}")
        if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise BadInput(f"{path}: not UTF-8 but UTF-16; {expected}")
        first = text[:1].decode("latin-1")
        if first not in starts:
            kinds = {"[": "list", "{": "object"}
            found = f"a {kinds[first]}" if first in kinds else f"no JSON list ({text[:20]!r})"
            raise BadInput(f"{path}: the top level is {found}; {expected}")
        yield file, first


def _checked(values: Iterable[Item], path: Path, expected: str) -> Iterator[Item]:
    """The values; what the parser says against the file becomes one of our errors."""
    count = 0
    left = iter(values)
    while True:
        try:
            value = next(left)
        except StopIteration:
            return
        except (ijson.JSONError, UnicodeDecodeError, OverflowError, ValueError) as error:
            reason = str(error).split("\n")[0].strip()
            raise BadInput(
                f"{path}: after {count} records: not JSON, or the file is cut off ({reason}); "
                f"{expected}"
            ) from error
        yield value
        count += 1


def _first_bytes(file: BinaryIO) -> bytes:
    """The first bytes that are not blank; the file stands after a byte order mark, if any."""
    start = len(_MARK) if file.read(len(_MARK)) == _MARK else 0
    file.seek(start)
    for piece in itertools.takewhile(bool, iter(lambda: file.read(64), b"")):
        if text := piece.lstrip(_BLANKS):
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
