"""POPE: is there a ... in the image? Yes-or-no questions, half of them about absent objects.

Two readings of the answers stand side by side. The metrics without a prefix read as the original
script does, bit for bit, so they compare with published numbers; those named `strict_...` take the
first word, and count what is neither yes nor no as unreadable.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic.dataclasses import dataclass

from hadpo.benchmarks._bootstrap import Values, intervals, number, ratio
from hadpo.benchmarks._decoding import decoding_of
from hadpo.config import STRICT, AtLeastOne
from hadpo.data.pope import read as questions
from hadpo.records import Answer, BadInput, Case, Evidence, Metric, Question, Verdict
from hadpo.text import word_count, yes_no_strict, yes_no_upstream

if TYPE_CHECKING:
    from hadpo.generation import Decoding

__all__ = [
    "READINGS",
    "RUBRIC",
    "cases",
    "decoding",
    "matrix",
    "questions",
    "score",
    "sums",
    "tally",
    "warnings",
]

RUBRIC = ""  # no judge
READINGS = {"": "upstream", "strict_": "strict"}  # prefix of the metrics -> reading
# What an answer adds, per image; the columns that metrics are computed from.
_TP, _FP, _TN, _FN, _UNREAD_YES, _UNREAD_NO, _WORDS = range(7)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    pope: str = ""  # folder with coco_pope_{random,popular,adversarial}.json


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated."""

    pope_beams: AtLeastOne = 1  # 1: greedy
    pope_max_new_tokens: AtLeastOne = 512  # LLaVA's own setting
    pope_stop_at_period: bool = False  # end answers at the first period, POPE reads no further


def decoding(settings: Any) -> "Decoding":
    """How answers are generated."""
    return decoding_of("pope", settings, stop_at="." if settings.pope_stop_at_period else "")


def cases(
    answers: Iterable[Answer],
    evidence: Mapping[str, Evidence],
    questions: Sequence[Question] = (),
    settings: Any | None = None,
) -> list[Case]:
    """Nothing: questions have gold labels, no judge is asked."""
    return []


def score(
    answers: Sequence[Answer],
    questions: Sequence[Question],
    verdicts: Sequence[Verdict] = (),
    evidence: Mapping[str, Evidence] | None = None,
    vocabulary: object = None,
    *,
    samples: int = 1000,
    seed: int = 42,
    settings: Any | None = None,
) -> list[Metric]:
    """The metrics of every model and split; answers meet their questions by id, never by position.

    Args:
        answers: of any number of models.
        questions: with gold labels, so the other arguments that benchmarks get are not used:
        verdicts: none are asked for.
        evidence: not used.
        vocabulary: not used.
        samples: resampled image sets behind each interval.
        seed: of the resampling.
        settings: with pope_stop_at_period, what needs whole answers has no value: the strict
            reading and words_per_answer.

    Returns:
        Counts true_positives, false_positives, true_negatives, false_negatives, unanswered;
        accuracy, precision, recall, f1, yes_ratio; words_per_answer; the first ten also with the
        strict reading. A strict answer that is neither yes nor no is wrong in strict_accuracy.

    Raises:
        BadInput: a question without a label, an answer to an unknown question, or two answers to
            one question.
    """
    known = {q.question_id: q for q in questions}
    if len(known) != len(questions):
        raise BadInput("question ids are not unique")
    unlabelled = [q.question_id for q in questions if q.label not in ("yes", "no")]
    if unlabelled:
        few = ", ".join(unlabelled[:5])
        raise BadInput(f"{len(unlabelled)} questions without a label yes or no: {few} ...")
    unknown = sorted({a.question_id for a in answers} - known.keys())
    if unknown:
        raise BadInput(f"{len(unknown)} answers to unknown questions: {', '.join(unknown[:5])} ...")
    found: list[Metric] = []
    by_model = sorted(answers, key=lambda a: a.model)
    for model, group in groupby(by_model, key=lambda a: a.model):
        said = _by_question(group, model)
        for split in dict.fromkeys(q.split for q in questions):
            asked = [q for q in questions if q.split == split]
            found += _score_split(model, split, asked, said, samples=samples, seed=seed)
    if settings is not None and settings.pope_stop_at_period:
        return [_without_value(m) if _needs_whole_answers(m) else m for m in found]
    return found


def sums(
    answers: Iterable[Answer],
    questions: Sequence[Question],
    verdicts: object = None,
    evidence: object = None,
    vocabulary: object = None,
) -> Iterator[tuple[Answer, dict[str, tuple[float, float]]]]:
    """What each answer adds to numerator and denominator of the metrics, read as upstream does."""
    labels = {question.question_id: question.label for question in questions}
    for answer in answers:
        said = yes_no_upstream(answer.text) == "yes"
        true = labels[answer.question_id] != "no"
        yield (
            answer,
            {
                "accuracy": (said == true, 1),
                "precision": (said and true, said),
                "recall": (said and true, true),
                "f1": (2 * (said and true), said + true),
                "yes_ratio": (said, 1),
                "words_per_answer": (word_count(answer.text), 1),
            },
        )


def _needs_whole_answers(metric: Metric) -> bool:
    return metric.name.startswith("strict_") or metric.name == "words_per_answer"


def _without_value(metric: Metric) -> Metric:
    return replace(metric, value=None, n=0, n_unreadable=0, low=None, high=None)


