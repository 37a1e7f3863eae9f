"""What training costs in two ways: tokens, time and memory as bars, the first way being 100 %."""

from collections.abc import Mapping, Sequence
from typing import Any

from hadpo.figures._style import BLUE, GREY, Figure, house_style, new_drawing, write_title

_MEASURES = (
    ("tokens", "tokens read", 1, "{:,.0f}"),
    ("seconds", "time, forward and backward", 1e3, "{:,.1f} ms"),
    ("activation_bytes", "memory for the backward pass", 1e-6, "{:,.1f} MB"),
)


def cost_bars(costs: Sequence[Mapping[str, Any]], *, is_mini: bool) -> Figure:
    """Bars of each measure, and what is saved.

    Args:
        costs: way, tokens, seconds and activation_bytes of each way; the first is the measure.
        is_mini: mark the picture as one of the synthetic world.
    """
    first, last = costs[0], costs[-1]
    tokens, seconds, memory = (f"{1 - last[key] / first[key]:.0%}" for key, *_ in _MEASURES)
    title = (
        f"{str(last['way']).capitalize()} saves {tokens} of the tokens, {seconds} of the time and "
        f"{memory} of the backward pass's memory."
    )
    with house_style():
        drawing = new_drawing(9.0, 2.6)
        for at, (key, name, factor, form) in enumerate(_MEASURES):
            axes = drawing.add_subplot(1, len(_MEASURES), at + 1)
            values = [cost[key] * factor for cost in costs]
            colours = [GREY, *[BLUE] * (len(costs) - 1)]
            axes.barh(range(len(costs)), values, color=colours, height=0.55)
            for place, value in enumerate(values):
                axes.text(
                    value * 0.97, place, form.format(value), ha="right", va="center", c="white"
                )
            names = [cost["way"] for cost in costs] if at == 0 else [""] * len(costs)
            axes.set_yticks(range(len(costs)), names)
            axes.set(title=name, xticks=[], ylim=(len(costs) - 0.5, -0.5), xlim=(0, None))
            axes.grid(visible=False)
        note = "Measured in this run on this machine; the time is a median."
        write_title(drawing, title, note=note, is_mini=is_mini)
    return Figure(drawing, "cost", title, f"{title} Bars for each of them.", list(costs))
