"""Runs beside each other and beside published numbers: differences, intervals, footnotes."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hadpo.records import BadInput
from hadpo.tables import notes
from hadpo.tables._table import (
    MISSING,
    Table,
    frame_of,
    show,
    show_change,
    show_frame,
    show_interval,
)
from hadpo.tables.audit import CELLS, COUNTS
from hadpo.tables.intervals import (
    covers_zero,
    mean_interval,
    paired_difference,
    unpaired_difference,
)
from hadpo.tables.measures import MEASURES, MODELS, WORDS, Measure, measure_of, model_title
from hadpo.tables.reported import ReportedRow, matching
from hadpo.tables.results import Key, RunResults, groups

# Rows of a comparison: one model against another on one measure, of one run or of several.

Row = dict[str, Any]
_FACTS = ("recipe", "group", "run", "runs", "benchmark", "split", "measure", "model", "against")
_VALUES = (
    "reported_base",
    "reported_tuned",
    "base",
    "tuned",
    "difference",
    "low",
    "high",
    "interval",
)
_COUNTS = (
    "deviation",
    "n_base",
    "n",
    "n_unreadable_base",
    "n_unreadable",
    "words_base",
    "words_tuned",
)
_PRINTED = ("reported_base_printed", "reported_tuned_printed")
COLUMNS = (*_FACTS, *_VALUES, *_COUNTS, *_PRINTED, "is_mini")


def rows_against_base(
    result: RunResults, reported: Sequence[ReportedRow] = (), *, samples: int, seed: int
) -> list[Row]:
    """All rows of one run: every evaluated model against its base, measure by measure."""
    models = [m for m in models_of(result) if m != "base"] or ["merged"]
    rows = [_pair_rows(result, "base", m, reported, samples=samples, seed=seed) for m in models]
    return _by_place(result, rows)


def rows_against_controls(result: RunResults, *, samples: int, seed: int) -> list[Row]:
    """All rows of one run: the tuned model against every control, measure by measure."""
    controls = [m for m in models_of(result) if m not in ("base", "merged")]
    rows = [_pair_rows(result, m, "merged", samples=samples, seed=seed) for m in controls]
    return _by_place(result, rows)


def mean_rows(each: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several runs as one row each: means, deviation and t interval of the difference.

    The runs are of one group (see `groups`). A row stands if at least one run has it; `runs` counts
    those with a difference.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in (row for rows in each for row in rows):
        key = ("recipe", "benchmark", "split", "measure", "model", "against")
        groups.setdefault(tuple(row[k] for k in key), []).append(row)
    return [_mean_row(rows) for rows in groups.values()]


def _mean_row(rows: Sequence[Row]) -> Row:
    mean = dict(rows[0])
    for name in ("base", "tuned", "words_base", "words_tuned"):
        known = [row[name] for row in rows if row[name] is not None]
        mean[name] = mean_interval(known)[0] if known else None
    for name in ("n", "n_base"):
        mean[name] = min((row[name] for row in rows if row[name] is not None), default=None)
    for name in ("n_unreadable", "n_unreadable_base"):
        mean[name] = max((row[name] for row in rows if row[name] is not None), default=None)
    differences = [row["difference"] for row in rows if row["difference"] is not None]
    names = ("difference", "deviation", "low", "high")
    found = mean_interval(differences) if differences else (None,) * 4
    mean |= {
        "run": "mean",
        "runs": len(differences),
        "interval": "t" if len(differences) > 1 else None,
    }
    return mean | dict(zip(names, found, strict=True))


def _pair_rows(
    result: RunResults,
    first: str,
    second: str,
    reported: Sequence[ReportedRow] = (),
    *,
    samples: int,
    seed: int,
) -> list[Row]:
    """One row per measure: model `second` against model `first` of the same run."""
    published = matching(reported, result.backbone) if (first, second) == ("base", "merged") else ()
    rows = []
    for benchmark, split, name in _places(result):
        key = (benchmark, split, name)
        before, after = result.metrics.get((*key, first)), result.metrics.get((*key, second))
        if after is None and second != "merged":  # a control that this benchmark does not know
            continue
        row: Row = dict.fromkeys(COLUMNS)
        row |= {"recipe": result.recipe, "run": result.name, "runs": 1, "is_mini": result.is_mini}
        row |= {"benchmark": benchmark, "split": split, "measure": name}
        row |= {"model": second, "against": first}
        if before is not None:
            row |= {"base": before.value, "n_base": before.n}
            row["n_unreadable_base"] = result.unreadable((*key, first))
        if after is not None:
            row |= {"tuned": after.value, "n": after.n}
            row["n_unreadable"] = result.unreadable((*key, second))
        if row["base"] is not None and row["tuned"] is not None:
            row["difference"] = row["tuned"] - row["base"]
        row["words_base"] = _words(result, benchmark, split, first)
        row["words_tuned"] = _words(result, benchmark, split, second)
        for found in published:
            is_whole = found.split == "all" and _is_only(result, benchmark)
            if found.benchmark == benchmark and (found.split == split or is_whole):
                place = "reported_base" if found.is_base else "reported_tuned"
                row |= {place: found.values.get(name), f"{place}_printed": found.shown(name)}
        if row["difference"] is not None:
            row |= _interval(result, (*key, first), second, samples=samples, seed=seed)
        rows.append(row)
    return rows


def _interval(result: RunResults, key: Key, other: str, *, samples: int, seed: int) -> Row:
    """Ends of the difference's interval, and how it was made."""
    pair = result.paired(key, other)
    ends = paired_difference(*pair, samples=samples, seed=seed) if pair else None
    if ends is not None:
        return {"low": ends[0], "high": ends[1], "interval": "paired"}
    before, after = result.metrics[key], result.metrics[(*key[:3], other)]
    ends = unpaired_difference(before, after)
    return {"low": ends[0], "high": ends[1], "interval": "unpaired"} if ends else {}