def warnings(metrics: Iterable[Metric], questions: Iterable[Question]) -> list[str]:
    """What cannot be right: recall that differs between splits that ask the same positives.

    A model that answers the same question in the same way has one recall for all of them. Sampling,
    or files of different models under one name, show here.
    """
    positives: dict[str, set[tuple[str, str]]] = {}
    for question in questions:
        here = positives.setdefault(question.split, set())
        if question.label == "yes":
            here.add((question.image_id, question.text))
    recalls: dict[str, dict[str, float | None]] = {}
    for metric in metrics:
        if metric.name == "recall":
            recalls.setdefault(metric.model, {})[metric.split] = metric.value
    found = []
    for model, by_split in recalls.items():
        same = [s for s in by_split if positives.get(s) == positives.get(next(iter(by_split)))]
        if len({by_split[split] for split in same}) > 1:
            shown = ", ".join(f"{split} {by_split[split]}" for split in same)
            found.append(
                f"POPE: recall of {model} differs between splits of the same positives ({shown}); "
                "a model that decodes deterministically has one recall: were answers mixed up?"
            )
    return found


def _by_question(answers: Iterable[Answer], model: str) -> dict[str, Answer]:
    said: dict[str, Answer] = {}
    for answer in answers:
        if answer.question_id in said:
            raise BadInput(f"{model}: two answers to question {answer.question_id}")
        said[answer.question_id] = answer
    return said


def _score_split(
    model: str,
    split: str,
    asked: Sequence[Question],
    said: dict[str, Answer],
    *,
    samples: int,
    seed: int,
) -> list[Metric]:
    answered = [(q, said[q.question_id].text) for q in asked if q.question_id in said]
    found: list[Metric] = []

    def add(name: str, value: float | None, n: int, **rest: float | int | None) -> None:
        fields = {"benchmark": "pope", "split": split, "model": model, "name": name}
        found.append(Metric(**fields, value=value, n=n, **rest))  # pyright: ignore[reportArgumentType]

    for prefix, reading in READINGS.items():
        counts = tally(answered, reading=reading)
        total = counts.sum(axis=0)
        unread = int(total[_UNREAD_YES] + total[_UNREAD_NO])
        for name, column in _COUNTS.items():
            add(prefix + name, float(total[column]), len(answered), n_unreadable=unread)
        bounds = intervals(counts, RATES, samples=samples, seed=seed)
        for name, rate in RATES.items():
            if prefix and name == "words_per_answer":
                continue
            value = number(float(rate(total)))
            low, high = bounds[name] if value is not None else (None, None)
            n = len(answered) if value is not None else 0
            add(prefix + name, value, n, n_unreadable=unread, low=low, high=high)
    add("unanswered", float(len(asked) - len(answered)), len(asked))
    return found


def tally(
    answered: Iterable[tuple[Question, str]], *, reading: str
) -> Float[np.ndarray, "images columns"]:
    """Confusion counts, unread answers and words of each image, under one reading."""
    read: Callable[[str], Literal["yes", "no"] | None]
    read = yes_no_upstream if reading == "upstream" else yes_no_strict
    rows: dict[str, np.ndarray] = {}
    for question, text in answered:
        row = rows.setdefault(question.image_id, np.zeros(7))
        is_yes = question.label != "no"  # the original takes every label but "no" for a yes
        column = {
            "yes": _TP if is_yes else _FP,
            "no": _FN if is_yes else _TN,
            None: _UNREAD_YES if is_yes else _UNREAD_NO,
        }[read(text)]
        row[column] += 1
        row[_WORDS] += word_count(text)
    return np.array(list(rows.values())) if rows else np.zeros((0, 7))


def matrix(
    *, true_positives: int, false_positives: int, true_negatives: int, false_negatives: int
) -> Float[np.ndarray, " columns"]:
    """Summed counts of a confusion matrix, for `RATES`."""
    four = (true_positives, false_positives, true_negatives, false_negatives)
    return np.array([*four, 0, 0, 0], dtype=float)


_COUNTS = {
    "true_positives": _TP,
    "false_positives": _FP,
    "true_negatives": _TN,
    "false_negatives": _FN,
}


def _accuracy(c: np.ndarray) -> Values:
    return ratio(c[..., _TP] + c[..., _TN], c[..., : _UNREAD_NO + 1].sum(axis=-1))


def _precision(c: np.ndarray) -> Values:
    return ratio(c[..., _TP], c[..., _TP] + c[..., _FP])


def _recall(c: np.ndarray) -> Values:
    return ratio(c[..., _TP], c[..., _TP] + c[..., _FN] + c[..., _UNREAD_YES])


def _f1(c: np.ndarray) -> Values:
    # In this order, so that the last bit is the original's: 2 * precision * recall / (sum of both).
    precision, recall = _precision(c), _recall(c)
    return ratio(2 * precision * recall, precision + recall)


def _yes_ratio(c: np.ndarray) -> Values:
    return ratio(c[..., _TP] + c[..., _FP], c[..., : _UNREAD_NO + 1].sum(axis=-1))


def _words(c: np.ndarray) -> Values:
    return ratio(c[..., _WORDS], c[..., : _UNREAD_NO + 1].sum(axis=-1))


# Name -> function of summed counts; the share of yes is over all answers, as in the original.
RATES = {
    "accuracy": _accuracy,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "yes_ratio": _yes_ratio,
    "words_per_answer": _words,
}
