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
from hadpo.judges import Rubric, items_of, reply_schema, texts_of, verdict, within
from hadpo.records import Answer, BadInput, Case, Evidence, Label, Question, Verdict
from hadpo.text import json_object, says, word_count

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
    path = sources.note(sources.resolve(sources.data.gqa))
    return data.questions(path, sources.images, sources.report)


def image_ids(sources: Sources) -> list[str]:
    """Ids of the images; problems are reported with the questions."""
    return data.image_ids(sources.resolve(sources.data.gqa), Report("skip"))


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
    marks: list[Label] = ["correct" if says(claim, fact) else "incorrect" for claim in case.claims]
    why = f"the right answer is {fact}"
    return [verdict(case, number, mark, reason=why) for number, mark in enumerate(marks, start=1)]


_SAID = {"correct": "correct", "right": "correct", "incorrect": "incorrect", "wrong": "incorrect"}
_MARK = r"(incorrect|correct|wrong|right)\b(.*)$"
_LINE = re.compile(rf"^\W*(?:student\s*)?answer\s*#?\s*(\d+)\W+{_MARK}", re.IGNORECASE)
_ALONE = re.compile(rf"^\W*{_MARK}", re.IGNORECASE)


def read_marks(reply: str, case: Case) -> list[Verdict]:
    """A verdict per answer: "correct", "incorrect" or, where there is no single mark, "unparsed".

    Read are JSON, and lines "Student Answer1: correct" (of a single answer also "correct" alone).
    Marks of answers that are not there make the whole reply unreadable.
    """
    value = json_object(reply, "marks")
    marks = _of_lines(reply, len(case.claims)) if value is None else _of_json(value, case)
    marks = within(marks, case)
    found = []
    for number in range(1, len(case.claims) + 1):
        own = [(label, reason) for place, label, reason in marks if place == number]
        if len({label for label, _ in own}) == 1:
            label: Any = own[0][0]
            found.append(verdict(case, number, label, reason=own[0][1]))
        else:
            found.append(verdict(case, number, "unparsed", raw=reply))
    return found


Marks = list[tuple[int, str, str]]  # number of the answer, label, reason


def _of_lines(reply: str, answers: int) -> Marks:
    found: Marks = []
    for line in reply.splitlines():
        alone = _ALONE.match(line) if answers == 1 else None
        if match := _LINE.match(line) or alone:
            *number, said, reason = match.groups()
            found.append(
                (int(number[0]) if number else 1, _SAID[said.lower()], reason.strip(" .:-*_"))
            )
    return found


def _of_json(value: dict[str, Any], case: Case) -> Marks:
    found: Marks = []
    for number, each in items_of(value, "marks", case, "answer"):
        label = _SAID.get(str(each.get("mark", "")).strip().lower())
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
