"""A user's own questions about a folder of images.

`.txt`: every line is asked about every image. `.json` (a list), `.jsonl` and `.csv`: an image
(field `image`, or `image_id` with or without the file's ending) and a question (`question`,
`instruction` or `text`), and a `question_id` if there is one, as GAVIE's and LRV's lists have.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hadpo.data import Report, inside, read_json, read_json_lines
from hadpo.records import BadInput, Question

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_IMAGES, _IDS = ("image", "image_id"), ("question_id",)
_TEXTS = ("question", "instruction", "text")
_EXPECTED = (
    "expected questions: .txt with one a line, or .json, .jsonl, .csv with image and question"
)


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
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {_EXPECTED}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    files = sorted(file for file in images.iterdir() if file.suffix.lower() in ENDINGS)
    return [
        _question(f"{file.name}-{number}", file, text)
        for file in files
        for number, text in enumerate(filter(None, lines), start=1)
    ]


def _records(path: Path, images: Path, report: Report) -> Iterator[Question]:
    for number, (where, record) in enumerate(_objects(path, report), start=1):
        with report.checking("questions"):
            if not isinstance(record, Mapping):
                raise BadInput(f"{where}: expected an object, found {type(record).__name__}")
            if None in record:  # so csv says it
                raise BadInput(
                    f"{where}: more cells than columns; put quotes around text with commas"
                )
            image, text, key = (_first(record, names) for names in (_IMAGES, _TEXTS, _IDS))
            if not image or not text:
                raise BadInput(f"{where}: expected image and question, found {sorted(record)}")
            yield _question(key or str(number), _file(images, image, where=where), text)


def _first(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these fields that says something, as text; the number 0 does."""
    texts = (str(record[name]).strip() for name in names if record.get(name) is not None)
    return next(filter(None, texts), "")


def _objects(path: Path, report: Report) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".json":
        values = read_json(path, list, expected=_EXPECTED)
        yield from ((f"{path}: record {number}", value) for number, value in enumerate(values))
    elif path.suffix == ".jsonl":
        yield from read_json_lines(path, report, source="questions", expected=_EXPECTED)
    elif path.suffix == ".csv" and path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                yield f"{path}:{number}", row
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