def models_of(result: RunResults) -> list[str]:
    """Evaluated models, in the order of the tables."""
    found = {key[3] for key in result.metrics}
    return [m for m in MODELS if m in found] + sorted(found - MODELS.keys())


def _places(result: RunResults) -> list[tuple[str, str, str]]:
    """Benchmark, split and metric in the order of a table: splits as evaluated, then as listed."""
    found = list(dict.fromkeys(key[:3] for key in result.metrics))
    splits = list(dict.fromkeys((b, s) for b, s, _ in found))

    def rank(place: tuple[str, str, str]) -> tuple[int, int, int]:
        names = [m.name for m in MEASURES.get(place[0], ())]
        listed = names.index(place[2]) if place[2] in names else len(names)
        return splits.index(place[:2]), listed, found.index(place)

    return sorted(found, key=rank)


def _by_place(result: RunResults, rows: Sequence[Sequence[Row]]) -> list[Row]:
    order = _places(result)
    flat = [row for each in rows for row in each]
    return sorted(flat, key=lambda r: order.index((r["benchmark"], r["split"], r["measure"])))


def _words(result: RunResults, benchmark: str, split: str, model: str) -> float | None:
    value = result.value((benchmark, split, WORDS, model))
    if value is not None:
        return value
    sums = result.items.get((benchmark, split, WORDS, model))
    return sum(s[0] for s in sums.values()) / sum(s[1] for s in sums.values()) if sums else None


def _is_only(result: RunResults, benchmark: str) -> bool:
    return len({key[1] for key in result.metrics if key[0] == benchmark}) == 1


# The comparison at a glance: a line per measure, the models side by side.

_KEYS = ("group", "benchmark", "split", "measure")
_OVERVIEW_FACTS = ("reported_base", "reported_tuned", "difference", "low", "high", "runs")
_WHOLE = "all"  # the split that holds those beside it
_OVERVIEW_COUNTS = ("n_base", "n", "n_unreadable_base", "n_unreadable", "is_mini")


