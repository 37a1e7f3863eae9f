"""A user's own questions about a folder of images.

`.txt`: every line is asked about every image. `.json` (a list), `.jsonl` and `.csv`: an image
(field `image`, or `image_id` with or without the file's ending) and a question (`question`,
`instruction` or `text`), and a `question_id` if there is one, as GAVIE's and LRV's lists have.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo.data import (
    Name,
    Report,
    inside,
    json_records,
    parse_raw,
    read_json_lines,
)
from hadpo.records import BadInput, Question, read_text

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_EXPECTED = (
    "expected questions: .txt with one a line, or .json, .jsonl, .csv with image and question"
)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    image: Name | None = None
    image_id: Name | None = None
    question: str | None = None
    instruction: str | None = None
    text: str | None = None
    question_id: Name | None = None


def read(path: Path, images: Path, report: Report) -> list[Question]:
    """The questions in file order; of a `.txt`, image by image.

    Raises:
        BadInput: no such file or folder, another ending, nothing asked, or the same id twice.
    """
    if not images.is_dir():
        raise BadInput(f"no folder {images}; name the folder of the images")
    lines = path.suffix == ".txt"
    questions = _every_line(path, images) if lines else list(_records(path, images, report))
    report.finish()
    if not questions:
        raise BadInput(f"{path}: no question about {images}; {_EXPECTED}")
    counts = Counter(question.question_id for question in questions)
    if twice := sorted(key for key, count in counts.items() if count > 1)[:5]:
        raise BadInput(f"{path}: question_id {', '.join(twice)} stands in it twice")
    return questions


def _every_line(path: Path, images: Path) -> list[Question]:
    lines = [line.strip() for line in read_text(path, expected=_EXPECTED).splitlines()]
    files = sorted(file for file in images.iterdir() if file.suffix.lower() in ENDINGS)
    return [
        _question(f"{file.name}-{number}", file, text)
        for file in files
        for number, text in enumerate(filter(None, lines), start=1)
    ]


def _records(path: Path, images: Path, report: Report) -> Iterator[Question]:
    for number, (where, value) in enumerate(_values(path, report), start=1):
        with report.checking("questions"):
            if isinstance(value, dict) and None in value:  # so csv.DictReader says it
                raise BadInput(f"{where}: more cells than columns; quote texts that have commas")
            raw = parse_raw(value, _Raw, where=where)
            image = _first(raw.image, raw.image_id)
            text = _first(raw.question, raw.instruction, raw.text)
            if not image or not text:
                raise BadInput(f"{where}: expected image and question, found {sorted(value)}")
            key = _first(raw.question_id) or str(number)
            yield _question(key, _file(images, image, where=where), text)


def _first(*texts: str | None) -> str:
    """The first text that is not blank, or ""."""
    return next((text.strip() for text in texts if text and text.strip()), "")


def _values(path: Path, report: Report) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".json":
        yield from json_records(path, expected=_EXPECTED)
    elif path.suffix == ".jsonl":
        yield from read_json_lines(path, report, source="questions", expected=_EXPECTED)
    elif path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(read_text(path, expected=_EXPECTED)), strict=True)
        try:
            if twice := [name for name, n in Counter(rows.fieldnames or ()).items() if n > 1]:
                raise BadInput(f"{path}:1: column {twice[0]!r} is there twice; {_EXPECTED}")
            yield from ((f"{path}:{rows.line_num}", row) for row in rows)
        except csv.Error as error:
            raise BadInput(f"{path}:{rows.line_num}: not CSV ({error}); {_EXPECTED}") from error
    else:
        raise BadInput(f"{path}: no file that can be read; {_EXPECTED}")


def _file(images: Path, name: str, *, where: str) -> Path:
    """The image's file; a name without an ending is tried with each."""
    place = inside(images, name, where=where)
    for file in (place, *(place.with_name(place.name + ending) for ending in ENDINGS)):
        if file.is_file():
            return file
    raise BadInput(f"{where}: no image {name!r} in {images}")


def _question(question_id: str, file: Path, text: str) -> Question:
    return Question(
        question_id=question_id,
        benchmark="answer",
        split="all",
        image_id=file.name,
        image=str(file),
        text=text,
    )
