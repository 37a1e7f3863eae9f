"""GAVIE's questions: instructions about Visual Genome images, some of them about nothing there.

The published `evaluation_set.json` is a list of `image_id` and `question` (its README says
`instruction`, which is read too). A `task`, if there is one, becomes the question's split, so that
scores are broken down by it; the published set has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import (
    ImageId,
    Report,
    Text,
    json_records,
    question,
    raw_records,
    refuse_unknown,
)
from hadpo.records import BadInput, Evidence, Question

SPLIT = "all"
_EXPECTED = "expected GAVIE's evaluation_set.json: a list of objects with image_id and question"


@dataclass(frozen=True, kw_only=True)
class _Raw:
    image_id: ImageId
    question: Text
    task: str = SPLIT


def image_ids(path: Path, report: Report) -> list[str]:
    """Ids of the images that are asked about, each once, in file order."""
    return list(dict.fromkeys(key for key, _, _ in _records(path, report)))


def questions(path: Path, images: Mapping[str, Evidence], report: Report) -> list[Question]:
    """The questions in file order; ids are "gavie-<number>", counted from 1.

    Raises BadInput also if an image is not among `images`.
    """
    records = _records(path, report)
    refuse_unknown(sorted({key for key, _, _ in records}), images, source=str(path))
    return [
        question("gavie", number, images[key], text, split=task)
        for number, (key, text, task) in enumerate(records, start=1)
    ]


def _records(path: Path, report: Report) -> list[tuple[str, str, str]]:
    """Image, question and task of each record; the same question twice is a broken record."""
    values = (
        (where, {"question": value["instruction"], **value})
        if isinstance(value, dict) and "instruction" in value
        else (where, value)
        for where, value in json_records(path, expected=_EXPECTED)
    )
    tasks: dict[tuple[str, str], str] = {}
    for where, raw in raw_records(values, _Raw, report, source="gavie"):
        with report.checking("gavie"):
            key, text = raw.image_id, raw.question.strip()
            if (key, text) in tasks:
                raise BadInput(f"{where}: image {key} is asked {text!r} twice")
            tasks[key, text] = " ".join(raw.task.lower().split()) or SPLIT
    return [(*place, task) for place, task in tasks.items()]