def overview(comparison: Table) -> Table:
    """Base, controls and tuned model in one line per measure; the interval is of tuned minus base.

    Args:
        comparison: from `comparison`, of any runs.
    """
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in comparison.frame.to_dict("records"):
        groups.setdefault(tuple(row[key] for key in _KEYS), {})[str(row["model"])] = row
    found = {model for rows in groups.values() for model in rows}
    models = [m for m in MODELS if m != "base" and m in found] + sorted(found - MODELS.keys())
    models.sort(key=lambda m: m == "merged")  # stable: the controls first, the tuned model last
    several = len({key[0] for key in groups}) > 1
    values, cells, bold = [], [], []
    for at, (key, rows) in enumerate(groups.items()):
        tuned = rows.get("merged", next(iter(rows.values())))
        value = dict(zip(_KEYS, key, strict=True)) | {"base": tuned["base"]}
        value |= {model: rows[model]["tuned"] if model in rows else None for model in models}
        values.append(value | {name: tuned[name] for name in (*_OVERVIEW_FACTS, *_OVERVIEW_COUNTS)})
        splits = {split for _, benchmark, split, _ in groups if benchmark == value["benchmark"]}
        parts = splits - {_WHOLE} if len(splits) > 1 else set()
        cells.append(_overview_cells(value, tuned, models, parts))
        if not covers_zero(tuned["low"], tuned["high"]):
            bold.append((at, "Difference"))
    titles = [model_title(model).capitalize() for model in models]
    columns = ["Measure", "Reported", "Base", *titles, "Difference", "95 % interval"]
    columns += ["n", "Unreadable"]
    return Table(
        name="overview",
        caption="Base, controls and tuned model at a glance",
        frame=frame_of(values, (*_KEYS, "base", *models, *_OVERVIEW_FACTS, *_OVERVIEW_COUNTS)),
        shown=show_frame(cells, ["Recipe", *columns] if several else columns),
        bold=frozenset(bold),
        notes=("Difference, n and unreadable are of tuned and base.", *comparison.notes),
        is_mini=comparison.is_mini,
    )


def _overview_cells(
    value: dict[str, Any], tuned: dict[str, Any], models: list[str], parts: set[str]
) -> dict[str, str]:
    measure = measure_of(value["benchmark"], value["measure"])
    is_fraction = measure.is_fraction
    is_pope, split = value["benchmark"] == "pope", value["split"]
    place = f"POPE {split}: " if is_pope else ""
    behind = f", {split}" if not is_pope and split in parts else ""
    both = [tuned[f"reported_{name}_printed"] or MISSING for name in ("base", "tuned")]
    texts = {
        model_title(model).capitalize(): show(value[model], is_fraction=is_fraction)
        for model in models
    }
    return texts | {
        "Recipe": value["group"],
        "Measure": place + measure.title + behind,
        "Reported": MISSING if both == [MISSING, MISSING] else " → ".join(both),
        "Base": show(value["base"], is_fraction=is_fraction),
        "Difference": show(tuned["difference"], is_fraction=is_fraction, signed=True),
        "95 % interval": show_interval(tuned["low"], tuned["high"], is_fraction=is_fraction)
        + (" u" if tuned["interval"] == "unpaired" else ""),
        "n": show_change(tuned["n_base"], tuned["n"]),
        "Unreadable": show_change(tuned["n_unreadable_base"], tuned["n_unreadable"]),
    }


# The tuned models of two runs on the same images: which of them is better, and is it chance?

TUNED = "merged"
_BETWEEN_FACTS = ("first", "second", "benchmark", "split", "measure")
_BETWEEN_VALUES = (
    "value_first",
    "value_second",
    "difference",
    "low",
    "high",
    "n_images",
    "is_mini",
)


