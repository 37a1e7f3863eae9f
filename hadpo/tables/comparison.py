"""Runs beside each other and beside published numbers: differences, intervals, footnotes."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hadpo.records import BadInput
from hadpo.tables import notes
from hadpo.tables._table import MISSING, Column, Row, Table, show, show_change, show_interval
from hadpo.tables.intervals import (
    clear_of_zero,
    covers_zero,
    mean_interval,
    paired_difference,
    two_level_difference,
    unpaired_difference,
)
from hadpo.tables.measures import (
    WORDS,
    Measure,
    measure_of,
    measures_of,
    model_title,
    models_in_order,
    split_title,
)
from hadpo.tables.reported import ReportedRow, matching
from hadpo.tables.results import Key, RunResults, groups

# Rows of a comparison: one model against another on one measure, of one run or of several.

COLUMNS = (
    *("recipe", "group", "run", "runs", "benchmark", "split", "measure", "model", "against"),
    *("reported_base", "reported_tuned", "base", "tuned", "difference", "low", "high", "interval"),
    *("deviation", "n_base", "n", "n_unreadable_base", "n_unreadable"),
    *("words_base", "words_tuned", "reported_base_printed", "reported_tuned_printed", "is_mini"),
    "clear",
)


def rows_against_base(
    result: RunResults, reported: Sequence[ReportedRow] = (), *, samples: int, seed: int
) -> list[Row]:
    """All rows of one run: every evaluated model against its base, measure by measure."""
    models = [m for m in result.models if m != "base"] or ["merged"]
    rows = [_pair_rows(result, "base", m, reported, samples=samples, seed=seed) for m in models]
    return _by_place(result, rows)


def rows_against_controls(result: RunResults, *, samples: int, seed: int) -> list[Row]:
    """All rows of one run: the tuned model against every control, measure by measure."""
    controls = [m for m in result.models if m not in ("base", "merged")]
    rows = [_pair_rows(result, m, "merged", samples=samples, seed=seed) for m in controls]
    return _by_place(result, rows)


def group_rows(
    group: Sequence[RunResults], each: Sequence[Sequence[Row]], *, samples: int, seed: int
) -> list[Row]:
    """Rows of runs that repeat one another as one row each; those of a single run as they are.

    Means, the deviation of the runs' differences, and an interval of their mean over images and
    seeds. A row stands if at least one run has it; `runs` counts those with a difference.

    Args:
        group: the runs, of `groups`.
        each: the rows of each.
        samples: draws behind each interval.
        seed: of the draws.
    """
    if len(group) == 1:
        return [*each[0]]
    runs = {result.name: result for result in group}
    places: dict[tuple, list[Row]] = {}
    for row in (row for rows in each for row in rows):
        key = ("recipe", "benchmark", "split", "measure", "model", "against")
        places.setdefault(tuple(row[k] for k in key), []).append(row)
    return [_mean_row(rows, runs, samples=samples, seed=seed) for rows in places.values()]


def _mean_row(
    rows: Sequence[Row], runs: Mapping[str, RunResults], *, samples: int, seed: int
) -> Row:
    mean = dict(rows[0])
    for name in ("base", "tuned", "words_base", "words_tuned"):
        known = [row[name] for row in rows if row[name] is not None]
        mean[name] = mean_interval(known)[0] if known else None
    for name in ("n", "n_base"):
        mean[name] = min((row[name] for row in rows if row[name] is not None), default=None)
    for name in ("n_unreadable", "n_unreadable_base"):
        mean[name] = max((row[name] for row in rows if row[name] is not None), default=None)
    known = [row for row in rows if row["difference"] is not None]
    names = ("difference", "deviation", "low", "high")
    found = mean_interval([row["difference"] for row in known]) if known else (None,) * 4
    mean |= {"run": "mean", "runs": len(known), "interval": "t" if len(known) > 1 else None}
    mean |= dict(zip(names, found, strict=True))
    pairs, worlds = [], []
    for row in known:
        key = (row["benchmark"], row["split"], row["measure"], row["against"])
        pairs.append(runs[row["run"]].paired(key, row["model"]))
        worlds.append(runs[row["run"]].asked[key[:2]][0] if pairs[-1] else "")
    if known and all(pairs):
        ends = two_level_difference(pairs, worlds, samples=samples, seed=seed)
        if ends is not None:
            mean |= {"low": ends[0], "high": ends[1], "interval": "two-level"}
    return mean


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
                printed = found.shown(name)
                if printed and notes.is_oracles(result, benchmark):
                    printed += f" {notes.ANOTHER_JUDGE}"
                row |= {place: found.values.get(name), f"{place}_printed": printed}
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


def _places(result: RunResults) -> list[tuple[str, str, str]]:
    """Benchmark, split and metric in the order of a table: splits as evaluated, then as listed."""
    found = list(dict.fromkeys(key[:3] for key in result.metrics))
    splits = list(dict.fromkeys((b, s) for b, s, _ in found))

    def rank(place: tuple[str, str, str]) -> tuple[int, int, int]:
        names = [m.name for m in measures_of(place[0])]
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


# How a value of a comparison is shown: its unit depends on the measure of its row.


def _measure(row: Row) -> Measure:
    return measure_of(row["benchmark"], row["measure"])


def _value(name: str, *, signed: bool = False) -> Callable[[Row], str]:
    return lambda row: show(row[name], is_fraction=_measure(row).is_fraction, signed=signed)


def _ends(row: Row) -> str:
    text = show_interval(row["low"], row["high"], is_fraction=_measure(row).is_fraction)
    return text + " u" * (row.get("interval") == "unpaired")


def _marked(rows: Sequence[Row]) -> list[Row]:
    """The rows of one table, each with whether its difference is clear of zero."""
    return [row | {"clear": clear} for row, clear in zip(rows, clear_of_zero(rows), strict=True)]


def _has_reported(rows: Sequence[Row]) -> bool:
    """Whether published values stand beside these rows: never beside those of a mini run."""
    return any(_printed(row, name) for row in rows for name in ("base", "tuned"))


def _printed(row: Row, name: str) -> str | None:
    return None if row["is_mini"] else row[f"reported_{name}_printed"]


def _words_per_answer(row: Row) -> str:
    words = (show(row[n], is_fraction=False, digits=1) for n in ("words_base", "words_tuned"))
    return show_change(*words)


_DIFFERENCE = Column(
    "Difference", _value("difference", signed=True), is_bold=lambda row: row["clear"]
)
_INTERVAL = Column("95 % interval", _ends)
_WORDS_PER_ANSWER = Column("Words per answer", _words_per_answer)
_REPORTED = (
    Column("Reported base", lambda row: _printed(row, "base")),
    Column("Reported tuned", lambda row: _printed(row, "tuned")),
)
_OF_SEVERAL = (Column("Recipe", "group"), Column("Runs", "runs"))
_WHERE = (
    Column("Benchmark", "benchmark"),
    Column("Split", "split"),
    Column("Measure", lambda row: _measure(row).title),
)
_READ = (
    Column("n", lambda row: show_change(row["n_base"], row["n"])),
    Column("Unreadable", lambda row: show_change(row["n_unreadable_base"], row["n_unreadable"])),
)


# The comparison at a glance: a line per measure, the models side by side.

_KEYS = ("group", "benchmark", "split", "measure")
_OF_TUNED = ("reported_base", "reported_tuned", "difference", "low", "high", "runs")
_COUNTS = ("n_base", "n", "n_unreadable_base", "n_unreadable", "is_mini")
_WHOLE = "all"  # the split that holds those beside it


def overview(comparison: Table) -> Table:
    """Base, controls and tuned model in one line per measure; the interval is of tuned minus base.

    Args:
        comparison: from `comparison`, of any runs.
    """
    places: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in comparison.rows:
        places.setdefault(tuple(row[key] for key in _KEYS), {})[str(row["model"])] = row
    models = models_in_order(model for by_model in places.values() for model in by_model)
    models.sort(key=lambda m: m == "merged")  # stable: the controls first, the tuned model last
    rows = []
    for by_model in places.values():
        row = by_model.get("merged", next(iter(by_model.values())))
        splits = {split for _, benchmark, split, _ in places if benchmark == row["benchmark"]}
        has_parts = len(splits) > 1 and row["split"] != _WHOLE
        values = {
            model: by_model[model]["tuned"] if model in by_model else None for model in models
        }
        rows.append(row | values | {"has_parts": has_parts})
    columns = [
        Column("Measure", _place),
        *([Column("Reported", _reported)] if _has_reported(rows) else ()),
        Column("Base", _value("base")),
        *(Column(model_title(model).capitalize(), _value(model)) for model in models),
        *(_DIFFERENCE, _INTERVAL, *_READ),
    ]
    if len({key[0] for key in places}) > 1:
        columns.insert(0, Column("Recipe", "group"))
    return Table(
        name="overview",
        caption="Base, controls and tuned model at a glance",
        rows=rows,
        columns=columns,
        values=(*_KEYS, "base", *models, *_OF_TUNED, *_COUNTS),
        notes=("Difference, n and unreadable are of tuned and base.", *comparison.notes),
        is_mini=comparison.is_mini,
    )


def _place(row: Row) -> str:
    """The measure, with the split if the benchmark has several."""
    if place := split_title(row["benchmark"], row["split"]):
        return f"{place}: {_measure(row).title}"
    return _measure(row).title + f", {row['split']}" * row["has_parts"]


def _reported(row: Row) -> str:
    both = [_printed(row, name) or MISSING for name in ("base", "tuned")]
    return MISSING if both == [MISSING, MISSING] else " → ".join(both)


# The tuned models of two runs on the same images: which of them is better, and is it chance?

TUNED = "merged"
_BETWEEN = (
    *("first", "second", "benchmark", "split", "measure", "value_first", "value_second"),
    *("difference", "low", "high", "n_images", "is_mini", "clear"),
)


def between_runs(
    results: Sequence[RunResults], *, samples: int = 1000, seed: int = 42
) -> Table | None:
    """Every two runs' tuned models, paired by image, on the measures that are better high or low.

    The test for SHR, GAVIE and CHAIR that McNemar's is for POPE. None if no two runs were
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
    return Table(
        name="between_runs",
        caption=f"The {model_title(TUNED)} models of two runs on the same images",
        rows=_marked(rows),
        columns=[
            Column("First run", "first"),
            Column("Second run", "second"),
            Column("Measure", lambda row: _measure(row).title),
            Column("First", _value("value_first")),
            Column("Second", _value("value_second")),
            *(_DIFFERENCE, _INTERVAL, Column("Images", "n_images")),
        ],
        values=_BETWEEN,
        notes=(
            "Second minus first.",
            *notes.of_intervals(1, samples),
        ),
        is_mini=any(result.is_mini for result in results),
    )


