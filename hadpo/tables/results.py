"""What an evaluated run left behind: metrics, manifests, and the items that the metrics rest on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hadpo import text
from hadpo.records import Answer, BadInput, Metric, Question, Verdict, read_jsonl
from hadpo.runs import read_manifest

Key = tuple[str, str, str, str]  # benchmark, split, metric, model
Sums = dict[str, tuple[float, float]]  # image_id -> numerator, denominator


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """One run's evaluation.

    `items` are the per-image sums behind each ratio; `right` says of each yes/no question whether
    it was answered rightly (benchmark, split, model); `asked` is a hash of the questions that were
    answered, and their number (benchmark, split).
    """

    name: str
    recipe: str
    is_mini: bool
    metrics: Mapping[Key, Metric]
    items: Mapping[Key, Sums] = field(default_factory=dict)
    right: Mapping[tuple[str, str, str], Mapping[str, bool]] = field(default_factory=dict)
    asked: Mapping[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # section -> setting -> value
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the evaluate stage noted
    versions: Mapping[str, str] = field(default_factory=dict)
    training_log: Path | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)  # stage -> where it was read

    @property
    def backbone(self) -> str:
        """Family and variant of the model, empty where it was not recorded."""
        return self.settings.get("model", {}).get("backbone", "")

    def value(self, key: Key) -> float | None:
        """The value of a metric, None where it was not measured."""
        metric = self.metrics.get(key)
        return metric.value if metric else None

    def unreadable(self, key: Key) -> int:
        """Answers or rulings behind a metric that could not be read.

        POPE's own reading makes a yes of everything else, so the strict reading's count is given.
        """
        metrics = (self.metrics.get(key), self.metrics.get((*key[:2], f"strict_{key[2]}", key[3])))
        return max((m.n_unreadable for m in metrics if m is not None), default=0)

    def paired(self, key: Key, other: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Sums of `key`'s model and of model `other` on the same images, or None.

        None where either has no items, the images differ, or the items do not add up to the metric
        (then the metric is another ratio than we think, and an interval would be of ours).
        """
        first, second = self.items.get(key), self.items.get((*key[:3], other))
        if not first or not second or first.keys() != second.keys():
            return None
        arrays = [np.array([sums[image] for image in sorted(sums)]) for sums in (first, second)]
        for array, model in zip(arrays, (key[3], other), strict=True):
            value = self.value((*key[:3], model))
            total = array.sum(axis=0)
            if value is None or total[1] == 0 or abs(total[0] / total[1] - value) > 1e-6:
                return None
        return arrays[0], arrays[1]


def read_results(name: str, runs_folder: Path) -> RunResults:
    """The finished evaluation of run `name`.

    Raises:
        BadInput: there is no such run, its evaluation is not done, or a file is broken.
    """
    folder = runs_folder / name / "evaluate"
    manifest = read_manifest(folder)
    if manifest is None or manifest.status != "done":
        state = manifest.status if manifest else "not there"
        known = sorted(
            path.parent.parent.name for path in runs_folder.glob("*/evaluate/manifest.json")
        )
        raise BadInput(
            f"run {name!r} cannot be compared: its stage evaluate is {state} ({folder}); "
            f"evaluated runs: {', '.join(known) or 'none'}"
        )
    settings = dict(manifest.settings)
    stages = {"evaluate": folder}
    for stage in ("merge", "train", "prepare"):
        stages[stage] = _stage_folder(runs_folder, name, stage, manifest.earlier)
        earlier = read_manifest(stages[stage])
        settings = (dict(earlier.settings) if earlier else {}) | settings
    log = stages["train"] / "metrics.jsonl"
    metrics = list(read_jsonl(folder / "metrics.jsonl", Metric))
    if not metrics:
        raise BadInput(f"{folder / 'metrics.jsonl'}: no metrics; rerun stage evaluate of {name!r}")
    answers = _read(folder / "samples.jsonl", Answer)
    verdicts = _read(folder / "verdicts.jsonl", Verdict)
    questions = _read(stages["prepare"] / "questions.jsonl", Question)
    return RunResults(
        name=name,
        recipe=manifest.recipe,
        is_mini=manifest.is_mini,
        metrics={(m.benchmark, m.split, m.name, m.model): m for m in metrics},
        items=items_of(answers, questions, verdicts),
        right=right_answers(answers, questions),
        asked=asked_questions(answers, questions),
        settings=settings,
        facts=manifest.facts,
        versions=manifest.versions,
        training_log=log if log.is_file() and log.stat().st_size else None,
        folders=stages,
    )


def _stage_folder(runs_folder: Path, name: str, stage: str, earlier: str) -> Path:
    """Where run `name` has read `stage`: its own where it has one, else that of run `earlier`.

    The rule is that of `hadpo.runs`: a run that trains anew from another's pairs reads its own
    training, although its manifest names the other run.
    """
    own = runs_folder / name / stage
    return own if not earlier or read_manifest(own) is not None else runs_folder / earlier / stage