def between_runs(
    results: Sequence[RunResults], *, samples: int = 1000, seed: int = 42
) -> Table | None:
    """Every two runs' tuned models, paired by image, on the measures that are better high or low.

    The test for SHR, GAVIE and CHAIR that McNemar's is for POPE. None where no two runs were
    measured on the same images.

    Args:
        results: the runs.
        samples: resampled image sets behind each interval.
        seed: of the resampling.
    """
    rows = [
        row
        for first, second in itertools.combinations(results, 2)
        for row in _between_rows(first, second, samples=samples, seed=seed)
    ]
    if not rows:
        return None
    heads = ["First run", "Second run", "Measure", "First", "Second", "Difference"]
    cells = []
    for row in rows:
        measure = next(m for m in MEASURES[row["benchmark"]] if m.name == row["measure"])
        ends = show_interval(row["low"], row["high"], is_fraction=measure.is_fraction)
        values = (row["value_first"], row["value_second"])
        first, second = (show(value, is_fraction=measure.is_fraction) for value in values)
        change = show(row["difference"], is_fraction=measure.is_fraction, signed=True)
        texts = (row["first"], row["second"], measure.title, first, second, change)
        cells.append(
            dict(zip(heads, texts, strict=True))
            | {"95 % interval": ends, "Images": str(row["n_images"])}
        )
    return Table(
        name="between_runs",
        caption=f"The {model_title(TUNED)} models of two runs on the same images",
        frame=frame_of(rows, (*_BETWEEN_FACTS, *_BETWEEN_VALUES)),
        shown=show_frame(cells, [*heads, "95 % interval", "Images"]),
        bold=frozenset(
            (at, "Difference")
            for at, row in enumerate(rows)
            if not covers_zero(row["low"], row["high"])
        ),
        notes=(
            "Second minus first. No correction for the number of comparisons.",
            *notes.of_intervals(1, samples),
        ),
        is_mini=any(result.is_mini for result in results),
    )


def _between_rows(first: RunResults, second: RunResults, *, samples: int, seed: int) -> list[Row]:
    found = []
    for key in first.items:
        benchmark, split, name, model = key
        judged = {m.name for m in MEASURES.get(benchmark, ()) if m.better and benchmark != "pope"}
        if model != TUNED or name not in judged:
            continue
        if first.asked.get((benchmark, split)) != second.asked.get((benchmark, split)):
            continue
        pair = first.paired(key, TUNED, of=second)
        ends = paired_difference(*pair, samples=samples, seed=seed) if pair else None
        if pair is None or ends is None:
            continue
        values = [float(sums[:, 0].sum() / sums[:, 1].sum()) for sums in pair]
        texts = (first.name, second.name, benchmark, split, name)
        row: Row = dict(zip(_BETWEEN_FACTS, texts, strict=True))
        row |= {"value_first": values[0], "value_second": values[1]}
        row |= {"difference": values[1] - values[0], "low": ends[0], "high": ends[1]}
        row |= {"n_images": len(pair[0]), "is_mini": first.is_mini or second.is_mini}
        found.append(row)
    return found


# McNemar's test: do two models that answered the same questions differ in how many are right?

_MCNEMAR_COUNTS = ("both", "only_first", "only_second", "neither", "n")


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p value: a fair coin for every question that only one got right.

    Args:
        only_first: questions that only the first model answered rightly.
        only_second: questions that only the second did.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts are not negative: {only_first}, {only_second}")
    tosses = only_first + only_second
    term, total = 1, 1
    for heads in range(1, min(only_first, only_second) + 1):
        term = term * (tosses - heads + 1) // heads
        total += term
    return min(1.0, 2 * total / 2**tosses)


def agreement(first: str, second: str) -> dict[str, int]:
    """How often both, one or none of two models is right.

    Args:
        first: "1" for each question that the first model answered rightly, "0" for each other.
        second: the same of the second model, on the same questions in the same order.
    """
    pairs = Counter(zip(first, second, strict=True))
    return {
        "both": pairs["1", "1"],
        "only_first": pairs["1", "0"],
        "only_second": pairs["0", "1"],
        "neither": pairs["0", "0"],
        "n": len(first),
    }


