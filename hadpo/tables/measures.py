"""What each metric is called in a table: the benchmarks declare it."""

from collections.abc import Iterable
from typing import Any

from hadpo import plugins
from hadpo.measures import Measure

MODELS = {  # what a metric's `model` says -> what a table says; in the order of the tables
    "base": "base",
    "merged": "tuned",
    "base_cut": "base, cut to the same length",
    "sft": "finetuned on the chosen texts only",
    "sft_true": "finetuned on sentences judged true",
    "sft_flawless": "finetuned on texts without a false sentence",
    "dpo_alone": "preference loss alone (gamma 0)",
}
_BENCHMARKS = "hadpo.benchmarks"
WORDS = "words_per_answer"
_FRACTIONS = ("ratio", "share", "accuracy", "precision", "recall", "f1", "rate")


def measures_of(benchmark: str) -> tuple[Measure, ...]:
    """The measures of a benchmark, in the order of the tables; none of one that is not there."""
    return declared(benchmark, "MEASURES", ())


def measure_of(benchmark: str, name: str) -> Measure:
    """The measure of a metric; one that is not declared goes by its own name, after the others."""
    for measure in measures_of(benchmark):
        if measure.name == name:
            return measure
    unit = "percent" if name.endswith(_FRACTIONS) else "number"
    return Measure(name, name.replace("_", " "), unit, is_headline=False)


def split_title(benchmark: str, split: str) -> str:
    """What stands before a measure's label if the splits of its benchmark are told apart by it."""
    return declared(benchmark, "SPLIT_TITLE", "").format(split=split)


def bars_of(benchmark: str) -> dict[str, str]:
    """Metrics that a figure of a benchmark draws, all of one unit, and what a reader calls them.

    `BARS` of its module, or the measures that have a better direction and the unit of the first.
    """
    directed = [m for m in measures_of(benchmark) if m.better and m.is_headline]
    bars = {m.name: m.label for m in directed if m.unit == directed[0].unit}
    return declared(benchmark, "BARS", bars)


def learning_metric(benchmark: str) -> str:
    """The metric that a learning curve draws: named, or the first that has a better direction."""
    directed = [m.name for m in measures_of(benchmark) if m.better]
    return declared(benchmark, "LEARNING_METRIC", (directed or [""])[0])


def declared(benchmark: str, name: str, otherwise: Any) -> Any:
    """What the module of a benchmark declares under `name`; `hadpo.benchmarks` lists the names."""
    if benchmark not in plugins.available(_BENCHMARKS):  # an export of somebody else's benchmark
        return otherwise
    return getattr(plugins.load(_BENCHMARKS, benchmark), name, otherwise)


def model_title(model: str) -> str:
    """What a table calls a model."""
    return MODELS.get(model, model)


def models_in_order(models: Iterable[str]) -> list[str]:
    """Each model once, in the order of the tables; those that they do not know last, by name."""
    known = set(models)
    return [m for m in MODELS if m in known] + sorted(known - MODELS.keys())
