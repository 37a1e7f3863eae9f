"""GQA questions with short right answers, about images of Visual Genome.

The files of GQA are objects of question id -> question, answer, imageId (and more, which is not
read). LRV-Instruction's paper asks 500 of them, drawn at random; the file that the recipe names is
asked whole, so draw before, or limit with `questions_limit`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import Name, Report, parse_raw
from hadpo.records import BadInput, Evidence, Question, read_json

SPLIT = "all"
_EXPECTED = "expected GQA's questions: an object of ids, each with question, answer and imageId"


@dataclass(frozen=True, kw_only=True)
class _Raw:
    question: str
    answer: str
    imageId: Name  # noqa: N815 - the name of the file's field


def questions(path: Path, images: Mapping[str, Evidence], report: Report) -> list[Question]:
    """The questions in file order, their answers as labels; ids are "gqa-<id>".

    Questions about images that Visual Genome does not have (GQA has some) are left out and counted.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    every = dict(_records(path, report))
    known = {key: raw for key, raw in every.items() if raw.imageId in images}
    gone = len(every) - len(known)
    report.left_out("questions about images that are not there", source="gqa", count=gone)
    return [
        Question(
            question_id=f"gqa-{key}",
            benchmark="gqa",
            split=SPLIT,
            image_id=raw.imageId,
            image=images[raw.imageId].image,
            text=raw.question.strip(),
            label=raw.answer.strip(),
        )
        for key, raw in known.items()
    ]


def image_ids(path: Path, report: Report) -> list[str]:
    """Ids of the images that are asked about, each once."""
    return list(dict.fromkeys(raw.imageId for _, raw in _records(path, report)))


def _records(path: Path, report: Report) -> Iterator[tuple[str, _Raw]]:
    for key, value in read_json(path, dict, expected=_EXPECTED).items():
        with report.checking("gqa"):
            where = f"{path}: question {key}"
            raw = parse_raw(value, _Raw, where=where)
            if not (raw.question.strip() and raw.answer.strip()):
                raise BadInput(f"{where}: question or answer is empty")
            yield key, raw
