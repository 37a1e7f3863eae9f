"""POPE: is there a ... in the image? Yes-or-no questions, half of them about absent objects.

Two readings of the answers stand side by side. The metrics without a prefix read as the original
script does, bit for bit, so they compare with published numbers; those named `strict_...` take the
first word, and count what is neither yes nor no as unreadable.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally
from hadpo.config import STRICT, AtLeastOne
from hadpo.data import Report, Sources
from hadpo.data import pope as data
from hadpo.measures import Values, harmonic_mean, yes_no_rates
from hadpo.records import Answer, BadInput, Metric, Question
from hadpo.text import word_count, yes_no_strict, yes_no_upstream

__all__ = ["LABELS", "MEASURES", "READINGS", "decoding", "questions", "tally", "warnings"]

LABELS = ("yes", "no")
SPLIT_TITLE = "POPE {split}"
LISTED = (("adversarial", "accuracy"),)
READINGS = {"": "upstream", "strict_": "strict"}  # prefix of the metrics -> reading
COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")


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


FILES = {"pope": ("POPE", tuple(data.path_of(Path(), split).name for split in data.SPLITS))}


def questions(sources: Sources) -> list[Question]:
    """The questions of all three splits, in file order; BadInput without the photos."""
    if not sources.data.pope:
        return []
    if not sources.data.coco:
        raise BadInput("data.pope is set but data.coco is not: its questions need the photos")
    folder = sources.folder("pope", *FILES["pope"][1])
    return data.read(folder, sources.resolve(sources.data.coco), sources.report)


def image_ids(sources: Sources) -> list[str]:
    """Ids of the photos; problems are reported with the questions."""
    return [q.image_id for q in questions(replace(sources, report=Report("skip")))]


def _f1(values: Mapping[str, Values]) -> Values:
    return harmonic_mean(values["precision"], values["recall"])


def _strict_f1(values: Mapping[str, Values]) -> Values:
    return harmonic_mean(values["strict_precision"], values["strict_recall"])


def _behind(name: str, **more: Any) -> Measure:
    """A measure that stands in the metrics' file, after those of the tables."""
    label = name.replace("_", " ")
    return Measure(name, label, is_headline=False, is_shared=False, counts_answers=True, **more)


_STRICT: dict[str, Any] = {"is_read": True, "needs_whole_answers": True}
MEASURES = (
    Measure("accuracy", "accuracy", better="higher", counts_answers=True),
    Measure("f1", "F1", better="higher", counts_answers=True, of=_f1),
    Measure("precision", "precision", better="higher", is_headline=False, counts_answers=True),
    Measure("recall", "recall", better="higher", is_headline=False, counts_answers=True),
    Measure("yes_ratio", "yes ratio", counts_answers=True),
    *(_behind(name, unit="count") for name in COUNTS),
    Measure(
        "words_per_answer",
        "words per answer",
        unit="number",
        is_headline=False,
        needs_whole_answers=True,
        counts_answers=True,
    ),
    *(_behind(f"strict_{name}", unit="count", **_STRICT) for name in COUNTS),
    *(_behind(f"strict_{name}", **_STRICT) for name in ("accuracy", "precision", "recall")),
    _behind("strict_f1", of=_strict_f1, **_STRICT),
    _behind("strict_yes_ratio", **_STRICT),
)


def decoding(settings: Settings) -> dict[str, Any]:
    """Answers end at the first period if the settings say so."""
    return {"stop_at": "." if settings.pope_stop_at_period else ""}


def unreadable(answer: Answer, known: Known) -> int:
    """1 if the strict reading finds neither yes nor no."""
    return int(yes_no_strict(answer.text) is None)


def tally(answer: Answer, known: Known) -> Tally:
    """Counts of the confusion matrix, the five rates and words, under both readings.

    A strict answer that is neither yes nor no is wrong in strict_accuracy.
    """
    assert known.question is not None
    is_yes = known.question.label == "yes"
    found: dict[str, tuple[float, float]] = {}
    for prefix, said in (
        ("", yes_no_upstream(answer.text)),
        ("strict_", yes_no_strict(answer.text)),
    ):
        counts = {
            "true_positives": int(said == "yes" and is_yes),
            "false_positives": int(said == "yes" and not is_yes),
            "true_negatives": int(said == "no" and not is_yes),
            "false_negatives": int(said == "no" and is_yes),
        }
        unread = {"unread_yes": int(said is None and is_yes)}
        unread["unread_no"] = int(said is None and not is_yes)
        found |= {prefix + name: (count, 1) for name, count in counts.items()}
        found |= {prefix + name: pair for name, pair in yes_no_rates(**counts, **unread).items()}
        if not prefix:
            found["words_per_answer"] = word_count(answer.text), 1
    return found


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
