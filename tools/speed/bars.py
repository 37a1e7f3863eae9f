"""Speed and memory as factors: of a training step against the peers, of answering one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

from hadpo.figures._style import (
    BLUE,
    GREY,
    INK,
    PALE,
    Figure,
    finish,
    name_rows,
    panels,
)
from hadpo.records import BadInput


def speed_bars(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """How many times faster, and with what share of the memory, one bar per peer.

    Args:
        rows: with `what`, `pairs`, `than`, `median`, `least`, `greatest`, `floor` and `aim`, as
            `tools.speed.report.rows` gives them; those without a median are left out.
        title: the message; empty: made from the rows.

    Raises:
        BadInput: nothing was measured.
    """
    data = [dict(row) for row in rows if row["median"] is not None]
    if not data:
        raise BadInput("no ratio among the rows; was anything measured?")
    groups = list(dict.fromkeys(row["what"] for row in data))
    sizes = [sum(row["what"] == group for row in data) for group in groups]
    size = (8.0, 0.3 * len(data) + 0.6 * len(groups) + 0.9, len(groups))
    with panels(*size, squeeze=False, height_ratios=sizes) as (drawing, array):
        for axes, group in zip(array[:, 0], groups, strict=True):
            own = [row for row in data if row["what"] == group]
            for at, row in enumerate(own):
                colour = BLUE if row["pairs"].startswith("desc") else PALE
                axes.barh(at, row["median"], height=0.62, color=colour)
                if row["least"] is not None:
                    ends = [[row["median"] - row["least"]], [row["greatest"] - row["median"]]]
                    axes.errorbar(row["median"], at, xerr=ends, color=INK, capsize=2, linewidth=1)
                for name, style in (("floor", "-"), ("aim", ":")):
                    if row[name] is not None:
                        x = [row[name], row[name]]
                        axes.plot(x, [at - 0.4, at + 0.4], color=INK, linestyle=style, lw=1.4)
                reach = (row[name] or 0 for name in ("median", "greatest", "floor", "aim"))
                axes.text(max(reach), at, f"  {row['median']:.2f}", va="center", fontsize=7.5)
            axes.axvline(1, color=GREY, linewidth=1)
            name_rows(axes, [f"{r['pairs']}: {r['than']}" for r in own])
            axes.set(title=group, xlim=(0, axes.get_xlim()[1] * 1.08))
    note = "Bar: median; whisker: least and greatest round; line: what we promise, dotted: what we "
    note += "aim at; grey: as the peer."
    words = "; ".join(f"{r['what']}, {r['pairs']}, {r['than']}: {r['median']:.2f}" for r in data)
    message = title or _message(data)
    return finish(drawing, "speed_bars", message, note=note, alt=f"Bars. {words}.", data=data)


def speedup_bars(times: Mapping[str, float], *, name: str, note: str = "") -> Figure:
    """A bar for each ratio, with its number; the line at 1 is what it is compared with.

    Raises:
        BadInput: nothing was measured.
    """
    if not times:
        raise BadInput("no measured ratios to draw")
    low, high = min(times.values()), max(times.values())
    message = f"One question at a time takes {low:.1f} to {high:.1f} times as long."
    with panels(6.0, 0.9 + 0.45 * len(times)) as (drawing, axes):
        bars = axes.barh(range(len(times)), list(times.values()), color=BLUE, height=0.6)
        axes.bar_label(bars, fmt=" %.1f")
        axes.axvline(1, color=GREY, linewidth=1)
        name_rows(axes, list(times))
        axes.set(xlim=(0, 1.12 * high), xlabel="times the processor time of ours")
    data = [{"what": what, "times": value} for what, value in times.items()]
    alt = f"Bars: {', '.join(f'{what} {value:.1f}' for what, value in times.items())}."
    return finish(drawing, name, message, note=note, alt=alt, data=data)


def _message(data: Sequence[Mapping[str, Any]]) -> str:
    factors = [row["median"] for row in data if row["floor"] is not None and row["floor"] > 1]
    if not factors:
        return "A training step, ours against the peers'"
    return (
        f"A training step is {min(factors):.1f} to {max(factors):.1f} times faster than the peers'"
    )
