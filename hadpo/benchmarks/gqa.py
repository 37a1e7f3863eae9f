"""GQA with an examiner: does a free answer say what the right answer says?

LRV-Instruction compares answers in whole sentences with GQA's single words by a judge, who is shown
the question, the right answer and the answers of all models. Special tokens are stripped first: the
published examples were full of them. All models' answers stand in one case, in a drawn order.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally, only_verdict, together
from hadpo.config import STRICT, AtLeastOne
from hadpo.data import Report, Sources
from hadpo.data import gqa as data
from hadpo.judges import Rubric, is_of_case, reply_schema, texts_of
from hadpo.records import Answer, BadInput, Case, Evidence, Question, Verdict
from hadpo.text import integer, json_object, says, word_count

__all__ = ["MEASURES", "READINGS", "RUBRICS", "WHOLE", "cases", "questions", "tally"]

WHOLE = data.SPLIT
FILES = {"gqa": ("GQA", ("",))}
READINGS = {"": "examiner"}
BARS = {"accuracy": "right answers"}
MEASURES = (
    Measure("accuracy", "accuracy", is_headline=False, is_read=True),
    Measure("words_per_answer", "words per answer", "number", is_headline=False),
)
_DEBRIS = re.compile(r"</?(?:s|unk|pad|Img|ImageHere)>|###", flags=re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    gqa: str = ""  # questions of GQA with right answers, about Visual Genome images


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated."""

    gqa_beams: AtLeastOne = 1  # 1: greedy
    gqa_max_new_tokens: AtLeastOne = 64  # an answer to one question


def questions(sources: Sources) -> list[Question]:
    """The questions in file order, their answers as labels."""
    if not sources.data.gqa:
        return []
    path = sources.note(sources.resolve(sources.data.gqa))
    return data.questions(path, sources.images, sources.report)


def image_ids(sources: Sources) -> list[str]:
    """Ids of the images; problems are reported with the questions."""
    path = sources.data.gqa
    return data.image_ids(sources.resolve(path), Report("skip")) if path else []


def cases(
    answers: Iterable[Answer],
    questions: Mapping[str, Question],
    evidence: Mapping[str, Evidence],
    settings: Any,
) -> list[Case]:
    """A case per question with the answers of all models; its only fact is the right answer.

    Raises:
        BadInput: a question without a right answer.
    """
    found = []
    for case in together(answers, questions, rubric="gqa", seed=settings.evaluate_seed):
        right = questions[case.case_id].label
        if not right:
            raise BadInput(f"{case.case_id} has no right answer: nothing to examine by")
        claims = tuple(_DEBRIS.sub(" ", claim).strip() for claim in case.claims)
        known = replace(case.evidence, facts=(right,))
        found.append(replace(case, claims=claims, evidence=known))
    return found


def tally(answer: Answer, known: Known) -> Tally:
    """Correct answers of the examined ones, and words; BadInput without a verdict."""
    verdict = only_verdict(answer, known)
    is_examined = verdict.label in ("correct", "incorrect")
    return {
        "accuracy": (verdict.label == "correct", is_examined),
        "words_per_answer": (word_count(answer.text), 1),
    }


def mark_by_annotations(oracle: object, case: Case) -> list[Verdict]:
    """An answer is correct if it holds the words of the right answer, in their order."""
    fact = " ".join(case.evidence.facts)
    found = []
    for place, claim in enumerate(case.claims):
        found.append(
            Verdict(
                case_id=case.case_id,
                model=case.model_of(place),
                claim=claim,
                label="correct" if says(claim, fact) else "incorrect",
                reason=f"the right answer is {fact}",
                place=place + 1,
            )
        )
    return found


_SAID = {"correct": "correct", "right": "correct", "incorrect": "incorrect", "wrong": "incorrect"}
_LINE = re.compile(
    r"^\W*(?:student\s*)?answer\s*#?\s*(\d+)\W+(incorrect|correct|wrong|right)\b(.*)$",
    re.IGNORECASE,
)
_ALONE = re.compile(r"^\W*(incorrect|correct|wrong|right)\b(.*)$", re.IGNORECASE)


def read_marks(reply: str, case: Case) -> list[Verdict]:
    """A verdict per answer: "correct", "incorrect" or, where there is no single mark, "unparsed".

    Read are JSON, and lines "Student Answer1: correct" (of a single answer also "correct" alone).
    Marks of answers that are not there make the whole reply unreadable.
    """
    value = json_object(reply, "marks")
    marks = _of_lines(reply, len(case.claims)) if value is None else _of_json(value, case)
    if any(not 1 <= place <= len(case.claims) for place, _, _ in marks):
        marks = []
    found = []
    for place, claim in enumerate(case.claims, start=1):
        own = [(label, reason) for number, label, reason in marks if number == place]
        is_clear = len({label for label, _ in own}) == 1
        label: Any = own[0][0] if is_clear else "unparsed"
        found.append(
            Verdict(
                case_id=case.case_id,
                model=case.model_of(place - 1),
                claim=claim,
                label=label,
                reason=own[0][1] if is_clear else "",
                raw="" if is_clear else reply,
                place=place,
            )
        )
    return found


Marks = list[tuple[int, str, str]]  # number of the answer, label, reason


def _of_lines(reply: str, answers: int) -> Marks:
    found: Marks = []
    for line in reply.splitlines():
        if match := _LINE.match(line):
            found.append((int(match[1]), _SAID[match[2].lower()], match[3].strip(" .:-*_")))
        elif answers == 1 and (match := _ALONE.match(line)):
            found.append((1, _SAID[match[1].lower()], match[2].strip(" .:-*_")))
    return found


def _of_json(value: dict[str, Any], case: Case) -> Marks:
    marks = value.get("marks")
    if not isinstance(marks, list) or not is_of_case(value, case):
        return []
    found: Marks = []
    for place, each in enumerate(marks, start=1):
        label = (
            _SAID.get(str(each.get("mark", "")).strip().lower()) if isinstance(each, dict) else None
        )
        number = integer(each.get("answer", place)) if label else None
        if label and number is not None:
            found.append((number, label, str(each.get("reason", ""))))
    return found


RUBRICS = (
    Rubric(
        name="gqa",
        **texts_of(Path(__file__).parent, "gqa"),
        read=read_marks,
        schema=reply_schema(
            "marks",
            answer={"type": "integer"},
            mark={"type": "string", "enum": ["correct", "incorrect"]},
            reason={"type": "string"},
        ),
        claim="Student Answer{number}: {claim}",
        by_annotations=mark_by_annotations,
    ),
)
