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
from hadpo.tables import Table, covers_zero, measure_of


def dumbbell(
    table: Table,
    *,
    measures: Sequence[str] = (
        "accuracy",
        "yes_ratio",
        "hallucinated_sentence_ratio",
        "object_recall",
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
    rows.sort(key=lambda r: (r["recipe"], r["benchmark"], measures.index(r["measure"])))
    clear = [r for r in rows if not covers_zero(r["low"], r["high"])]
    message = title or (
        f"{len(clear)} of {len(rows)} differences between base and tuned are clear of zero."
    )
    several = len({r["recipe"] for r in rows}) > 1
    with house_style():
        drawing = new_drawing(8.0, 0.36 * len(rows) + 1.5)
        axes = drawing.add_subplot()
        for at, row in enumerate(rows):
            _dumbbell_row(axes, at, row)
        labels = [_row_label(r, several) for r in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.9))
        axes.set_xlabel("percent")
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
    names = ("recipe", "benchmark", "split", "measure", "reported_base", "reported_tuned")
    names += ("base", "tuned", "difference", "low", "high", "n")
    data = [{name: row[name] for name in names} for row in rows]
    words = "; ".join(
        f"{_row_label(r, several)}: {percent(r['base'])} to {percent(r['tuned'])}" for r in rows
    )
    return Figure(drawing, "dumbbell", message, f"{message} {words}.", data)


def _dumbbell_row(axes: Axes, at: int, row: Mapping[str, Any]) -> None:
    base, tuned = row["base"], row["tuned"]
    if base is not None:
        axes.plot([100 * base, 100 * tuned], [at, at], color="#c4c4c4", linewidth=3, zorder=1)
        axes.plot(100 * base, at, "o", color=GREY, markersize=8, zorder=3)
    axes.plot(100 * tuned, at, "o", color=BLUE, markersize=8, zorder=3)
    for name, colour in (("reported_base", GREY), ("reported_tuned", BLUE)):
        if row[name] is not None:
            style = {"markerfacecolor": "none", "markeredgecolor": colour, "markersize": 6}
            axes.plot(100 * row[name], at - 0.3, "D", zorder=2, **style)
    if row["difference"] is None:
        return
    text = f"{100 * row['difference']:+.1f}"
    if row["low"] is not None:
        text += f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
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


def _row_label(row: Mapping[str, Any], several: bool) -> str:
    measure = measure_of(row["benchmark"], row["measure"]).label
    place = f"POPE {row['split']}: {measure}" if row["benchmark"] == "pope" else measure
    return f"{row['recipe']}\n{place}" if several else place
