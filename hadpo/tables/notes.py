"""Footnotes: what a reader must know before believing a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hadpo import config
from hadpo.tables._table import MINI, Row, Table, show, show_interval
from hadpo.tables.audit import verdict_of
from hadpo.tables.measures import declared, measure_of, model_title, split_title
from hadpo.tables.reported import ReportedRow, audit_reported, matching
from hadpo.tables.results import PLACES, SEEDS, RunResults, differing, flat

ANOTHER_JUDGE = "‡"  # behind a published number that another kind of judge gave


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
    first, seeds = results[0], []
    for result in results:
        settings = flat(result.settings)
        own = [f"{name} {settings[name]}" for name in SEEDS if name in settings]
        seeds += [f"{result.name}: {', '.join(own)}"] if own else []
    notes = _evaluation(first.settings.get("evaluate", {}))
    model = first.settings.get("model", {})
    if model.get("engine", "local") != "local":
        notes.append(
            f"Answers from a server: {model.get('server_models')}; its own chat template makes the "
            "prompt, and it decodes greedily: SHR with 5 beams, as the papers have it, is another "
            "number."
        )
    notes += [f"Seeds: {'; '.join(seeds)}."] if seeds else []
    notes += _differing(results)
    notes.append(
        "Unreadable: yes/no answers that begin with neither word (upstream reads them as yes), and "
        "sentences whose ruling could not be read; an arrow leads from one model to the other."
    )
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
        "95 % interval of several runs, which differ in nothing but their seeds: two-level "
        "bootstrap, images (the same for all runs and both models) and runs drawn anew, "
        f"{samples} resamplings; the deviation is that of the runs' differences. With few runs "
        "the part of the seeds is understated; runs of one base say nothing of other bases."
    )
    bold = (
        "Bold, better and worse: the interval does not cover zero, and still not by Holm's "
        "correction for all rows of the table. Differences of percentages are in points."
    )
    return [paired, over, bold] if runs > 1 else [paired, bold]


def _reported(results: Sequence[RunResults], reported: Sequence[ReportedRow]) -> list[str]:
    if not reported:
        return []
    rows = [row for result in results for row in matching(reported, result.backbone)]
    if not rows:
        return ["Published numbers of several backbones: they stand in their own tables."]
    names = sorted({f"{row.backbone} ({row.system}, {row.date})" for row in rows})
    if all(result.is_mini for result in results):
        return [
            f"Published numbers ({', '.join(names)}) stand in their own tables: another model, "
            "other images, another judge, not comparable with mini."
        ]
    found = [
        f"Reported: {', '.join(names)}; sources and disputed cells stand in the tables of reported "
        "numbers."
    ]
    if any(is_oracles(result, row.benchmark) for result in results for row in rows):
        found.append(
            f"{ANOTHER_JUDGE}: reported with a language model as judge, ours with the oracle: two "
            "measures; judge=llm makes one that can be set beside it."
        )
    return found


def is_oracles(result: RunResults, benchmark: str) -> bool:
    """Whether the oracle ruled where a published number had a language model."""
    judge = result.settings.get("evaluate", {}).get("judge")
    return bool(declared(benchmark, "RUBRICS", ())) and judge == "oracle"


def _evaluation(settings: Mapping[str, Any]) -> list[str]:
    if not settings:
        return []

    def decoding(name: str) -> str:
        beams = settings.get(f"{name}_beams", 1)
        way = "greedy" if beams == 1 else f"beam {beams}"
        more = "".join(f", {n} {settings.get(n) or 'none'}" for n in declared(name, "SHOWN", ()))
        limit = settings.get(f"{name}_max_new_tokens")
        return f"{name.upper()} {way}, at most {limit} new tokens{more}"

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


# The tables in sentences, as a results section says them; every number comes from a table.


@dataclass(frozen=True, eq=False)
class Story:
    """Paragraphs and lists in Markdown; shows itself as prose in a notebook."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text


def audit_story(rows: Sequence[ReportedRow]) -> Story:
    """What the audit found among the published POPE rows."""
    texts = []
    for system in dict.fromkeys(row.system for row in rows if row.benchmark == "pope"):
        own = [row for row in rows if (row.system, row.benchmark) == (system, "pope")]
        findings = audit_reported(own).findings
        unique = sum(finding.fitting.count == 1 for finding in findings)
        flagged = [f for f in findings if f.is_flagged]
        lines = [
            f"**{system}**: of {len(findings)} printed rows {unique} come from exactly one "
            f"confusion matrix, {len(flagged)} from none."
        ]
        places = (", ".join((f.row.backbone, f.row.split, f.row.model)) for f in flagged)
        lines += [f"- {at}: {verdict_of(f)}." for at, f in zip(places, flagged, strict=True)]
        lines += [
            f"- {' '.join(key)}: recall differs between splits that share their yes questions, so "
            "this was not one deterministic system."
            for key in sorted({(f.row.backbone, f.row.model) for f in findings if f.other_recall})
        ]
        texts.append("\n".join(lines))
    return Story("\n\n".join(texts) or "No published POPE rows were asked for.")


def results_story(tables: Sequence[Table]) -> Story:
    """What the comparison shows: the differences that are clear of zero first, then the others."""
    by_name = {table.name: table for table in tables}
    if "comparison" not in by_name:
        return Story("No run is compared here: published numbers and their audit only.")
    whole = by_name["comparison"]
    rows = [r for r in whole.rows if r["model"] == "merged" and r["difference"] is not None]
    several = len({row["recipe"] for row in rows}) > 1
    clear = [r for r in rows if r["clear"]]
    lines = [
        f"{len(clear)} of {len(rows)} differences between base and tuned model are clear of zero "
        f"(95 %, corrected for the number of rows){f' ({MINI})' if whole.is_mini else ''}:",
        "",
        *(f"- {_sentence(row, several)}" for row in clear),
    ]
    rest = [_place(row, several) for row in rows if row not in clear]
    if rest:
        lines += ["", f"Not separable from zero: {'; '.join(rest)}."]
    controls = by_name.get("controls")
    if controls is not None:
        lines += ["", *_against_controls(controls, several)]
    return Story("\n".join(lines).rstrip())


def _sentence(row: Row, several: bool) -> str:
    measure = measure_of(row["benchmark"], row["measure"])
    unit = " %" if measure.is_fraction else ""
    values = [show(row[name], is_fraction=measure.is_fraction) for name in ("base", "tuned")]
    ends = show_interval(row["low"], row["high"], is_fraction=measure.is_fraction)
    parts = (f"{values[1]}{unit} {ends}", measure.way(row["difference"]), f"n {row['n']}")
    return f"{_place(row, several)}: {values[0]} to {', '.join(filter(None, parts))}"


def _place(row: Row, several: bool) -> str:
    label = measure_of(row["benchmark"], row["measure"]).label
    place = f"{split_title(row['benchmark'], row['split'])} {label}".strip()
    return f"{row['recipe']}, {place}" if several else place


def _against_controls(controls: Table, several: bool) -> list[str]:
    lines = []
    for control in dict.fromkeys(row["against"] for row in controls.rows):
        groups: dict[str, list[str]] = {"better": [], "worse": [], "not separable": []}
        for row in controls.rows:
            for verdict, found in groups.items():
                if row["against"] == control and row["verdict"].startswith(verdict):
                    found.append(_place(row, several))
        texts = [f"{verdict} in {', '.join(found)}" for verdict, found in groups.items() if found]
        if texts:
            title = model_title(control)
            lines += [f"Against {title}, the tuned model is {'; '.join(texts)}.", ""]
    return lines
