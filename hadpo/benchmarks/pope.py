"""POPE: is there a ... in the image? Yes-or-no questions, half of them about absent objects.

Two readings of the answers stand side by side. The metrics without a prefix read as the original
script does, bit for bit, so they compare with published numbers; those named `strict_...` take the
first word, and count what is neither yes nor no as unreadable.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Tally
from hadpo.benchmarks._yes_no import FORMS, LABELS, MEASURES, rates, unreadable
from hadpo.config import STRICT, AtLeastOne, names
from hadpo.data import Report, Sources
from hadpo.data import pope as data
from hadpo.plugins import choices
from hadpo.records import Answer, BadInput, Metric, Question
from hadpo.text import word_count, yes_no_strict, yes_no_upstream

__all__ = ["FORMS", "LABELS", "MEASURES", "unreadable"]

# Read by others: SPLIT_TITLE and LISTED by tables, READINGS by notes, FILES by doctor.
SPLIT_TITLE = "POPE {split}"
LISTED = (("adversarial", "accuracy"),)
READINGS = {"": "upstream", "strict_": "strict"}  # prefix of the metrics -> reading


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    pope: str = ""  # folder with coco_pope_{random,popular,adversarial}.json
    pope_splits: str = ""  # those that are asked, comma separated; empty: all three


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated."""

    pope_beams: AtLeastOne = 1  # 1: greedy
    pope_max_new_tokens: AtLeastOne = 512  # LLaVA's own setting
    pope_stop_at_period: bool = False  # end answers at the first period, POPE reads no further


FILES = {"pope": ("POPE", data.names("pope"))}


def questions(sources: Sources) -> list[Question]:
    """The questions of the splits, in file order; BadInput without the photos."""
    wanted = names(sources.data.pope_splits)
    if unknown := [split for split in wanted if split not in data.SPLITS]:
        raise BadInput(f"data.pope_splits: {choices(unknown[0], data.SPLITS)}")
    found = data.of_sources("pope", sources)
    return [question for question in found if not wanted or question.split in wanted]


def image_ids(sources: Sources) -> list[str]:
    """Ids of the photos; problems are reported with the questions."""
    return [q.image_id for q in questions(replace(sources, report=Report("skip")))]


def decoding(settings: Settings) -> dict[str, Any]:
    """Answers end at the first period if the settings say so."""
    return {"stop_at": "." if settings.pope_stop_at_period else ""}


def tally(answer: Answer, known: Known) -> Tally:
    """Counts of the confusion matrix, the five rates and words, under both readings.

    A strict answer that is neither yes nor no is wrong in strict_accuracy.
    """
    assert known.question is not None
    label = known.question.label
    return {
        **rates("", yes_no_upstream(answer.text), label),
        "words_per_answer": (word_count(answer.text), 1),
        **rates("strict_", yes_no_strict(answer.text), label),
    }


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
