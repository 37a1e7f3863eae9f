"""HallusionBench: yes/no questions in groups, about pictures, edited ones, and none; a judge marks.

The judge says whether an answer is correct, and whether it agrees with that about the first figure
of its set, which tells habit (language hallucination) from misreading (visual illusion). A group
is right if all its answers are; "easy" and "hard" are pairs of questions, in spite of the published
name. Each reply is read as the original reads it ("not correct" is correct) and tolerantly.
Source: tianyi-lab/HallusionBench evaluation.py and utils.py at 744007c.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally, alone
from hadpo.benchmarks._hallusion_marks import (
    FORMS,
    KINDS,
    OWN,
    RUBRICS,
    SAME,
    Marked,
    kind_of_error,
    marked,
    unreadable,
)
from hadpo.config import READING_JUDGE, STRICT, AtLeastOne, When
from hadpo.data import Sources
from hadpo.data import hallusion as data
from hadpo.measures import Values
from hadpo.records import Answer, Case, Evidence, Question
from hadpo.text import word_count

__all__ = ["FORMS", "RUBRICS", "unreadable"]

WHOLE = "all"
FILES = {
    "hallusion": ("HallusionBench", ("",)),
    "hallusion_images": ("HallusionBench pictures", ("",)),
}
SHOWN = ("hallusion_judge_sees",)  # settings that stand beside every number
LISTED = tuple((WHOLE, name) for name in ("a_acc", "q_acc", "f_acc"))
READ_AS = {"": "tolerant", "official_": "official"}  # prefix of metrics -> reading
_GROUPS = {
    "q_acc": "question pairs right",
    "f_acc": "figures right",
    "easy_acc": "easy question pairs right",
    "hard_acc": "hard question pairs right",
}


def _difference(values: Mapping[str, Values], prefix: str) -> Values:
    return values[f"{prefix}says_yes"] - values[f"{prefix}is_yes"]


def _measures(prefix: str, reading: str) -> list[Measure]:
    def measure(name: str, label: str, better: Any = "", *, main: bool = False, **more: Any):
        label = f"{label}{', official reading' if prefix else ''}"
        main = main and not prefix
        return Measure(prefix + name, label, "percent", better, main, is_read=not prefix, **more)

    return [
        measure("a_acc", "HallusionBench: questions right", "higher", main=True),
        *(measure(n, text, "higher", main=n[0] in "qf") for n, text in _GROUPS.items()),
        measure("figure_score", "questions right, mean of figures", "higher"),
        measure("figures_wrong", "figures without a right answer", "lower"),
        *(measure(name, f"of errors: {name.replace('_', ' ')}") for name in KINDS),
        *(measure(name, name.replace("_", " ")) for name in ("says_yes", "is_yes")),
        measure("yes_bias", "says yes too often", of=partial(_difference, prefix=prefix)),
        measure("no_among_wrong", "of errors: the answer is no"),
    ]


MEASURES = (
    *(measure for item in READ_AS.items() for measure in _measures(*item)),
    Measure("words_per_answer", "words per answer", "number"),
    Measure("readings_differ", "replies read in two ways", "count", is_headline=False),
    Measure("same_unread", "unreadable replies on agreement", "count", is_headline=False),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    hallusion: str = ""  # HallusionBench.json
    # Folder of its pictures, with VD and VS, or with hallusion_bench.
    hallusion_images: Annotated[str, When.given("data", "hallusion")] = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated, and what the judge sees."""

    hallusion_beams: AtLeastOne = 1  # 1: greedy
    hallusion_max_new_tokens: AtLeastOne = 128  # lmms-eval's setting; the authors state none
    # What the judge of correctness sees: texts alone, as published, or the picture as well.
    hallusion_judge_sees: Annotated[Literal["texts", "picture"], READING_JUDGE] = "texts"


def questions(sources: Sources) -> list[Question]:
    """The questions in file order, 178 of them without a picture."""
    path = sources.note(sources.resolve(sources.data.hallusion))
    pictures = sources.resolve(sources.data.hallusion_images)
    return data.questions(path, pictures, sources.report)


