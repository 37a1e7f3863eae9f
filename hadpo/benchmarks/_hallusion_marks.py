"""HallusionBench's judge: what it is asked, how replies are read, what an answer then is."""

import re
from dataclasses import dataclass
from pathlib import Path

from hadpo.benchmarks import Form, Known, ruled, shown_picture
from hadpo.data.hallusion import Place, place_of
from hadpo.judges import Rubric, texts_of
from hadpo.records import Answer, BadInput, Case, Label, Verdict
from hadpo.text import yes_no_strict

OWN, SAME = "hallusion", "hallusion_same"  # rubrics: is an answer correct; do two answers agree
KINDS = ("language_hallucination", "visual_illusion", "mixed_error")
_LABELS: tuple[Label, ...] = ("incorrect", "correct", "cannot judge")  # the original's 0, 1 and 2
_MARKS = {"correct": 1, "incorrect": 0, "not correct": 0, "wrong": 0, "unclear": 2}
_SAME = {"same": 1, "not the same": 0, "not same": 0, "different": 0}


_KEY = "category+subcategory+set_id+figure_id+question_id"
FORMS = (
    Form(
        name="HallusionBench's, with the judge's replies",
        example='{"category": "VD", "subcategory": "map", "set_id": "0", "figure_id": "0", '
        '"question_id": "0", "model_prediction": "Yes.", "correctness_reply": "correct", '
        '"same_reply": "same"}',
        answer=("model_prediction",),
        needs=("correctness_reply", "same_reply"),
        id=("key", _KEY),
        asked=("question",),
        replies={OWN: ("correctness_reply",), SAME: ("same_reply",)},
    ),
)


def slots(case: Case) -> dict[str, str]:
    """What fills a prompt; the facts are what the answer is held against."""
    facts, claims = case.evidence.facts[0], case.claims[0]
    return {"question": case.question, "facts": facts, "claims": claims}


def _read(reply: str, case: Case) -> list[Verdict]:
    """One verdict: by the only word for a mark that a reply says, and as the original reads it.

    That takes "incorrect" anywhere for 0, else "correct" for 1, else 2; and "same" anywhere for 1.
    """
    low, words = reply.lower(), _SAME if case.rubric == SAME else _MARKS
    longest = "|".join(sorted(words, key=len, reverse=True))
    marks = {words[word] for word in re.findall(rf"\b({longest})\b", " ".join(low.split()))}
    label = _LABELS[marks.pop()] if len(marks) == 1 else "unparsed"
    mark = 0 if "incorrect" in low else 1 if "correct" in low else 2
    official = int("same" in low) if case.rubric == SAME else mark
    return ruled(case, label, {"official": official}, reply)


def mark_by_annotations(oracle: object, case: Case) -> list[Verdict]:
    """An answer that begins with yes or no is marked by that; else it takes no side."""
    said, facts = yes_no_strict(case.claims[0]), case.evidence.facts
    if case.rubric == SAME:
        mark = int(said == yes_no_strict(facts[0]))
    else:
        mark = 2 if said is None else int(said == facts[1])
    return ruled(case, _LABELS[mark], {"official": mark})


RUBRICS = tuple(
    Rubric(
        name=name,
        **texts_of(Path(__file__).parent, name),
        read=_read,
        slots=slots,
        needs=("claims", "facts"),
        by_annotations=mark_by_annotations,
        images=shown_picture if name == OWN else lambda _: (),
    )
    for name in (OWN, SAME)
)


@dataclass(frozen=True)
class Marked:
    """One answer as the scores see it, in one reading; None: a reply could not be read."""

    place: Place
    is_yes: bool  # the right answer
    mark: int | None  # 0 incorrect, 1 correct, 2 neither
    same: int | None

    @property
    def is_read(self) -> bool:
        """Whether the reply on correctness could be read."""
        return self.mark is not None

    @property
    def is_right(self) -> bool:
        """Correct; without its picture, a question of VS may stay open."""
        return self.mark == 1 or (self.mark == 2 and self.place.has_no_picture)

    @property
    def says_yes(self) -> bool:
        """A right answer says what is right, any other one its opposite."""
        return self.is_yes == self.is_right


def unreadable(answer: Answer, known: Known) -> int:
    """1 if the reply on correctness could not be read."""
    return sum(v.label == "unparsed" for v in known.verdicts if v.kind == OWN)


def marked(answer: Answer, known: Known, *, official: bool) -> Marked:
    """An answer in one reading; BadInput without a verdict on it."""
    if official:
        marks = {v.kind: int(v.scores["official"]) for v in known.verdicts}
    else:
        own = {label: mark for mark, label in enumerate(_LABELS)}
        marks = {v.kind: own.get(v.label) for v in known.verdicts}
    if OWN not in marks or known.question is None:
        raise BadInput(f"{answer.model}: no verdict on {answer.question_id}; judge again")
    is_yes = (known.question.label or "").startswith("yes")
    return Marked(place_of(answer.question_id), is_yes, marks[OWN], marks.get(SAME))


def kind_of_error(one: Marked, first: Marked | None) -> str:
    """Which of `KINDS` an answer is, "" if it is no error, or if that cannot be told.

    Args:
        one: the answer.
        first: the answer to the same question about the first figure.
    """
    language, illusion, mixed = KINDS
    if not one.is_read or one.mark == 1:
        return ""
    if one.place.has_no_picture:
        return language if one.mark == 0 else ""
    if one.place.figure_id == "0":
        return illusion
    if first is None or not first.is_read:
        return ""
    is_same = one.mark == 0 and one.same == 1
    if one.place.category == "VD":
        return mixed if first.mark == 1 and is_same else illusion
    if first.mark == 0:
        return language if is_same else mixed
    is_habit = first.mark == 1 and is_same and one.place.visual_input == "2"
    return language if is_habit else illusion