def mcnemar_table(results: Sequence[RunResults]) -> Table | None:
    """Every model against its base, and the tuned models of the runs against each other.

    None where no yes/no questions were answered twice.
    """
    rows = []
    for result in results:
        pairs = [("base", m) for m in models_of(result) if m != "base"]
        rows += [
            row for first, second in pairs for row in _mcnemar_rows(result, result, first, second)
        ]
    for one, other in itertools.combinations(results, 2):
        rows += _mcnemar_rows(one, other, "merged", "merged")
    if not rows:
        return None
    heads = ("Both right", "Only first", "Only second", "Neither", "n")
    cells = []
    for row in rows:
        texts = {head: str(row[name]) for head, name in zip(heads, _MCNEMAR_COUNTS, strict=True)}
        texts |= {"First": row["first"], "Second": row["second"], "Split": row["split"]}
        cells.append(texts | {"p": _p(row["p"])})
    return Table(
        name="mcnemar",
        caption="POPE: questions that only one of two models answered rightly, McNemar's test",
        frame=frame_of(rows, ("first", "second", "split", *_MCNEMAR_COUNTS, "p", "is_mini")),
        shown=show_frame(cells, ["First", "Second", "Split", *heads, "p"]),
        bold=frozenset((at, "p") for at, row in enumerate(rows) if row["p"] < 0.05),
        notes=(
            "p: exact and two-sided, of the questions that only one model answered rightly; no "
            "correction for the number of tests. Bold: below 0.05.",
            "Questions of one image are not independent, so these p are too small rather than too "
            "large; the intervals of the comparison are over images.",
        ),
        is_mini=any(result.is_mini for result in results),
    )


def _mcnemar_rows(
    one: RunResults, other: RunResults, first: str, second: str
) -> list[dict[str, Any]]:
    found = []
    for benchmark, split, model in one.right:
        if model != first:
            continue
        asked, right = one.right[benchmark, split, first]
        asked_too, right_too = other.right.get((benchmark, split, second), ("", ""))
        if asked != asked_too:
            continue
        counts = agreement(right, right_too)
        names = [f"{r.name}, {model_title(m)}" for r, m in ((one, first), (other, second))]
        row: dict[str, Any] = {"first": names[0], "second": names[1], "split": split, **counts}
        row["p"] = mcnemar(counts["only_first"], counts["only_second"])
        found.append(row | {"is_mini": one.is_mini or other.is_mini})
    return found


def _p(value: float) -> str:
    if value is None:
        return MISSING
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


# POPE in full: the confusion matrix of each split and model, from which all its metrics follow.


def confusion_rows(results: Sequence[RunResults]) -> list[dict[str, Any]]:
    """One row per run, split and model: the four counts, the five metrics, n and unreadable."""
    rows = []
    for result in results:
        splits = list(dict.fromkeys(key[1] for key in result.metrics if key[0] == "pope"))
        for split in splits:
            for model in models_of(result):
                accuracy = result.metrics.get(("pope", split, "accuracy", model))
                if accuracy is None:
                    continue
                row = {"run": result.name, "split": split, "model": model, "n": accuracy.n}
                row["n_unreadable"] = result.unreadable(("pope", split, "accuracy", model))
                for name in (*COUNTS, *CELLS):
                    row[name] = result.value(("pope", split, name, model))
                row["words_per_answer"] = result.value(("pope", split, WORDS, model))
                rows.append(row | {"is_mini": result.is_mini})
    return rows


