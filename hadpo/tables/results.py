"""Results of an evaluated run: metrics, manifests, and the items that the metrics rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hadpo.config import ROOT
from hadpo.records import BadInput, Metric, Outcome, read_jsonl
from hadpo.runs import read_manifest, stage_folder
from hadpo.tables.measures import models_in_order

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
        """Family and variant of the model, or its names on a server; empty if neither is known."""
        model = self.settings.get("model", {})
        return model.get("backbone") or model.get("server_models", "")

    @property
    def models(self) -> list[str]:
        """Evaluated models, in the order of the tables."""
        return models_in_order(key[3] for key in self.metrics)

    def value(self, key: Key) -> float | None:
        """The value of a metric, None if it was not measured."""
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

        None if either has no items, the images differ, or the items do not add up to the metric
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
    path = folder / "outcomes.jsonl"
    if not path.is_file():
        raise BadInput(
            f"{path} is not there: run {name!r} was evaluated by an older version; redo it with "
            f"hadpo stage evaluate RECIPE --name {name} --force"
        )
    outcomes = list(read_jsonl(path, Outcome))
    return RunResults(
        name=name,
        recipe=manifest.recipe,
        is_mini=manifest.is_mini,
        metrics={(m.benchmark, m.split, m.name, m.model): m for m in metrics},
        items={
            (o.benchmark, o.split, measure, o.model): dict(
                zip(o.images, zip(*sums, strict=True), strict=True)
            )
            for o in outcomes
            for measure, sums in o.sums.items()
        },
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


# Which runs are repetitions of one another: the same recipe and settings, other seeds.

SEEDS = ("prepare_seed", "train_seed", "evaluate_seed", "mini_seed")
PLACES = ("files", "visual_genome", "pairs_folder", "coco", "pope", "shr", "vocabulary")
_NO_MATTER = {*SEEDS, *PLACES, "device"}  # two runs that differ in these may still be averaged


def groups(results: Sequence[RunResults]) -> dict[str, list[RunResults]]:
    """Runs that may be averaged, by the group's label: the recipe, and what sets the group apart.

    Runs stand together if they agree in their recipe and in every setting of every stage, seeds,
    device and places of files aside. Where groups of one recipe differ, the label says in what,
    for example "mini/llava, beta 0.2".
    """
    found: dict[tuple[Any, ...], list[RunResults]] = {}
    for result in results:
        shared = {k: repr(v) for k, v in flat(result.settings).items() if k not in _NO_MATTER}
        found.setdefault((result.recipe, *sorted(shared.items())), []).append(result)
    firsts, labelled = [members[0] for members in found.values()], {}
    for members in found.values():
        recipe, own = members[0].recipe, flat(members[0].settings)
        names = differing([other for other in firsts if other.recipe == recipe])
        texts = [f"{name} {own.get(name, '-')}" for name in names if name not in _NO_MATTER]
        labelled[", ".join([recipe, *texts])] = members
    return labelled


def differing(results: Sequence[RunResults]) -> dict[str, list[Any]]:
    """Setting -> its distinct values over the runs, of the settings that are not equal in all."""
    each = [flat(result.settings) for result in results]
    names = sorted({name for settings in each for name in settings})
    values = {name: [settings.get(name) for settings in each] for name in names}
    return {
        name: [v for at, v in enumerate(found) if v not in found[:at]]
        for name, found in values.items()
        if any(v != found[0] for v in found)
    }


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of all sections by their own names, which no two sections share."""
    found: dict[str, Any] = {}
    for section in settings.values():
        found |= section if isinstance(section, Mapping) else {}
    return found


# May these runs stand in one table? Only with the same questions, reading and judge.


def differences(results: Sequence[RunResults]) -> list[str]:
    """What keeps runs from being compared, one sentence a field; empty if nothing does.

    Compared are the benchmarks and splits that runs share: the questions that were asked (ids,
    texts, right answers, images), how answers are read, and who judged.
    """
    first, found = results[0], []
    for other in results[1:]:
        shared = [place for place in first.asked if place in other.asked]
        for place in shared:
            asked = [run.asked[place] for run in (first, other)]
            if asked[0] != asked[1]:
                one, two = (f"{count} ({digest[:8]})" for digest, count in asked)
                found.append(
                    f"questions of {' '.join(place)}: {first.name!r} answered {one}, "
                    f"{other.name!r} {two}"
                )
        for benchmark in dict.fromkeys(benchmark for benchmark, _ in shared):
            for name in ("readings", "judge"):
                one, two = (_decoding(run, benchmark).get(name) for run in (first, other))
                if one is not None and two is not None and one != two:
                    found.append(
                        f"{name} of {benchmark}: {one!r} of {first.name!r}, {two!r} of "
                        f"{other.name!r}"
                    )
    return found


def check_comparable(results: Sequence[RunResults]) -> None:
    """Raise BadInput, with every differing field, if runs may not stand in one table."""
    found = differences(results)
    if found:
        raise BadInput(
            f"these runs are not comparable: {'; '.join(found)}. Compare them apart, or ask for it "
            "all the same: hadpo compare --anyway, or on_difference=note"
        )


def _decoding(result: RunResults, benchmark: str) -> dict[str, Any]:
    settings = result.settings.get("evaluate", {})
    noted = result.facts.get("decoding", {}).get(benchmark, {})
    return {"judge": settings.get("judge")} | noted
