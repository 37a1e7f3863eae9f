"""GQA questions with short right answers, about images of Visual Genome.

The files of GQA are objects of question id -> question, answer, imageId (and more, which is not
read). LRV-Instruction's paper asks 500 of them, drawn at random; the file that the recipe names is
asked whole, so draw before, or limit with `questions_limit`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import Name, Report, Text, question, raw_records
from hadpo.records import Evidence, Question, read_json

SPLIT = "all"
_EXPECTED = "expected GQA's questions: an object of ids, each with question, answer and imageId"


@dataclass(frozen=True, kw_only=True)
class _Raw:
    question_id: Name  # the key
    question: Text
    answer: Text
    imageId: Name  # noqa: N815 - the name of the file's field


def questions(path: Path, images: Mapping[str, Evidence], report: Report) -> list[Question]:
    """The questions in file order, their answers as labels; ids are "gqa-<id>".

    Questions about images that Visual Genome does not have (GQA has some) are left out and counted.
    """
    every = list(_records(path, report))
    known = [raw for raw in every if raw.imageId in images]
    gone = len(every) - len(known)
    report.left_out("questions about images that are not there", source="gqa", count=gone)
    return [
        question(
            *("gqa", raw.question_id, images[raw.imageId], raw.question.strip()),
            split=SPLIT,
            label=raw.answer.strip(),
        )
        for raw in known
    ]


def image_ids(path: Path, report: Report) -> list[str]:
    """Ids of the images that are asked about, each once."""
    return list(dict.fromkeys(raw.imageId for raw in _records(path, report)))


def _records(path: Path, report: Report) -> Iterator[_Raw]:
    values = (
        (f"{path}: {key}", value | {"question_id": key} if isinstance(value, dict) else value)
        for key, value in read_json(path, dict, expected=_EXPECTED).items()
    )
    found = raw_records(values, _Raw, report, source="gqa", once=("question_id",))
    return (raw for _, raw in found)
