"""Runs beside each other and beside published numbers: differences, intervals, footnotes."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def _grouped(
    results: Sequence[RunResults],
    reported: Sequence[ReportedRow] = (),
    *,
    against: str,
    by_run: bool = False,
    **draws: int,
) -> list[Row]:
    """Headline rows of all runs, every model against its base or the tuned one against "controls".

    Runs that repeat one another become their mean, unless each is to stand `by_run`. `draws` are
    the `samples` behind each interval, and their `seed`.
    """
    names = [result.name for result in results]
    if not names:
        raise BadInput("an empty comparison: name at least one evaluated run")
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"run {name!r} is named twice; a run counts once")
    rows: list[Row] = []
    for label, group in groups(results).items():
        found = []
        for result in group:
            others = [m for m in result.models if m != "base"] or ["merged"]
            pairs = [("base", model) for model in others]
            if against == "controls":
                pairs = [(model, "merged") for model in others if model != "merged"]
            found += _rows(result, pairs, matching(reported, result.backbone), **draws)
        if len(group) > 1 and not by_run:
            found = _means(found, {result.name: result for result in group}, **draws)
        rows += [row | {"group": label} for row in found if _measure(row).is_headline]
    return sorted(rows, key=lambda row: names.index(row["run"])) if by_run else rows


def _means(rows: Sequence[Row], runs: Mapping[str, RunResults], **draws: int) -> list[Row]:
    """Rows of runs that repeat one another as one row each.

    Means, the deviation of the runs' differences, and an interval of their mean over images and
    seeds. A row stands if at least one run has it; `runs` counts those with a difference.
    """
    places: dict[tuple, list[Row]] = {}
    for row in rows:
        key = ("recipe", "benchmark", "split", "measure", "model", "against")
        places.setdefault(tuple(row[k] for k in key), []).append(row)
    return [_mean_row(own, runs, **draws) for own in places.values()]


def _mean_row(rows: Sequence[Row], runs: Mapping[str, RunResults], **draws: int) -> Row:
    def known(name: str) -> list[Any]:
        return [row[name] for row in rows if row[name] is not None]

    mean = dict(rows[0])
    for name in ("base", "tuned", "words_base", "words_tuned"):
        mean[name] = mean_interval(known(name))[0] if known(name) else None
    mean |= {name: min(known(name), default=None) for name in ("n", "n_base")}
    for name in ("n_unreadable", "n_unreadable_base"):
        mean[name] = max(known(name), default=None)
    differences = known("difference")
    names = ("difference", "deviation", "low", "high")
    found = mean_interval(differences) if differences else (None,) * 4
    mean |= dict(zip(names, found, strict=True))
    mean |= {"run": "mean", "runs": len(differences)}
    mean["interval"] = "t" if len(differences) > 1 else None
    pairs, worlds = [], []
    for row in rows:
        if row["difference"] is not None:
            key = (row["benchmark"], row["split"], row["measure"], row["against"])
            pairs.append(runs[row["run"]].paired(key, row["model"]))
            worlds.append(runs[row["run"]].asked[key[:2]][0] if pairs[-1] else "")
    ends = two_level_difference(pairs, worlds, **draws) if pairs and all(pairs) else None
    return mean | ({"low": ends[0], "high": ends[1], "interval": "two-level"} if ends else {})


def _rows(
    result: RunResults,
    pairs: Sequence[tuple[str, str]],
    published: Sequence[ReportedRow],
    **draws: int,
) -> list[Row]:
    """One row per measure and pair of models of one run: the second against the first."""
    rows = []
    for key in _places(result):
        for first, second in pairs:
            if (*key, second) not in result.metrics and second != "merged":
                continue  # a control that this benchmark does not know
            row: Row = dict.fromkeys(COLUMNS) | {"recipe": result.recipe, "run": result.name}
            row |= {"runs": 1, "is_mini": result.is_mini, "model": second, "against": first}
            row |= dict(zip(("benchmark", "split", "measure"), key, strict=True))
            for model, name, end in ((first, "base", "_base"), (second, "tuned", "")):
                row[f"words_{name}"] = _words(result, *key[:2], model)
                if metric := result.metrics.get((*key, model)):
                    row |= {name: metric.value, f"n{end}": metric.n}
                    row[f"n_unreadable{end}"] = result.unreadable((*key, model))
            if row["base"] is not None and row["tuned"] is not None:
                row["difference"] = row["tuned"] - row["base"]
                row |= _interval(result, (*key, first), second, **draws)
            if (first, second) == ("base", "merged"):
                row |= _published(result, published, key)
            rows.append(row)
    return rows


def _published(
    result: RunResults, published: Sequence[ReportedRow], key: tuple[str, str, str]
) -> Row:
    """The published values of a measure, with the mark of another kind of judge."""
    benchmark, split, name = key
    splits = {place[1] for place in result.metrics if place[0] == benchmark}
    row: Row = {}
    for found in published:
        is_whole = found.split == "all" and len(splits) == 1
        if found.benchmark == benchmark and (found.split == split or is_whole):
            place = "reported_base" if found.is_base else "reported_tuned"
            printed = found.shown(name)
            if printed and notes.is_oracles(result, benchmark):
                printed += f" {notes.ANOTHER_JUDGE}"
            row |= {place: found.values.get(name), f"{place}_printed": printed}
    return row


def _interval(result: RunResults, key: Key, other: str, **draws: int) -> Row:
    """Ends of the difference's interval, and how it was made."""
    pair, kind = result.paired(key, other), "paired"
    ends = paired_difference(*pair, **draws) if pair else None
    if ends is None:
        before, after = result.metrics[key], result.metrics[(*key[:3], other)]
        ends, kind = unpaired_difference(before, after), "unpaired"
    return {"low": ends[0], "high": ends[1], "interval": kind} if ends else {}


