"""Footnotes: what a reader must know before believing a number."""

from collections.abc import Mapping, Sequence
from typing import Any

from hadpo import config
from hadpo.tables.groups import PLACES, SEEDS, differing, flat
from hadpo.tables.reported import ReportedRow, matching
from hadpo.tables.results import RunResults


def of_comparison(
    results: Sequence[RunResults], reported: Sequence[ReportedRow], samples: int
) -> tuple[str, ...]:
    """Published numbers, judge, decoding, prompt, training, seeds, versions, intervals."""
    notes = [
        *_reported(results, reported),
        *of_answers(results),
        *_training(results),
        "Words per answer stand beside every ratio, because a shorter answer can invent less.",
        *of_intervals(len(results), samples),
    ]
    if any(result.is_mini for result in results):
        notes.append(
            "mini: the base was trained to invent what usually co-occurs, and the pairs were made "
            "with exact ground truth. It shows that the method's machinery works, nothing about "
            "real models."
        )
    return tuple(notes)


def of_answers(results: Sequence[RunResults]) -> list[str]:
    """How the answers came about and were read: judge, decoding, prompt, seeds, versions."""
    first = results[0]
    notes = [
        *_evaluation(first.settings.get("evaluate", {})),
        *_seeds(results),
        *_differing(results),
        "Unreadable: yes/no answers that begin with neither word (upstream reads them as yes), and "
        "sentences whose ruling could not be read; an arrow leads from one model to the other.",
    ]
    if first.versions:
        notes.append("Versions: " + ", ".join(f"{k} {v}" for k, v in first.versions.items()) + ".")
    return notes


def of_intervals(runs: int, samples: int) -> list[str]:
    """How the intervals were made."""
    paired = (
        f"95 % interval of one run: paired bootstrap over images, {samples} resamplings; u: "
        "unpaired, from the two models' own intervals, therefore wider; - where there is neither."
    )
    over = (
        "95 % interval of several runs, which differ in nothing but their seeds: Student's t over "
        "the runs' differences; the deviation is theirs."
    )
    bold = "Bold: the interval does not cover zero. Differences of percentages are in points."
    return [paired, over, bold] if runs > 1 else [paired, bold]


def _reported(results: Sequence[RunResults], reported: Sequence[ReportedRow]) -> list[str]:
    if not reported:
        return []
    rows = [row for result in results for row in matching(reported, result.backbone)]
    if not rows:
        return ["Published numbers of several backbones: they stand in their own tables."]
    names = sorted({f"{row.backbone} ({row.system}, {row.date})" for row in rows})
    note = (
        f"Reported: {', '.join(names)}; sources and disputed cells stand in the tables of reported "
        "numbers."
    )
    if any(result.is_mini for result in results):
        note += " Another model, other images, another judge: not comparable with mini."
    return [note]


def _evaluation(settings: Mapping[str, Any]) -> list[str]:
    if not settings:
        return []

    def decoding(name: str) -> str:
        beams = settings.get(f"{name}_beams", 1)
        way = "greedy" if beams == 1 else f"beam {beams}"
        return f"{name.upper()} {way}, at most {settings.get(f'{name}_max_new_tokens')} new tokens"

    benchmarks = config.names(str(settings.get("benchmark_names", "")))
    ways = [decoding(name) for name in benchmarks if f"{name}_beams" in settings]
    limit = settings.get("questions_limit", 0)
    return [
        f"Judge: {settings.get('judge')}. Decoding: {'; '.join(ways)}; repetition penalty "
        f"{settings.get('repetition_penalty')}. Prompt: the backbone's "
        f"{settings.get('prompt')} prompt. POPE answers are read as POPE's own script reads them."
        + (f" Only the first {limit} questions of each split." if limit else "")
    ]


def _training(results: Sequence[RunResults]) -> list[str]:
    settings = results[0].settings.get("train")
    if not settings:
        return []
    if settings.get("objective") == "sft":
        return [
            f"Training: finetuning on answers to instructions, of {settings.get('trained')}; the "
            f"loss is a mean over {settings.get('mean_over')}."
        ]
    return [
        f"Training: loss {settings.get('loss')}, beta {settings.get('beta')}, gamma "
        f"{settings.get('gamma')} (weight of the language-modelling term on the chosen text); "
        "HA-DPO's LLaVA run had none (gamma 0)."
    ]


def _seeds(results: Sequence[RunResults]) -> list[str]:
    found = []
    for result in results:
        settings = flat(result.settings)
        seeds = [f"{name} {settings[name]}" for name in SEEDS if name in settings]
        if seeds:
            found.append(f"{result.name}: {', '.join(seeds)}")
    return [f"Seeds: {'; '.join(found)}."] if found else []


def _differing(results: Sequence[RunResults]) -> list[str]:
    """Settings, beside the seeds, in which runs of one recipe differ; of files only that they do.

    A path says nothing to a reader on another machine.
    """
    notes = []
    for recipe in dict.fromkeys(result.recipe for result in results):
        for name, values in differing([r for r in results if r.recipe == recipe]).items():
            if name in PLACES:
                notes.append(f"Runs of {recipe} differ in the place of {name}.")
            elif name not in SEEDS:
                texts = ("-" if value is None else str(value) for value in values)
                notes.append(f"Runs of {recipe} differ in {name}: {', '.join(texts)}.")
    return notes
