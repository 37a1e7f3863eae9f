"""GAVIE's questions: instructions about Visual Genome images, some of them about nothing there.

The published `evaluation_set.json` is a list of `image_id` and `question` (its README says
`instruction`, which is read too). A `task`, where there is one, becomes the question's split, so
that scores are broken down by it; the published set has none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hadpo.data import Report, field, image_id, read_json
from hadpo.records import BadInput, Evidence, Question

SPLIT = "all"
_EXPECTED = "expected GAVIE's evaluation_set.json: a list of objects with image_id and question"


def image_ids(path: Path, report: Report) -> list[str]:
    """Ids of the images that are asked about, each once, in file order."""
    return list(dict.fromkeys(key for key, _, _ in _records(path, report)))


def questions(path: Path, images: Mapping[str, Evidence], report: Report) -> list[Question]:
    """The questions in file order; ids are "gavie-<number>", counted from 1.

    Raises:
        BadInput: the file cannot be read as a whole, or an image is not among `images` (lists all).
    """
    records = _records(path, report)
    unknown = sorted({key for key, _, _ in records} - images.keys())
    if unknown:
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        raise BadInput(
            f"{path}: {len(unknown)} images that Visual Genome does not have: "
            f"{', '.join(unknown[:20])}{more}"
        )
    return [
        Question(
            question_id=f"gavie-{number}",
            benchmark="gavie",
            split=task,
            image_id=key,
            image=images[key].image,
            text=text,
        )
        for number, (key, text, task) in enumerate(records, start=1)
    ]


def _records(path: Path, report: Report) -> list[tuple[str, str, str]]:
    """Image, question and task of each record; the same question twice is a broken record."""
    found: dict[tuple[str, str], str] = {}
    for number, record in enumerate(read_json(path, list, expected=_EXPECTED)):
        where = f"{path}: record {number}"
        try:
            key, text, task = _record(record, where=where)
            if (key, text) in found:
                raise BadInput(f"{where}: image {key} is asked {text!r} twice")
        except BadInput as error:
            report.bad(str(error), source="gavie")
            continue
        found[key, text] = task
    return [(*place, task) for place, task in found.items()]


def _record(record: Any, *, where: str) -> tuple[str, str, str]:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected an object, found {type(record).__name__}")
    name = "instruction" if "instruction" in record and "question" not in record else "question"
    text = field(record, name, str, where=where).strip()
    if not text:
        raise BadInput(f"{where}: field {name!r} is empty")
    task = field(record, "task", str, where=where) if "task" in record else SPLIT
    return image_id(record, where=where), text, " ".join(task.lower().split()) or SPLIT
