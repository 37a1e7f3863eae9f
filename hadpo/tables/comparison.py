"""Runs beside each other and beside published numbers: differences, intervals, footnotes."""

from collections.abc import Sequence

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
from hadpo.tables.groups import groups
from hadpo.tables.measures import Measure, measure_of, model_title
from hadpo.tables.reported import ReportedRow
from hadpo.tables.results import RunResults
from hadpo.tables.rows import COLUMNS, Row, mean_rows, rows_against_base, rows_against_controls


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


def covers_zero(low: float | None, high: float | None) -> bool:
    """Whether an interval covers zero; an interval that is not there counts as one that does."""
    return low is None or high is None or low <= 1e-12 <= high + 2e-12  # rounding is no evidence


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