def pope_table(results: Sequence[RunResults]) -> Table | None:
    """The confusion matrices of all runs; None where POPE was not evaluated."""
    if not results:
        raise BadInput("an empty comparison: name at least one evaluated run")
    rows = confusion_rows(results)
    if not rows:
        return None
    heads = {"n": "n", "n_unreadable": "Unreadable"}
    heads |= dict(zip(COUNTS, ("TP", "FP", "TN", "FN"), strict=True))
    cells = []
    for row in rows:
        texts = {"Run": row["run"], "Split": row["split"], "Model": model_title(row["model"])}
        texts |= {
            head: show(row[name], is_fraction=False, digits=0) for name, head in heads.items()
        }
        texts |= {
            measure_of("pope", name).title: show(row[name], is_fraction=True) for name in CELLS
        }
        words = show(row["words_per_answer"], is_fraction=False, digits=1)
        cells.append(texts | {"Words per answer": words})
    columns = ["Split", "Model", *[heads[c] for c in COUNTS]]
    columns += [measure_of("pope", name).title for name in CELLS]
    columns += ["n", "Unreadable", "Words per answer"]
    return Table(
        name="pope",
        caption="POPE: what was said to which questions",
        frame=frame_of(
            rows,
            ("run", "split", "model", *COUNTS, *CELLS, "n", "n_unreadable", WORDS, "is_mini"),
        ),
        shown=show_frame(cells, columns if len(results) == 1 else ["Run", *columns]),
        notes=(
            "Positive: said yes. A yes ratio far from the share of yes questions (half) is a bias; "
            "accuracy hides it, recall rewards it.",
            *notes.of_answers(results),
        ),
        is_mini=any(result.is_mini for result in results),
    )


def comparison(
    results: Sequence[RunResults],
    reported: Sequence[ReportedRow] = (),
    *,
    samples: int = 1000,
    seed: int = 42,
) -> Table:
    """Reported, base and tuned side by side, with the controls, one row per measure and model.

    Runs that differ in nothing but their seeds become their mean, with a t interval over the runs;
    a single run has the paired bootstrap interval over its images. See `groups` for the labels.

    Raises:
        BadInput: nothing to compare, or a run is named twice.
    """
    _check(results)
    rows: list[Row] = []
    for label, group in groups(results).items():
        each = [rows_against_base(result, reported, samples=samples, seed=seed) for result in group]
        rows += _labelled(mean_rows(each) if len(group) > 1 else each[0], label)
    rows = [row for row in rows if _measure(row).is_headline]
    return _table("comparison", "Base and tuned model", rows, results, reported, samples)


def every_run(
    results: Sequence[RunResults],
    reported: Sequence[ReportedRow] = (),
    *,
    samples: int = 1000,
    seed: int = 42,
) -> Table:
    """The rows of `comparison` for each run by itself: every seed is shown, the bad ones too."""
    _check(results)
    rows: list[Row] = []
    labels = {r.name: label for label, group in groups(results).items() for r in group}
    for result in results:
        each = rows_against_base(result, reported, samples=samples, seed=seed)
        rows += _labelled(each, labels[result.name])
    rows = [row for row in rows if _measure(row).is_headline]
    places = [(r["benchmark"], r["split"], r["measure"], r["model"]) for r in rows]
    order = list(dict.fromkeys(places))  # the runs stand together, measure by measure
    rows = [row for at in order for row, place in zip(rows, places, strict=True) if place == at]
    return _table("every_run", "Every run by itself", rows, results, reported, samples)


def controls(results: Sequence[RunResults], *, samples: int = 1000, seed: int = 42) -> Table | None:
    """The tuned model against each control: does it do what saying less, or finetuning, does not?

    None where no control was evaluated.
    """
    _check(results)
    rows: list[Row] = []
    for label, group in groups(results).items():
        each = [rows_against_controls(result, samples=samples, seed=seed) for result in group]
        rows += _labelled(mean_rows(each) if len(group) > 1 else each[0], label)
    rows = [row for row in rows if row["base"] is not None and _measure(row).is_headline]
    if not rows:
        return None
    frame = frame_of([row | {"verdict": _verdict(row)} for row in rows], (*COLUMNS, "verdict"))
    columns = ["Benchmark", "Split", "Measure", "Control", "Control's value", "Tuned", "Difference"]
    columns += ["95 % interval", "Tuned is", "n", "Unreadable", "Words per answer"]
    cells = []
    for row in rows:
        texts = _cells(row)
        texts["Control"], texts["Control's value"] = model_title(row["against"]), texts["Base"]
        cells.append(texts | {"Tuned is": _verdict(row)})
    return Table(
        name="controls",
        caption="The tuned model against the controls",
        frame=frame,
        shown=show_frame(cells, columns if len(results) == 1 else ["Recipe", "Runs", *columns]),
        bold=_bold(rows),
        notes=(
            "Base, cut to the same length: the base's descriptions, cut to as many sentences as "
            "the tuned model's. Finetuned on the chosen texts only: the same training without the "
            "preference term.",
            *notes.of_comparison(results, (), samples),
        ),
        is_mini=any(result.is_mini for result in results),
    )