def _places(result: RunResults) -> list[tuple[str, str, str]]:
    """Benchmark, split and metric in the order of a table: splits as evaluated, then as listed."""
    found = list(dict.fromkeys(key[:3] for key in result.metrics))
    splits = list(dict.fromkeys((b, s) for b, s, _ in found))

    def rank(place: tuple[str, str, str]) -> tuple[int, int, int]:
        names = [m.name for m in measures_of(place[0])]
        listed = names.index(place[2]) if place[2] in names else len(names)
        return splits.index(place[:2]), listed, found.index(place)

    return sorted(found, key=rank)


def _words(result: RunResults, benchmark: str, split: str, model: str) -> float | None:
    value = result.value((benchmark, split, WORDS, model))
    if value is not None:
        return value
    sums = result.items.get((benchmark, split, WORDS, model))
    return sum(s[0] for s in sums.values()) / sum(s[1] for s in sums.values()) if sums else None


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


_DIFFERENCE = Column(
    "Difference", _value("difference", signed=True), is_bold=lambda row: row["clear"]
)
_INTERVAL = Column("95 % interval", _ends)
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
_WORDS_PER_ANSWER = Column(
    "Words per answer",
    lambda row: show_change(
        *(show(row[f"words_{n}"], is_fraction=False, digits=1) for n in ("base", "tuned"))
    ),
)


# The comparison at a glance: a line per measure, the models side by side.

_KEYS = ("group", "benchmark", "split", "measure")
_OF_TUNED = ("reported_base", "reported_tuned", "difference", "low", "high", "runs")
_COUNTS = ("n_base", "n", "n_unreadable_base", "n_unreadable", "is_mini")


def overview(comparison: Table) -> Table:
    """Base, controls and tuned model, one line per measure; the interval is of tuned minus base."""
    places: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in comparison.rows:
        places.setdefault(tuple(row[key] for key in _KEYS), {})[row["model"]] = row
    models = models_in_order(model for by_model in places.values() for model in by_model)
    models.sort(key=lambda m: m == "merged")  # stable: the controls first, the tuned model last
    rows = []
    for by_model in places.values():
        row = by_model.get("merged", next(iter(by_model.values())))
        splits = {split for _, benchmark, split, _ in places if benchmark == row["benchmark"]}
        values = {m: by_model[m]["tuned"] if m in by_model else None for m in models}
        rows.append(row | values | {"has_parts": len(splits) > 1 and row["split"] != "all"})
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

_BETWEEN = (
    *("first", "second", "benchmark", "split", "measure", "value_first", "value_second"),
    *("difference", "low", "high", "n_images", "is_mini", "clear"),
)