def _between_rows(first: RunResults, second: RunResults, *, samples: int, seed: int) -> list[Row]:
    found = []
    for key in first.items:
        benchmark, split, name, model = key
        directed = {m.name for m in measures_of(benchmark) if m.better}
        if model != TUNED or name not in directed or (benchmark, split, model) in first.right:
            continue
        if first.asked.get((benchmark, split)) != second.asked.get((benchmark, split)):
            continue
        pair = first.paired(key, TUNED, of=second)
        ends = paired_difference(*pair, samples=samples, seed=seed) if pair else None
        if pair is None or ends is None:
            continue
        values = [float(sums[:, 0].sum() / sums[:, 1].sum()) for sums in pair]
        cells = (first.name, second.name, benchmark, split, name, *values, values[1] - values[0])
        cells += (*ends, len(pair[0]), first.is_mini or second.is_mini, None)
        found.append(dict(zip(_BETWEEN, cells, strict=True)))
    return found


# The tables of the comparison.


def comparison(
    results: Sequence[RunResults],
    reported: Sequence[ReportedRow] = (),
    *,
    samples: int = 1000,
    seed: int = 42,
) -> Table:
    """Reported, base and tuned side by side, with the controls, one row per measure and model.

    Runs that differ in nothing but their seeds become their mean, with a bootstrap interval over
    images and runs; a single run has the paired one over its images. See `groups` for the labels.

    Raises:
        BadInput: nothing to compare, or a run is named twice.
    """
    _refuse_repeated(results)
    rows: list[Row] = []
    for label, group in groups(results).items():
        each = [rows_against_base(result, reported, samples=samples, seed=seed) for result in group]
        rows += _labelled(group_rows(group, each, samples=samples, seed=seed), label)
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
    _refuse_repeated(results)
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

    None if no control was evaluated.
    """
    _refuse_repeated(results)
    rows: list[Row] = []
    for label, group in groups(results).items():
        each = [rows_against_controls(result, samples=samples, seed=seed) for result in group]
        rows += _labelled(group_rows(group, each, samples=samples, seed=seed), label)
    rows = [row for row in rows if row["base"] is not None and _measure(row).is_headline]
    if not rows:
        return None
    return Table(
        name="controls",
        caption="The tuned model against the controls",
        rows=[row | {"verdict": _verdict(row)} for row in _marked(rows)],
        columns=[
            *(_OF_SEVERAL if len(results) > 1 else ()),
            *_WHERE,
            Column("Control", lambda row: model_title(row["against"])),
            Column("Control's value", _value("base")),
            *(Column("Tuned", _value("tuned")), _DIFFERENCE, _INTERVAL),
            *(Column("Tuned is", "verdict"), *_READ, _WORDS_PER_ANSWER),
        ],
        values=(*COLUMNS, "verdict"),
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
    more = _OF_SEVERAL if len(results) > 1 else ()
    return Table(
        name=name,
        caption=caption,
        rows=_marked(rows),
        columns=[
            *([Column("Run", "run")] if name == "every_run" else more),
            *_WHERE,
            Column("Model", lambda row: model_title(row["model"])),
            *(_REPORTED if _has_reported(rows) else ()),
            *(Column("Base", _value("base")), Column("Tuned", _value("tuned")), _DIFFERENCE),
            *([Column("Deviation", _value("deviation"))] if more and name != "every_run" else ()),
            *(_INTERVAL, *_READ, _WORDS_PER_ANSWER),
        ],
        values=COLUMNS,
        notes=notes.of_comparison(results, reported, samples),
        is_mini=any(result.is_mini for result in results),
    )


def _verdict(row: Row) -> str:
    better = _measure(row).better
    if not better or row["low"] is None:
        return MISSING
    if not row["clear"] and not covers_zero(row["low"], row["high"]):
        return "not separable among so many rows"
    if not row["clear"]:
        half = (row["high"] - row["low"]) / 2
        return f"not separable below {_points(row, half)}" if half else "the same"
    return "better" if (row["difference"] > 0) == (better == "higher") else "worse"


def _points(row: Row, amount: float) -> str:
    """An amount of a row's measure, with its unit if it is a fraction."""
    is_fraction = _measure(row).is_fraction
    return show(amount, is_fraction=is_fraction) + " points" * is_fraction


def _labelled(rows: Sequence[Row], label: str) -> list[Row]:
    return [row | {"group": label} for row in rows]


def _refuse_repeated(results: Sequence[RunResults]) -> None:
    if not results:
        raise BadInput("an empty comparison: name at least one evaluated run")
    names = [result.name for result in results]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"run {name!r} is named twice; a run counts once")
