"""Base to tuned, measure by measure, beside what was published."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from hadpo.figures._style import (
    BLUE,
    GREY,
    INK,
    Figure,
    house_style,
    new_drawing,
    percent,
    write_title,
)
from hadpo.records import BadInput
from hadpo.tables import Measure, ReportedRow, Table, covers_zero, measure_of

_SHR = "hallucinated_sentence_ratio"


def dumbbell(
    table: Table,
    *,
    measures: Sequence[str] = (
        "accuracy",
        "yes_ratio",
        "hallucinated_sentence_ratio",
        "chair_i",
        "chair_s",
        "object_recall",
        "relevancy",
    ),
    title: str = "",
) -> Figure:
    """Base to tuned for each benchmark and split, with the published values as hollow marks.

    Args:
        table: from `tables.comparison`; the rows of the tuned model are drawn.
        measures: metrics to draw, in this order within their benchmark.
        title: the message; empty: how many differences are clear of zero.

    Raises:
        BadInput: no such rows.
    """
    records = [r for r in table.frame.to_dict("records") if r["model"] == "merged"]
    rows = [r for r in records if r["measure"] in measures and r["tuned"] is not None]
    if not rows:
        raise BadInput(f"no rows to draw: the table has none of {', '.join(measures)}")
    rows.sort(key=lambda r: (r["group"], r["benchmark"], measures.index(r["measure"])))
    clear = [r for r in rows if not covers_zero(r["low"], r["high"])]
    message = title or (
        f"{len(clear)} of {len(rows)} differences between base and tuned are clear of zero."
    )
    several = len({r["group"] for r in rows}) > 1
    with house_style():
        drawing = new_drawing(8.0, 0.36 * len(rows) + 1.5)
        axes = drawing.add_subplot()
        for at, row in enumerate(rows):
            _dumbbell_row(axes, at, row)
        labels = [_row_label(r, several) for r in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.9))
        has_scores = any(not _measure(row).is_fraction for row in rows)
        axes.set_xlabel("percent; scores of 0 to 10: tenths" if has_scores else "percent")
        axes.tick_params(axis="y", length=0, colors=INK)
        axes.grid(axis="y", visible=False)
        head = {"fontsize": 7.5, "color": "#555555", "transform": axes.get_yaxis_transform()}
        axes.text(1.02, -0.75, "difference [95 %], n", **head)
        notes = ["Grey dot: base; blue dot: tuned; hollow diamonds: published base and tuned."]
        if any(r["interval"] == "unpaired" for r in rows):
            notes.append("u: unpaired interval.")
        if table.is_mini and any(r["reported_base"] is not None for r in rows):
            notes.append("Published: another model and other images, not comparable.")
        write_title(drawing, message, note=" ".join(notes), is_mini=table.is_mini)
    names = ("recipe", "group", "benchmark", "split", "measure", "reported_base", "reported_tuned")
    names += ("base", "tuned", "difference", "low", "high", "n")
    data = [{name: row[name] for name in names} for row in rows]
    words = "; ".join(
        f"{_row_label(r, several)}: {_in_words(r, 'base')} to {_in_words(r, 'tuned')}" for r in rows
    )
    return Figure(drawing, "dumbbell", message, f"{message} {words}.", data)


def published_dumbbell(rows: Sequence[ReportedRow], *, title: str = "") -> Figure:
    """Published base and tuned values alone: POPE accuracy and SHR, each backbone and split.

    Raises:
        BadInput: nothing published of these.
    """
    names = ("accuracy", _SHR)
    found: dict[tuple[str, str, str, str], dict[str, float | None]] = {}
    for row in rows:
        for name in names:
            if name in row.values and row.unit != "points":
                key = (row.backbone, row.benchmark, row.split, name)
                values = found.setdefault(key, {"base": None, "tuned": None})
                values["base" if row.is_base else "tuned"] = row.values[name]
    if not found:
        raise BadInput(f"no published {' or '.join(names)} to draw")
    message = title or _published_message(found)
    with house_style():
        drawing = new_drawing(8.0, 0.33 * len(found) + 1.3)
        axes = drawing.add_subplot()
        for at, values in enumerate(found.values()):
            ends = [(values[n], c) for n, c in (("base", GREY), ("tuned", BLUE))]
            known = [100 * value for value, _ in ends if value is not None]
            axes.plot(known, [at] * len(known), color="#d9d9d9", linewidth=2, zorder=1)
            for value, colour in ends:
                if value is not None:
                    (mark,) = axes.plot(100 * value, at, "D", markersize=6.5, markeredgewidth=1.6)
                    mark.set(markerfacecolor="white", markeredgecolor=colour)
            text = " → ".join("-" if v is None else f"{100 * v:.1f}" for v, _ in ends)
            axes.text(
                1.02, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5
            )
        labels = [
            f"{backbone}, {benchmark.upper()}{f' {split}' if split != 'all' else ''}"
            for backbone, benchmark, split, _ in found
        ]
        axes.set_yticks(range(len(found)), labels)
        axes.set(xlim=(0, 100), ylim=(len(found) - 0.5, -0.6))
        axes.set_xlabel("percent: accuracy of POPE, hallucinated sentences of SHR")
        axes.tick_params(axis="y", length=0, colors=INK)
        axes.grid(axis="y", visible=False)
        counts = sorted({f"{row.benchmark.upper()} {row.n}" for row in rows if row.n})
        note = "Grey: base; blue: tuned, as published; sources stand in the tables."
        note += f" n: {', '.join(counts)}." if counts else ""
        write_title(drawing, message, note=note)
    keys = ("backbone", "benchmark", "split", "measure")
    data = [dict(zip(keys, key, strict=True)) | values for key, values in found.items()]
    words = "; ".join(
        f"{label} {percent(v['base'])} to {percent(v['tuned'])}"
        for label, v in zip(labels, found.values(), strict=True)
    )
    return Figure(drawing, "published", message, f"{message} {words}.", data)


def _published_message(found: Mapping[tuple[str, str, str, str], Mapping[str, Any]]) -> str:
    parts = []
    for name, text, sign in (("accuracy", "POPE accuracy rises", 1), (_SHR, "SHR falls", -1)):
        ends = [(v["base"], v["tuned"]) for key, v in found.items() if key[3] == name]
        known = [tuned - base for base, tuned in ends if base is not None and tuned is not None]
        if known:
            parts.append(f"{text} in {sum(sign * d > 0 for d in known)} of {len(known)} rows")
    return f"Published: {' and '.join(parts) or 'no pair of base and tuned'}."


def _dumbbell_row(axes: Axes, at: int, row: Mapping[str, Any]) -> None:
    base, tuned = row["base"], row["tuned"]
    is_fraction = _measure(row).is_fraction
    wide, unit = (100, 100) if is_fraction else (10, 1)  # places on the axis; what the text says
    if base is not None:
        axes.plot([wide * base, wide * tuned], [at, at], color="#c4c4c4", linewidth=3, zorder=1)
        axes.plot(wide * base, at, "o", color=GREY, markersize=8, zorder=3)
    axes.plot(wide * tuned, at, "o", color=BLUE, markersize=8, zorder=3)
    for name, colour in (("reported_base", GREY), ("reported_tuned", BLUE)):
        if row[name] is not None:
            style = {"markerfacecolor": "none", "markeredgecolor": colour, "markersize": 6}
            axes.plot(wide * row[name], at - 0.3, "D", zorder=2, **style)
    if row["difference"] is None:
        return
    text = f"{unit * row['difference']:+.1f}"
    if row["low"] is not None:
        text += f" [{unit * row['low']:+.1f}, {unit * row['high']:+.1f}]"
        text += " u" if row["interval"] == "unpaired" else ""
    clear = not covers_zero(row["low"], row["high"])
    axes.text(
        1.02,
        at,
        f"{text}, {row['n']}",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        fontweight="bold" if clear else "normal",
    )


def _measure(row: Mapping[str, Any]) -> Measure:
    return measure_of(row["benchmark"], row["measure"])


def _in_words(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    return percent(value) if _measure(row).is_fraction or value is None else f"{value:.1f}"


def _row_label(row: Mapping[str, Any], several: bool) -> str:
    measure = _measure(row).label
    place = f"POPE {row['split']}: {measure}" if row["benchmark"] == "pope" else measure
    return f"{row['group']}\n{place}" if several else place
