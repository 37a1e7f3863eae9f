"""What an evaluated run left behind: metrics, manifests, and the items that the metrics rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hadpo.config import ROOT
from hadpo.records import BadInput, Metric, Outcome, read_jsonl
from hadpo.runs import read_manifest, stage_folder

REPRODUCED = ROOT / "papers_results" / "reproduced"  # runs of ours, as `hadpo export` wrote them
Key = tuple[str, str, str, str]  # benchmark, split, metric, model
Sums = dict[str, tuple[float, float]]  # image_id -> numerator, denominator


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """One run's evaluation.

    `items` are the per-image sums behind each ratio; `right` (benchmark, split, model) is a hash of
    the questions, and "1" for each yes/no question that was answered rightly, "0" for each other;
    `asked` (benchmark, split) is the hash, and how many questions they are.
    """

    name: str
    recipe: str
    is_mini: bool
    metrics: Mapping[Key, Metric]
    items: Mapping[Key, Sums] = field(default_factory=dict)
    right: Mapping[tuple[str, str, str], tuple[str, str]] = field(default_factory=dict)
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

    def paired(
        self, key: Key, other: str, *, of: "RunResults | None" = None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Sums of `key`'s model and of model `other`, of this run or another, on the same images.

        None where either has no items, the images differ, or the items do not add up to the metric
        (then the metric is another ratio than we think, and an interval would be of ours).
        """
        place = (*key[:3], other)
        run = of or self
        first, second = self.items.get(key), run.items.get(place)
        if not first or not second or first.keys() != second.keys():
            return None
        arrays = [np.array([sums[image] for image in sorted(sums)]) for sums in (first, second)]
        for array, value in zip(arrays, (self.value(key), run.value(place)), strict=True):
            total = array.sum(axis=0)
            if value is None or total[1] == 0 or abs(total[0] / total[1] - value) > 1e-6:
                return None
        return arrays[0], arrays[1]


def read_results(name: str, runs_folder: Path) -> RunResults:
    """The finished evaluation of run `name`, of `runs_folder` or else of the committed exports.

    Raises:
        BadInput: there is no such run, its evaluation is not done, or a file is broken.
    """
    if not (runs_folder / name).exists() and (REPRODUCED / name).is_dir():
        runs_folder = REPRODUCED
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
        stages[stage] = stage_folder(runs_folder, name, stage, manifest.earlier)
        earlier = read_manifest(stages[stage])
        settings = (dict(earlier.settings) if earlier else {}) | settings
    log = stages["train"] / "metrics.jsonl"
    metrics = list(read_jsonl(folder / "metrics.jsonl", Metric))
    if not metrics:
        raise BadInput(f"{folder / 'metrics.jsonl'}: no metrics; rerun stage evaluate of {name!r}")
    outcomes = _outcomes(folder / "outcomes.jsonl", name)
    return RunResults(
        name=name,
        recipe=manifest.recipe,
        is_mini=manifest.is_mini,
        metrics={(m.benchmark, m.split, m.name, m.model): m for m in metrics},
        items=_items(outcomes),
        right={
            (o.benchmark, o.split, o.model): (o.questions, o.right) for o in outcomes if o.right
        },
        asked={(o.benchmark, o.split): (o.questions, o.n_questions) for o in outcomes},
        settings=settings,
        facts=manifest.facts,
        versions=manifest.versions,
        training_log=log if log.is_file() and log.stat().st_size else None,
        folders=stages,
    )


def _items(outcomes: Sequence[Outcome]) -> dict[Key, Sums]:
    """The sums of every measure, by image."""
    return {
        (o.benchmark, o.split, name, o.model): dict(
            zip(o.images, zip(*sums, strict=True), strict=True)
        )
        for o in outcomes
        for name, sums in o.sums.items()
    }


def _outcomes(path: Path, name: str) -> list[Outcome]:
    if not path.is_file():
        raise BadInput(
            f"{path} is not there: run {name!r} was evaluated by an older version; redo it with "
            f"hadpo stage evaluate RECIPE --name {name} --force"
        )
    return list(read_jsonl(path, Outcome))
