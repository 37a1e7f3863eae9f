"""A user's own questions about a folder of images.

`.txt`: every line is asked about every image. `.json` (a list), `.jsonl` and `.csv`: an image
(field `image`, or `image_id` with or without the file's ending) and a question (`question`,
`instruction` or `text`), and a `question_id` if there is one, as GAVIE's and LRV's lists have.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo.data import (
    Name,
    Report,
    Text,
    inside,
    json_records,
    raw_records,
    read_csv,
    read_json_lines,
)
from hadpo.records import BadInput, Question, read_text

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_EXPECTED = (
    "expected questions: .txt with one a line, or .json, .jsonl, .csv with image and question"
)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    question_id: Name
    image: Name | None = None
    image_id: Name | None = None
    question: Text | None = None
    instruction: Text | None = None
    text: Text | None = None


def read(path: Path, images: Path, report: Report) -> list[Question]:
    """The questions in file order; of a `.txt`, image by image.

    Raises BadInput also for no such folder, another ending, nothing asked, or the same id twice.
    """
    if not images.is_dir():
        raise BadInput(f"no folder {images}; name the folder of the images")
    values = _every_line(path, images) if path.suffix == ".txt" else _values(path, report)
    questions = list(_records(values, images, report))
    report.finish()
    if not questions:
        raise BadInput(f"{path}: no question about {images}; {_EXPECTED}")
    return questions


def _values(path: Path, report: Report) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".json":
        values = json_records(path, expected=_EXPECTED)
    elif path.suffix == ".jsonl":
        values = read_json_lines(path, report, source="questions", expected=_EXPECTED)
    elif path.suffix == ".csv":
        values = read_csv(path, report, source="questions", expected=_EXPECTED)
    else:
        raise BadInput(f"{path}: no file that can be read; {_EXPECTED}")
    for number, (where, value) in enumerate(values, start=1):
        if isinstance(value, dict):
            some = {k: v for k, v in value.items() if v is not None and str(v).strip()}
            value = {"question_id": number, **some}
        yield where, value


def _every_line(path: Path, images: Path) -> Iterator[tuple[str, Any]]:
    lines = [line.strip() for line in read_text(path, expected=_EXPECTED).splitlines()]
    for file in sorted(file for file in images.iterdir() if file.suffix.lower() in ENDINGS):
        for number, text in enumerate(filter(None, lines), start=1):
            key = f"{file.name}-{number}"
            yield f"{path}: {text[:40]!r}", {"image": file.name, "text": text, "question_id": key}


def _records(values: Iterable[tuple[str, Any]], images: Path, report: Report) -> Iterator[Question]:
    for where, raw in raw_records(values, _Raw, report, source="questions", once=("question_id",)):
        with report.checking("questions"):
            image = raw.image or raw.image_id
            texts = {t.strip(): t for t in (raw.question, raw.instruction, raw.text) if t}
            if len(texts) > 1:
                raise BadInput(
                    f"{where}: {len(texts)} questions ({', '.join(t[:40] for t in texts)}); keep "
                    "one of the fields question, instruction and text"
                )
            text = "".join(texts)
            if not image or not text:
                found = sorted(name for name, value in vars(raw).items() if value)
                raise BadInput(f"{where}: expected image and question, found {found}")
            file = _file(images, image.strip(), where=where)
            yield Question(
                question_id=raw.question_id.strip(),
                benchmark="answer",
                split="all",
                image_id=file.name,
                image=str(file),
                text=text,
            )


def _file(images: Path, name: str, *, where: str) -> Path:
    """The image's file; a name without an ending is tried with each."""
    place = inside(images, name, where=where)
    if place.is_file():
        return place
    files = [place.with_name(place.name + ending) for ending in ENDINGS]
    found = [file for file in files if file.is_file()]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise BadInput(f"{where}: image {name!r} could be {names}; name it with its ending")
    if not found:
        raise BadInput(f"{where}: no image {name!r} in {images}")
    return found[0]