def _table(
    name: str,
    caption: str,
    rows: Sequence[Row],
    results: Sequence[RunResults],
    reported: Sequence[ReportedRow],
    samples: int,
) -> Table:
    columns = ["Benchmark", "Split", "Measure", "Model", "Reported base", "Reported tuned", "Base"]
    columns += ["Tuned", "Difference", "95 % interval", "n", "Unreadable", "Words per answer"]
    if name == "every_run":
        columns.insert(0, "Run")
    elif len(results) > 1:
        columns[9:9] = ["Deviation"]
        columns[:0] = ["Recipe", "Runs"]
    return Table(
        name=name,
        caption=caption,
        frame=frame_of(rows, COLUMNS),
        shown=show_frame([_cells(row) for row in rows], columns),
        bold=_bold(rows),
        notes=notes.of_comparison(results, reported, samples),
        is_mini=any(result.is_mini for result in results),
    )


def _cells(row: Row) -> dict[str, str]:
    """A row as a reader sees it."""
    measure = _measure(row)

    def value(name: str, *, signed: bool = False) -> str:
        return show(row[name], is_fraction=measure.is_fraction, signed=signed)

    words = [show(row[n], is_fraction=False, digits=1) for n in ("words_base", "words_tuned")]
    return {
        "Recipe": row["group"],
        "Run": row["run"],
        "Runs": str(row["runs"]),
        "Benchmark": row["benchmark"],
        "Split": row["split"],
        "Measure": measure.title,
        "Model": model_title(row["model"]),
        "Reported base": row["reported_base_printed"] or MISSING,
        "Reported tuned": row["reported_tuned_printed"] or MISSING,
        "Base": value("base"),
        "Tuned": value("tuned"),
        "Difference": value("difference", signed=True),
        "Deviation": value("deviation"),
        "95 % interval": show_interval(row["low"], row["high"], is_fraction=measure.is_fraction)
        + (" u" if row["interval"] == "unpaired" else ""),
        "n": show_change(row["n_base"], row["n"]),
        "Unreadable": show_change(row["n_unreadable_base"], row["n_unreadable"]),
        "Words per answer": words[0] if words[0] == words[1] else f"{words[0]} → {words[1]}",
    }


def _bold(rows: Sequence[Row]) -> frozenset[tuple[int, str]]:
    clear = (i for i, row in enumerate(rows) if not covers_zero(row["low"], row["high"]))
    return frozenset((i, "Difference") for i in clear)


def _verdict(row: Row) -> str:
    better = _measure(row).better
    if not better or row["low"] is None:
        return MISSING
    if covers_zero(row["low"], row["high"]):
        return "not separable"
    return "better" if (row["difference"] > 0) == (better == "higher") else "worse"


def _measure(row: Row) -> Measure:
    return measure_of(row["benchmark"], row["measure"])


def _labelled(rows: Sequence[Row], label: str) -> list[Row]:
    return [row | {"group": label} for row in rows]


def _check(results: Sequence[RunResults]) -> None:
    if not results:
        raise BadInput("an empty comparison: name at least one evaluated run")
    names = [result.name for result in results]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"run {name!r} is named twice; a run counts once")
