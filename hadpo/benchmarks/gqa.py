"""GQA with an examiner: does a free answer say what the right answer says?

LRV-Instruction compares answers in whole sentences with GQA's single words by a judge, who is shown
the question, the right answer and the answers of all models. Special tokens are stripped first: the
published examples were full of them. All models' answers stand in one case, in a drawn order.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic.dataclasses import dataclass

from hadpo.benchmarks._bootstrap import intervals, number, ratio
from hadpo.benchmarks._decoding import decoding_of
from hadpo.benchmarks._together import together
from hadpo.config import STRICT, AtLeastOne, EvaluateConfig
from hadpo.data.gqa import SPLIT, questions
from hadpo.records import Answer, BadInput, Case, Evidence, Metric, Question, Verdict
from hadpo.text import word_count

if TYPE_CHECKING:
    from hadpo.generation import Decoding

__all__ = ["READINGS", "RUBRIC", "SPLIT", "cases", "decoding", "questions", "score", "sums"]

RUBRIC = "gqa"
READINGS = {"": "examiner"}
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


def decoding(settings: Any) -> "Decoding":
    """How answers are generated."""
    return decoding_of("gqa", settings)


def cases(
    answers: Iterable[Answer],
    evidence: Mapping[str, Evidence],
    questions: Sequence[Question] = (),
    settings: Any | None = None,
) -> list[Case]:
    """A case per question with the answers of all models; its only fact is the right answer.

    Raises:
        BadInput: a question without a right answer.
    """
    seed = (settings or EvaluateConfig()).evaluate_seed
    asked = {question.question_id: question for question in questions}
    found = []
    for key, shown in together(answers, seed=seed):
        question = asked[key]
        if not question.label:
            raise BadInput(f"{key} has no right answer: nothing to examine by")
        known = Evidence(image_id=question.image_id, image=question.image, width=0, height=0)
        found.append(
            Case(
                case_id=key,
                model="",
                claims=tuple(_DEBRIS.sub(" ", answer.text).strip() for answer in shown),
                evidence=replace(known, facts=(question.label,)),
                rubric=RUBRIC,
                question=question.text,
                claim_models=tuple(answer.model for answer in shown),
            )
        )
    return found


def score(
    answers: Sequence[Answer],
    questions: Sequence[Question],
    verdicts: Sequence[Verdict],
    evidence: Mapping[str, Evidence] | None = None,
    vocabulary: object = None,
    *,
    samples: int = 1000,
    seed: int = 42,
    settings: Any | None = None,
) -> list[Metric]:
    """The metrics of every model.

    Args:
        answers: of any number of models.
        questions: what was asked; those without an answer are counted.
        verdicts: one per answer.
        evidence: not used.
        vocabulary: not used.
        samples: resampled image sets behind each interval.
        seed: of the resampling.
        settings: not used.

    Returns:
        accuracy, the share of the examined answers that are correct, the others being unreadable;
        words_per_answer; unanswered.

    Raises:
        BadInput: verdicts that do not fit the answers.
    """
    found: list[Metric] = []
    rows: dict[str, list[tuple[Answer, Mapping[str, tuple[float, float]]]]] = defaultdict(list)
    for answer, added in sums(answers, questions, verdicts):
        rows[answer.model].append((answer, added))
    for model, own in rows.items():
        images: dict[str, np.ndarray] = {}
        for answer, added in own:
            row = images.setdefault(answer.image_id, np.zeros(4))
            row += [*added["accuracy"], *added["words_per_answer"]]
        counts = np.array(list(images.values())).reshape(len(images), 4)
        statistics = {
            name: lambda c, at=at: ratio(c[..., at], c[..., at + 1])
            for name, at in (("accuracy", 0), ("words_per_answer", 2))
        }
        bounds = intervals(counts, statistics, samples=samples, seed=seed)
        total = counts.sum(axis=0)
        for at, (name, statistic) in zip((1, 3), statistics.items(), strict=True):
            value = number(float(statistic(total)))
            low, high = bounds[name] if value is not None else (None, None)
            lost = int(total[3] - total[1]) if name == "accuracy" else 0
            found.append(_metric(model, name, value, int(total[at]), lost, low, high))
        missing = float(len(questions) - len(own))
        found.append(_metric(model, "unanswered", missing, len(questions)))
    return found


def sums(
    answers: Iterable[Answer],
    questions: Sequence[Question],
    verdicts: Iterable[Verdict],
    evidence: Mapping[str, Evidence] | None = None,
    vocabulary: object = None,
) -> Iterator[tuple[Answer, Mapping[str, tuple[float, float]]]]:
    """What each answer adds to numerator and denominator of every metric.

    Raises:
        BadInput: an answer without a verdict.
    """
    ruled = {(verdict.model, verdict.case_id): verdict for verdict in verdicts}
    for answer in answers:
        verdict = ruled.get((answer.model, answer.question_id))
        if verdict is None:
            raise BadInput(f"{answer.model}: no verdict on {answer.question_id}; judge again")
        is_read = verdict.label in ("correct", "incorrect")
        yield (
            answer,
            {
                "accuracy": (float(verdict.label == "correct"), float(is_read)),
                "words_per_answer": (float(word_count(answer.text)), 1.0),
            },
        )


def _metric(
    model: str,
    name: str,
    value: float | None,
    n: int,
    n_unreadable: int = 0,
    low: float | None = None,
    high: float | None = None,
) -> Metric:
    return Metric(
        benchmark="gqa",
        split=SPLIT,
        model=model,
        name=name,
        value=value,
        n=n,
        n_unreadable=n_unreadable,
        low=low,
        high=high,
    )
