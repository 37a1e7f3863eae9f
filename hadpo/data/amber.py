"""AMBER's files: photos to describe and yes/no questions, what is there, and which words mean it.

Layout: `query_all.json` (id, image, query), `annotations.json` (id, type, truth; of photos to
describe also hallu), `relation.json` (object -> associated words), `safe_words.txt`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from hadpo.data import InnerPath, Report, Text, json_records, raw_records, with_images
from hadpo.records import BadInput, Question, read_json, read_text

FILES = ("query_all.json", "annotations.json", "relation.json", "safe_words.txt")
GENERATIVE = "generative"
# Types of the annotations -> splits; State, Number and Action are together Attribute.
SPLITS = {
    GENERATIVE: GENERATIVE,
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute/state",
    "discriminative-attribute-number": "attribute/number",
    "discriminative-attribute-action": "attribute/action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
_QUERIES = "expected AMBER's query_all.json: a list of objects with id, image and query"
_ANNOTATIONS = "expected AMBER's annotations.json: a list of objects with id, type and truth"
_RELATION = "expected AMBER's relation.json: an object of words and the words associated with each"
_SAFE = "expected AMBER's safe_words.txt: one word a line"


@dataclass(frozen=True, kw_only=True)
class _Query:
    id: int
    image: InnerPath
    query: Text


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    id: int
    type: str
    truth: Literal["yes", "no"] | list[str]
    hallu: list[str] | None = None


_Raw = TypeVar("_Raw", _Query, _Annotation)


def questions(folder: Path, images: Path, report: Report) -> list[Question]:
    """The questions in the order of their ids; ids are "amber-<id>", labels yes or no.

    The label of a photo to describe is a JSON object: `truth` and `hallu`, lists of words.

    Raises:
        BadInput: a file that cannot be read as a whole.
    """
    truths = _by_id(folder / "annotations.json", _Annotation, report, _ANNOTATIONS)
    queries = _by_id(folder / "query_all.json", _Query, report, _QUERIES)
    found: dict[str, Question] = {}
    for number, (where, query) in sorted(queries.items()):
        with report.checking("amber"):
            if number not in truths:
                raise BadInput(f"{where}: id {number} is not in annotations.json")
            place, known = truths.pop(number)
            label, image = _label(known, where=place), images / query.image
            found[where] = Question(
                question_id=f"amber-{number}",
                benchmark="amber",
                split=SPLITS[known.type],
                image_id=image.stem,
                image=str(image),
                text=query.query,
                label=label,
            )
    report.left_out("annotations without a question", source="amber", count=len(truths))
    return with_images(found, report, source="amber")


def _label(known: _Annotation, *, where: str) -> str:
    if known.type not in SPLITS:
        raise BadInput(f"{where}: field 'type': found {known.type!r}, expected {', '.join(SPLITS)}")
    is_generative = known.type == GENERATIVE
    if is_generative != isinstance(known.truth, list) or is_generative != (known.hallu is not None):
        wanted = "lists truth and hallu" if is_generative else "truth yes or no, and no hallu"
        raise BadInput(f"{where}: type {known.type}: expected {wanted}")
    if isinstance(known.truth, str):
        return known.truth
    return json.dumps({"truth": known.truth, "hallu": known.hallu}, ensure_ascii=False)


def _by_id(
    path: Path, kind: type[_Raw], report: Report, expected: str
) -> dict[int, tuple[str, _Raw]]:
    values = json_records(path, expected=expected)
    records = raw_records(values, kind, report, source="amber", once=("id",))
    return {raw.id: (where, raw) for where, raw in records}


def words(folder: Path) -> dict[str, Any]:
    """`relation`: associated words by object; `safe`: words that never count.

    Raises:
        BadInput: a file that is not of this form.
    """
    path = folder / "relation.json"
    relation = read_json(path, dict, expected=_RELATION)
    for word, others in relation.items():
        if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
            raise BadInput(f"{path}: {word!r}: found {others!r}; {_RELATION}")
    safe = read_text(folder / "safe_words.txt", expected=_SAFE).split()
    return {"relation": relation, "safe": safe}
