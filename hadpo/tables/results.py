"""What an evaluated run left behind: metrics, manifests, and the items that the metrics rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    """One run's evaluation; `items` are the per-image sums behind each ratio."""

    name: str
    recipe: str
    is_mini: bool
    metrics: Mapping[Key, Metric]
    items: Mapping[Key, Sums] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # section -> setting -> value
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the evaluate stage noted
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def backbone(self) -> str:
        """Family and variant of the model, empty where it was not recorded."""
        return self.settings.get("model", {}).get("backbone", "")

    def value(self, key: Key) -> float | None:
        """The value of a metric, None where it was not measured."""
        metric = self.metrics.get(key)
        return metric.value if metric else None

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
    origin = runs_folder / (manifest.earlier or name)
    settings = dict(manifest.settings)
    for stage in ("train", "prepare"):
        earlier = read_manifest(origin / stage)
        settings = (dict(earlier.settings) if earlier else {}) | settings
    metrics = list(read_jsonl(folder / "metrics.jsonl", Metric))
    if not metrics:
        raise BadInput(f"{folder / 'metrics.jsonl'}: no metrics; rerun stage evaluate of {name!r}")
    answers = _read(folder / "samples.jsonl", Answer)
    verdicts = _read(folder / "verdicts.jsonl", Verdict)
    questions = _read(origin / "prepare" / "questions.jsonl", Question)
    return RunResults(
        name=name,
        recipe=manifest.recipe,
        is_mini=manifest.is_mini,
        metrics={(m.benchmark, m.split, m.name, m.model): m for m in metrics},
        items=items_of(answers, questions, verdicts),
        settings=settings,
        facts=manifest.facts,
        versions=manifest.versions,
    )


def items_of(
    answers: Sequence[Answer], questions: Sequence[Question], verdicts: Sequence[Verdict]
) -> dict[Key, Sums]:
    """Numerator and denominator per image of every measure that is a ratio of sums.

    Questions with a yes or no label give accuracy, precision, recall, F1 and the yes ratio (answers
    read as upstream does); judged answers give the hallucinated, absent and attribute ratios and
    the sentences; all give the words.
    """
    labels = {question.question_id: question.label for question in questions}
    found: dict[Key, Sums] = {}

    def add(answer: Answer, name: str, model: str, numerator: float, denominator: float) -> None:
        sums = found.setdefault((answer.benchmark, answer.split, name, model), {})
        old = sums.get(answer.image_id, (0.0, 0.0))
        sums[answer.image_id] = (old[0] + numerator, old[1] + denominator)

    for answer in answers:
        add(answer, "words_per_answer", answer.model, text.word_count(answer.text), 1)
        label = labels.get(answer.question_id)
        if label not in ("yes", "no"):
            continue
        said, true = text.yes_no_upstream(answer.text) == "yes", label == "yes"
        add(answer, "accuracy", answer.model, said == true, 1)
        add(answer, "precision", answer.model, said and true, said)
        add(answer, "recall", answer.model, said and true, true)
        add(answer, "f1", answer.model, 2 * (said and true), said + true)
        add(answer, "yes_ratio", answer.model, said, 1)
    places = {answer.question_id: answer for answer in answers}
    seen: set[tuple[str, str]] = set()
    for verdict in verdicts:
        place = places.get(verdict.case_id)
        if place is None:
            continue
        invented, valid = verdict.label == "hallucination", verdict.label != "unparsed"
        add(place, "hallucinated_sentence_ratio", verdict.model, invented, valid)
        for kind in ("absent", "attribute"):
            wrong = invented and verdict.kind == kind
            add(place, f"{kind}_sentence_ratio", verdict.model, wrong, valid)
        first = (verdict.case_id, verdict.model) not in seen
        seen.add((verdict.case_id, verdict.model))
        add(place, "sentences_per_answer", verdict.model, 1, first)
    return found


def _read(path: Path, kind: type) -> list[Any]:
    return list(read_jsonl(path, kind)) if path.is_file() else []
