"""GQA questions with short right answers, about images of Visual Genome.

The files of GQA are objects of question id -> question, answer, imageId (and more, which is not
read). LRV-Instruction's paper asks 500 of them, drawn at random; the file that the recipe names is
asked whole, so draw before, or limit with `questions_limit`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hadpo.data import Report, field, read_json
from hadpo.records import BadInput, Evidence, Question

SPLIT = "all"
_EXPECTED = "expected GQA's questions: an object of ids, each with question, answer and imageId"


def questions(path: Path, images: Mapping[str, Evidence], report: Report) -> list[Question]:
    """The questions in file order, their answers as labels; ids are "gqa-<id>".

    Questions about images that Visual Genome does not have (GQA has some) are left out and counted.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    found = []
    for key, record in read_json(path, dict, expected=_EXPECTED).items():
        try:
            image, text, answer = _record(record, where=f"{path}: question {key}")
        except BadInput as error:
            report.bad(str(error), source="gqa")
            continue
        if image not in images:
            report.left_out("questions about images that are not there", source="gqa")
            continue
        found.append(
            Question(
                question_id=f"gqa-{key}",
                benchmark="gqa",
                split=SPLIT,
                image_id=image,
                image=images[image].image,
                text=text,
                label=answer,
            )
        )
    return found


def image_ids(path: Path, report: Report) -> list[str]:
    """Ids of the images that are asked about, each once."""
    found: dict[str, None] = {}
    for key, record in read_json(path, dict, expected=_EXPECTED).items():
        try:
            found[_record(record, where=f"{path}: question {key}")[0]] = None
        except BadInput as error:
            report.bad(str(error), source="gqa")
    return list(found)


def _record(record: Any, *, where: str) -> tuple[str, str, str]:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected an object, found {type(record).__name__}")
    texts = [field(record, name, str, where=where).strip() for name in ("question", "answer")]
    if not all(texts):
        raise BadInput(f"{where}: question or answer is empty")
    return str(field(record, "imageId", (str, int), where=where)), texts[0], texts[1]
