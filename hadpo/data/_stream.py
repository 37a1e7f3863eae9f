"""Large JSON lists, one record at a time: memory does not grow with the file."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from hadpo.records import BadInput

_MARK = b"\xef\xbb\xbf"  # some editors put a byte order mark in front; a JSON parser refuses it
_BLANKS = b" \t\r\n"
_HTML = (b"<!doctype", b"<html", b"<?xml")


def stream_list(path: Path, *, expected: str, key: str = "annotations") -> Iterator[Any]:
    """The elements of a JSON list, decoded one by one; it may also lie below `key` in an object.

    What comes after the last element is checked too, so a file that is cut off raises at its end.

    Raises:
        BadInput: no such file, empty, no UTF-8, no JSON, or another top level.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {expected}")
    with path.open("rb") as file:
        first = _first_bytes(file)
        if not first:
            raise BadInput(f"{path}: the file is empty; {expected}")
        if first.lower().startswith(_HTML):
            raise BadInput(f"{path}: an HTML page, not JSON: the download failed; {expected}")
        if first[:1] not in (b"[", b"{"):
            raise BadInput(f"{path}: the top level is neither list nor object; {expected}")
        is_wrapped = first[:1] == b"{"
        prefix = f"{key}.item" if is_wrapped else "item"
        count = 0
        try:
            for value in ijson.items(file, prefix, use_float=True):
                yield value
                count += 1
            if is_wrapped and not count:
                _refuse_other_object(path, key, expected)
        except ijson.IncompleteJSONError as error:
            raise BadInput(
                f"{path}: after {count} records: not JSON, or the file is cut off "
                f"({_reason(error)}); {expected}"
            ) from error
        except (ijson.JSONError, UnicodeDecodeError, OverflowError) as error:
            raise BadInput(
                f"{path}: after {count} records: not JSON ({_reason(error)}); {expected}"
            ) from error


def _first_bytes(file: BinaryIO) -> bytes:
    """The first bytes that are not blank; the file stands after a byte order mark, if any."""
    start = len(_MARK) if file.read(len(_MARK)) == _MARK else 0
    file.seek(start)
    for piece in itertools.takewhile(bool, iter(lambda: file.read(64), b"")):
        if text := piece.lstrip(_BLANKS):
            file.seek(start)
            return text
    return b""


def _refuse_other_object(path: Path, key: str, expected: str) -> None:
    """Raise unless the object has a list, if only an empty one, below `key`."""
    with path.open("rb") as file:
        _first_bytes(file)
        for prefix, event, _ in ijson.parse(file, use_float=True):
            if prefix == key:
                if event == "start_array":
                    return
                raise BadInput(f"{path}: {key!r} is no list; {expected}")
    raise BadInput(f"{path}: an object without {key!r}; {expected}")


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0].strip()