def readings(settings: Settings) -> dict[str, str]:
    """How replies are read, and what the judge saw."""
    sees = f"judge sees {settings.hallusion_judge_sees}"
    return {prefix: f"{reading}, {sees}" for prefix, reading in READ_AS.items()}


def cases(
    answers: Iterable[Answer],
    questions: Mapping[str, Question],
    evidence: Mapping[str, Evidence],
    settings: Settings,
) -> list[Case]:
    """Two cases per answer: is it correct, and does it agree with that on its first figure?

    The second is left out for first figures, of which no score reads it.
    """
    answers, found = list(answers), []
    places = {answer.question_id: data.place_of(answer.question_id) for answer in answers}
    own = [answer for answer in answers if places[answer.question_id].figure_id == "0"]
    firsts = {(answer.model, places[answer.question_id].pair): answer for answer in own}
    for answer in answers:
        asked = questions[answer.question_id]
        right, _, details = (asked.label or "").partition(": ")
        picture = asked.image if settings.hallusion_judge_sees == "picture" else ""
        facts = (details, right)
        found.append(alone(answer, OWN, facts, question=asked.text, picture=picture))
        first = firsts.get((answer.model, places[answer.question_id].pair), answer)
        if first is not answer:
            found.append(alone(answer, SAME, (first.text,)))
    return found


def tally(answer: Answer, known: Known) -> Tally:
    """What one answer adds alone, in both readings; the groups follow in `group_tallies`."""
    both = {prefix: marked(answer, known, official=bool(prefix)) for prefix in READ_AS}
    found: dict[str, tuple[float, float]] = {}
    for prefix, one in both.items():
        wrong = one.is_read and not one.is_right
        found |= {
            f"{prefix}a_acc": (one.is_right, one.is_read),
            f"{prefix}says_yes": (one.is_read and one.says_yes, one.is_read),
            f"{prefix}is_yes": (one.is_read and one.is_yes, one.is_read),
            f"{prefix}yes_bias": (0, 0),
            f"{prefix}no_among_wrong": (wrong and not one.is_yes, wrong),
        }
    ours, official = both.values()
    differ = (ours.mark != official.mark) + (ours.same != official.same)
    found["words_per_answer"] = word_count(answer.text), 1
    found["readings_differ"] = differ, 1
    found["same_unread"] = official.same is not None and ours.same is None, 1
    return found


def group_tallies(answers: Sequence[tuple[Answer, Known]]) -> Mapping[str, Tally]:
    """Pairs, figures and kinds of errors of one model; a group counts at its first answer.

    A group with an answer whose reply could not be read is in no denominator.
    """
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for prefix in READ_AS:
        every = {a.question_id: marked(a, k, official=bool(prefix)) for a, k in answers}
        for name in _GROUPS:
            for key, group in _groups(every, name):
                right = sum(one.is_right for one in group)
                found[key][prefix + name] = right == len(group), 1
                if name == "f_acc":
                    found[key][f"{prefix}figure_score"] = right / len(group), 1
                    found[key][f"{prefix}figures_wrong"] = not right, 1
        firsts = {one.place.pair: one for one in every.values() if one.place.figure_id == "0"}
        for key, one in every.items():
            kind = kind_of_error(one, firsts.get(one.place.pair))
            found[key] |= {prefix + name: (name == kind, bool(kind)) for name in KINDS}
    return found


def _groups(every: Mapping[str, Marked], name: str) -> Iterator[tuple[str, list[Marked]]]:
    """The first id of each group of one accuracy that could be read as a whole, and its answers."""
    groups: dict[str, dict[str, Marked]] = defaultdict(dict)
    for key, one in every.items():
        place = one.place
        if name == "f_acc":
            if not place.has_no_picture:
                groups[place.figure][key] = one
        elif name == "q_acc" or (place.visual_input == "2") == (name == "hard_acc"):
            groups[place.pair][key] = one
    for group in groups.values():
        if all(one.is_read for one in group.values()):
            yield next(iter(group)), [*group.values()]
