"""MMHal-Bench: open questions whose answers a judge rates from 0 to 6; below 3 is a hallucination.

The judge sees what is in the photo as words, the question and a person's answer; it can be shown
the photo as well, which is another benchmark in all but the name, and named so. Each reply is read
twice: as the original reads it, which takes what it cannot read for 0, and tolerantly, which counts
it as unreadable. Source: LLaVA-RLHF Eval/eval_gpt_mmhal.py.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Form, Known, Measure, Tally, alone, only_verdict, ruled, shown_picture
from hadpo.benchmarks._tally import evidence_of
from hadpo.config import READING_JUDGE, STRICT, AtLeastOne, When
from hadpo.data import Sources
from hadpo.data import mmhal as data
from hadpo.judges import Rubric, texts_of
from hadpo.judges.oracle import Oracle
from hadpo.records import Answer, Case, Evidence, Question, Verdict
from hadpo.text import says, word_count

WHOLE = "all"
FILES = {"mmhal": ("MMHal-Bench", ("",)), "mmhal_images": ("MMHal-Bench photos", ("",))}
FORMS = (
    Form(
        name="MMHal-Bench's, with the judge's reply",
        example='{"image_id": "df62", "model_answer": "Red.", "judge_reply": "Rating: 4"}',
        answer=("model_answer",),
        needs=("image_id", "judge_reply"),
        id=("image_id",),
        asked=("question",),
        replies={"mmhal": ("judge_reply",)},
    ),
)
SHOWN = ("mmhal_judge_sees",)  # settings that stand beside every number
LISTED = ((WHOLE, "score"), (WHOLE, "hallucination_rate"))
BARS = {"hallucination_rate": "answers with a hallucination"}
HALLUCINATED = 3  # a rating below it


def _official(name: str, label: str, **more: Any) -> Measure:
    return Measure(f"official_{name}", f"{label}, official reading", is_headline=False, **more)


MEASURES = (
    Measure("score", "MMHal: rating (0-6)", "number", "higher", is_read=True),
    Measure("hallucination_rate", "MMHal: hallucinations", better="lower", is_read=True),
    Measure("words_per_answer", "words per answer", "number"),
    _official("score", "rating (0-6)", unit="number", better="higher"),
    _official("hallucination_rate", "hallucinations", better="lower"),
    _official("informativeness", "informativeness (0-3)", unit="number", better="higher"),
    Measure("readings_differ", "replies read in two ways", "count", is_headline=False),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    mmhal: str = ""  # MMHal-Bench's response_template.json
    mmhal_images: Annotated[str, When.given("data", "mmhal")] = ""  # folder of its photos


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated, and what the judge sees."""

    mmhal_beams: AtLeastOne = 1  # 1: greedy, as LLaVA-RLHF; RLHF-V and RLAIF-V: 3
    mmhal_max_new_tokens: AtLeastOne = 1024  # LLaVA-RLHF's own setting
    # What MMHal's judge sees of the photo: its labels, as published, or the photo as well.
    mmhal_judge_sees: Annotated[Literal["labels", "photo"], READING_JUDGE] = "labels"


def questions(sources: Sources) -> list[Question]:
    """The questions in file order."""
    path = sources.note(sources.resolve(sources.data.mmhal))
    return data.questions(path, sources.resolve(sources.data.mmhal_images), sources.report)


def evidence(sources: Sources) -> dict[str, Evidence]:
    """The photos with what is in them."""
    path, images = (sources.resolve(p) for p in (sources.data.mmhal, sources.data.mmhal_images))
    return data.evidence(path, images)


def readings(settings: Settings) -> dict[str, str]:
    """How replies are read, and what the judge saw."""
    sees = f"judge sees {settings.mmhal_judge_sees}"
    return {"": f"tolerant, {sees}", "official_": f"official, {sees}"}


def cases(
    answers: Iterable[Answer],
    questions: Mapping[str, Question],
    evidence: Mapping[str, Evidence],
    settings: Settings,
) -> list[Case]:
    """A case per answer: labels of the photo and the person's answer are its facts."""
    found = []
    for answer in answers:
        asked = questions[answer.question_id]
        known = evidence_of(answer.image_id, evidence.get(answer.image_id))
        picture = known.image if settings.mmhal_judge_sees == "photo" else ""
        facts = (*known.facts, asked.label or "")
        found.append(alone(answer, "mmhal", facts, question=asked.text, picture=picture))
    return found


def slots(case: Case) -> dict[str, str]:
    """What fills a prompt; the official one has four `{}` for it."""
    *labels, right = case.evidence.facts
    facts, claims = ", ".join(labels), case.claims[0]
    return {"facts": facts, "question": case.question, "right": right, "claims": claims}


_RATING = re.compile(r"\brating\b\W*(?:(?:should be|would be|is|of)\W*)?(\d+(?:\.\d+)?)")


def official_rating(reply: str) -> int:
    """The digit of the one "rating: <digit>" in a reply; 0 if there is none, or several differ."""
    found = [score for score in range(7) if f"rating: {score}" in reply.lower()]
    return found[0] if len(found) == 1 else 0


def read_rating(reply: str, case: Case) -> list[Verdict]:
    """One verdict, "scored" by a clear rating from 0 to 6; the official reading beside it."""
    found = set(_RATING.findall(reply.lower()))
    scores: dict[str, float] = {"official": official_rating(reply)}
    if len(found) == 1 and found <= set("0123456"):
        return ruled(case, "scored", scores | {"score": int(found.pop())}, reply)
    return ruled(case, "unparsed", scores, reply)


def rate_by_annotations(oracle: Oracle, case: Case) -> list[Verdict]:
    """4 if an answer says what the person said and names nothing that is not there; else 1."""
    *labels, right = case.evidence.facts
    named = {mention.name for mention in oracle.vocabulary.read(case.claims[0]).mentions}
    there = {*labels, *(mention.name for mention in oracle.vocabulary.read(right).mentions)}
    score = 4 if says(case.claims[0], right) and not named - there else 1
    return ruled(case, "scored", {"official": score, "score": score})


RUBRICS = (
    Rubric(
        name="mmhal",
        **texts_of(Path(__file__).parent, "mmhal"),
        read=read_rating,
        slots=slots,
        places=4,
        images=shown_picture,
        by_annotations=rate_by_annotations,
    ),
)


def tally(answer: Answer, known: Known) -> Tally:
    """Ratings and hallucinations in both readings, and words; BadInput without a verdict.

    informativeness is RLAIF-V's, true or not, from 0 to 3; its script prints the share of 3.
    """
    verdict = only_verdict(answer, known)
    official, is_read = int(verdict.scores["official"]), "score" in verdict.scores
    score = int(verdict.scores.get("score", 0))
    return {
        "score": (score, is_read),
        "hallucination_rate": (is_read and score < HALLUCINATED, is_read),
        "words_per_answer": (word_count(answer.text), 1),
        "official_score": (official, 1),
        "official_hallucination_rate": (official < HALLUCINATED, 1),
        "official_informativeness": (official - 3 * (official >= 3), 1),
        "readings_differ": (not is_read or score != official, 1),
    }
