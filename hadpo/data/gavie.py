"""GAVIE's questions: instructions about Visual Genome images, some of them about nothing there.

The published `evaluation_set.json` is a list of `image_id` and `question` (its README says
`instruction`, which is read too). A `task`, if there is one, becomes the question's split, so that
scores are broken down by it; the published set has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import ImageId, Report, json_records, parse_raw
from hadpo.records import BadInput, Evidence, Question

SPLIT = "all"
_EXPECTED = "expected GAVIE's evaluation_set.json: a list of objects with image_id and question"


@dataclass(frozen=True, kw_only=True)
class _Raw:
    image_id: ImageId
    question: str
    task: str = SPLIT


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
    tasks: dict[tuple[str, str], str] = {}
    for where, value in json_records(path, expected=_EXPECTED):
        with report.checking("gavie"):
            if isinstance(value, dict) and "question" not in value and "instruction" in value:
                value = {**value, "question": value["instruction"]}
            raw = parse_raw(value, _Raw, where=where)
            key, text = raw.image_id, raw.question.strip()
            if not text:
                raise BadInput(f"{where}: field 'question' is empty")
            if (key, text) in tasks:
                raise BadInput(f"{where}: image {key} is asked {text!r} twice")
            tasks[key, text] = " ".join(raw.task.lower().split()) or SPLIT
    return [(*place, task) for place, task in tasks.items()]
