"""The comparison at a glance: a line per measure, the models side by side."""

from typing import Any

from hadpo.tables._table import (
    MISSING,
    Table,
    frame_of,
    show,
    show_change,
    show_frame,
    show_interval,
)
from hadpo.tables.comparison import covers_zero
from hadpo.tables.measures import MODELS, measure_of, model_title

_KEYS = ("group", "benchmark", "split", "measure")
_FACTS = ("reported_base", "reported_tuned", "difference", "low", "high", "runs")
_WHOLE = "all"  # the split that holds those beside it
_COUNTS = ("n_base", "n", "n_unreadable_base", "n_unreadable", "is_mini")


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
        values.append(value | {name: tuned[name] for name in (*_FACTS, *_COUNTS)})
        splits = {split for _, benchmark, split, _ in groups if benchmark == value["benchmark"]}
        parts = splits - {_WHOLE} if len(splits) > 1 else set()
        cells.append(_cells(value, tuned, models, parts))
        if not covers_zero(tuned["low"], tuned["high"]):
            bold.append((at, "Difference"))
    titles = [model_title(model).capitalize() for model in models]
    columns = ["Measure", "Reported", "Base", *titles, "Difference", "95 % interval"]
    columns += ["n", "Unreadable"]
    return Table(
        name="overview",
        caption="Base, controls and tuned model at a glance",
        frame=frame_of(values, (*_KEYS, "base", *models, *_FACTS, *_COUNTS)),
        shown=show_frame(cells, ["Recipe", *columns] if several else columns),
        bold=frozenset(bold),
        notes=("Difference, n and unreadable are of tuned and base.", *comparison.notes),
        is_mini=comparison.is_mini,
    )


def _cells(
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
