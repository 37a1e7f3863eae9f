"""JSON Lines files of records: read and checked field by field, written atomically."""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from hadpo.records.kinds import BadInput

Record = TypeVar("Record")
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=vars)


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
    fields = _schema(kind)
    for name in value:
        if name not in fields:
            raise BadInput(f"{where}: unknown field {name!r}; {kind.__name__} has {list(fields)}")
    found = {}
    for name, (hint, is_needed) in fields.items():
        if name in value:
            given = value[name]
            is_right = type(given) is hint  # most fields, at a fraction of the time
            found[name] = (
                given if is_right else _convert(given, hint, where=f"{where}: field {name!r}")
            )
        elif is_needed:
            raise BadInput(f"{where}: no field {name!r} (found {sorted(value)})")
    return kind(**found)


@functools.cache
def _schema(kind: type) -> dict[str, tuple[Any, bool]]:
    """Type of each field of a dataclass, and whether it must be given."""
    hints = typing.get_type_hints(kind)
    return {
        f.name: (
            hints[f.name],
            f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING,
        )
        for f in dataclasses.fields(kind)
    }


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
    return _ENCODER.encode(vars(record))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write a file to; when the block ends well, it becomes `path`, atomically.

    A reader of `path` sees all of the old file or all of the new one, so it may be a done mark.
    What a block that fails has written is deleted: a full disk needs the room.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write all records, atomically (never a torn file in sight); returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(to_json(record) + "\n")
            count += 1
    return count


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def drop_torn_end(path: Path) -> None:
    """Cut a last line that a killed writer left unfinished off a file, where there is one."""
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