def between_runs(
    results: Sequence[RunResults], *, samples: int = 1000, seed: int = 42
) -> Table | None:
    """Every two runs' tuned models, paired by image, on the measures that are better high or low.

    The test for SHR, GAVIE and CHAIR that McNemar's is for POPE. None if no two runs were
    measured on the same images. `samples` are the resampled image sets behind each interval.
    """
    rows = []
    for (first, second), key in _paired_places(results):
        pair = first.paired(key, "merged", of=second)
        ends = paired_difference(*pair, samples=samples, seed=seed) if pair else None
        if pair and ends:
            values = [float(sums[:, 0].sum() / sums[:, 1].sum()) for sums in pair]
            cells = (first.name, second.name, *key[:3], *values, values[1] - values[0])
            cells += (*ends, len(pair[0]), first.is_mini or second.is_mini, None)
            rows.append(dict(zip(_BETWEEN, cells, strict=True)))
    if not rows:
        return None
    return Table(
        name="between_runs",
        caption=f"The {model_title('merged')} models of two runs on the same images",
        rows=_marked(rows),
        columns=[
            *(Column("First run", "first"), Column("Second run", "second"), _WHERE[2]),
            *(Column("First", _value("value_first")), Column("Second", _value("value_second"))),
            *(_DIFFERENCE, _INTERVAL, Column("Images", "n_images")),
        ],
        values=_BETWEEN,
        notes=("Second minus first.", *notes.of_intervals(1, samples)),
        is_mini=any(result.is_mini for result in results),
    )


def _paired_places(
    results: Sequence[RunResults],
) -> Iterator[tuple[tuple[RunResults, RunResults], Key]]:
    """Two runs that were asked the same, and a directed measure of the first's tuned model."""
    for first, second in itertools.combinations(results, 2):
        for key in first.items:
            benchmark, split, name, model = key
            directed = {m.name for m in measures_of(benchmark) if m.better}
            asked = [run.asked.get((benchmark, split)) for run in (first, second)]
            is_yes_no = (benchmark, split, model) in first.right
            if model == "merged" and name in directed and asked[0] == asked[1] and not is_yes_no:
                yield (first, second), key


# The tables of the comparison.


def comparison(
    results: Sequence[RunResults],
    reported: Sequence[ReportedRow] = (),
    *,
    by_run: bool = False,
    samples: int = 1000,
    seed: int = 42,
) -> Table:
    """Reported, base and tuned side by side, with the controls, one row per measure and model.

    Runs that differ in nothing but their seeds become their mean, with a bootstrap interval over
    images and runs; a single run has the paired one over its images. See `groups` for the labels.
    With `by_run` each run stands by itself: every seed is shown, the bad ones too.

    Raises:
        BadInput: nothing to compare, or a run is named twice.
    """
    options: Any = {"by_run": by_run, "samples": samples, "seed": seed}
    rows = _grouped(results, reported, against="base", **options)
    more = _OF_SEVERAL if len(results) > 1 else ()
    if by_run:  # the runs stand together, measure by measure
        places = [(r["benchmark"], r["split"], r["measure"], r["model"]) for r in rows]
        order = sorted(range(len(rows)), key=lambda at: places.index(places[at]))
        rows, more = [rows[at] for at in order], (Column("Run", "run"),)
    return Table(
        name="every_run" if by_run else "comparison",
        caption="Every run by itself" if by_run else "Base and tuned model",
        rows=_marked(rows),
        columns=[
            *(*more, *_WHERE, Column("Model", lambda row: model_title(row["model"]))),
            *(_REPORTED if _has_reported(rows) else ()),
            *(Column("Base", _value("base")), Column("Tuned", _value("tuned")), _DIFFERENCE),
            *([Column("Deviation", _value("deviation"))] if more == _OF_SEVERAL else ()),
            *(_INTERVAL, *_READ, _WORDS_PER_ANSWER),
        ],
        values=COLUMNS,
        notes=notes.of_comparison(results, reported, samples),
        is_mini=any(result.is_mini for result in results),
    )


def controls(results: Sequence[RunResults], *, samples: int = 1000, seed: int = 42) -> Table | None:
    """The tuned model against each control: does it do what saying less, or finetuning, does not?

    None if no control was evaluated.
    """
    rows = _grouped(results, against="controls", samples=samples, seed=seed)
    rows = [row for row in rows if row["base"] is not None]
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


def _verdict(row: Row) -> str:
    if not _measure(row).better or row["low"] is None:
        return MISSING
    if not row["clear"] and not covers_zero(row["low"], row["high"]):
        return "not separable among so many rows"
    if not row["clear"]:
        half, is_fraction = (row["high"] - row["low"]) / 2, _measure(row).is_fraction
        amount = show(half, is_fraction=is_fraction) + " points" * is_fraction
        return f"not separable below {amount}" if half else "the same"
    return _measure(row).way(row["difference"])