def items_of(
    answers: Sequence[Answer], questions: Sequence[Question], verdicts: Sequence[Verdict]
) -> dict[Key, Sums]:
    """Numerator and denominator per image of every measure that is a ratio of sums.

    Questions with a yes or no label give accuracy, precision, recall, F1 and the yes ratio (answers
    read as upstream does); judged answers give the hallucinated, absent and attribute ratios and
    the sentences; all give the words.
    """
    labels = {question.question_id: question.label for question in questions}
    ruled: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        ruled.setdefault((verdict.model, verdict.case_id), []).append(verdict)
    cases = {case_id for _, case_id in ruled}
    judged = {
        a.benchmark for a in answers if a.question_id in cases
    }  # an empty answer has no claim
    found: dict[Key, Sums] = {}
    for answer in [*answers, *_judged_only(answers, ruled)]:
        if answer.benchmark in judged:
            claims = ruled.get((answer.model, answer.question_id), [])
            sums = _description_sums(answer.text, claims)
        else:
            sums = _yes_no_sums(answer.text, labels.get(answer.question_id))
        for name, (over, under) in sums.items():
            images = found.setdefault((answer.benchmark, answer.split, name, answer.model), {})
            old = images.get(answer.image_id, (0.0, 0.0))
            images[answer.image_id] = (old[0] + over, old[1] + under)
    return found


def right_answers(
    answers: Sequence[Answer], questions: Sequence[Question]
) -> dict[tuple[str, str, str], dict[str, bool]]:
    """Of every yes/no question, by benchmark, split and model: was it answered rightly?"""
    labels = {q.question_id: q.label for q in questions if q.label in ("yes", "no")}
    found: dict[tuple[str, str, str], dict[str, bool]] = {}
    for a in answers:
        if a.question_id in labels:
            place = found.setdefault((a.benchmark, a.split, a.model), {})
            place[a.question_id] = text.yes_no_upstream(a.text) == labels[a.question_id]
    return found


def asked_questions(
    answers: Sequence[Answer], questions: Sequence[Question]
) -> dict[tuple[str, str], tuple[str, int]]:
    """A hash of the answered questions of each benchmark and split, and how many they are."""
    answered = {answer.question_id for answer in answers}
    lines: dict[tuple[str, str], list[str]] = {}
    for q in questions:
        if q.question_id in answered:
            content = json.dumps([q.question_id, q.image_id, q.text, q.label])
            lines.setdefault((q.benchmark, q.split), []).append(content)
    return {
        place: (hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest(), len(found))
        for place, found in lines.items()
    }


def _judged_only(
    answers: Sequence[Answer], ruled: Mapping[tuple[str, str], Sequence[Verdict]]
) -> list[Answer]:
    """Answers that were judged but never generated: the base's text, cut, as its claims tell it."""
    generated = {answer.model for answer in answers}
    cases = {case_id for _, case_id in ruled}
    judged = {answer.benchmark for answer in answers if answer.question_id in cases}
    places = {a.question_id: a for a in answers if a.benchmark in judged}
    found = []
    for model in dict.fromkeys(model for model, _ in ruled if model not in generated):
        for case_id, place in places.items():
            claims = ruled.get((model, case_id), ())  # none: cut down to nothing
            found.append(replace(place, model=model, text=" ".join(v.claim for v in claims)))
    return found


def _yes_no_sums(said: str, label: str | None) -> dict[str, tuple[float, float]]:
    sums: dict[str, tuple[float, float]] = {"words_per_answer": (text.word_count(said), 1)}
    if label not in ("yes", "no"):
        return sums
    yes, true = text.yes_no_upstream(said) == "yes", label == "yes"
    return sums | {
        "accuracy": (yes == true, 1),
        "precision": (yes and true, yes),
        "recall": (yes and true, true),
        "f1": (2 * (yes and true), yes + true),
        "yes_ratio": (yes, 1),
    }


def _description_sums(said: str, rulings: Sequence[Verdict]) -> dict[str, tuple[float, float]]:
    valid = sum(v.label != "unparsed" for v in rulings)
    wrong = [v.kind for v in rulings if v.label == "hallucination"]
    return {
        "hallucinated_sentence_ratio": (len(wrong), valid),
        "absent_sentence_ratio": (wrong.count("absent"), valid),
        "attribute_sentence_ratio": (wrong.count("attribute"), valid),
        "sentences_per_answer": (len(rulings), 1),
        "words_per_answer": (sum(text.word_count(v.claim) for v in rulings), 1),
        "repeated_sentences_per_answer": (text.repeated_sentences(said), 1),
    }


def _read(path: Path, kind: type) -> list[Any]:
    return list(read_jsonl(path, kind)) if path.is_file() else []
