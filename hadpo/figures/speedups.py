"""How many times faster: one bar for each thing that was measured."""

from collections.abc import Mapping

from hadpo.figures._style import BLUE, GREY, Figure, house_style, new_drawing, write_title
from hadpo.records import BadInput


def speedup_bars(times: Mapping[str, float], *, name: str, note: str = "", is_mini: bool) -> Figure:
    """A bar for each ratio, with its number; the line at 1 is what it is compared with.

    Raises:
        BadInput: nothing was measured.
    """
    if not times:
        raise BadInput("no measured ratios to draw")
    low, high = min(times.values()), max(times.values())
    message = f"One question at a time takes {low:.1f} to {high:.1f} times as long."
    with house_style():
        drawing = new_drawing(6.0, 0.9 + 0.45 * len(times))
        axes = drawing.add_subplot()
        places = range(len(times))
        axes.barh(places, list(times.values()), color=BLUE, height=0.6)
        for place, value in zip(places, times.values(), strict=True):
            axes.text(value, place, f" {value:.1f}", va="center")
        axes.axvline(1, color=GREY, linewidth=1)
        axes.set_yticks(places, list(times))
        axes.set(xlim=(0, 1.12 * high), xlabel="times the processor time of ours")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        write_title(drawing, message, note=note, is_mini=is_mini)
    data = [{"what": what, "times": value} for what, value in times.items()]
    bars = ", ".join(f"{what} {value:.1f}" for what, value in times.items())
    return Figure(drawing, name, message, f"{message} Bars: {bars}.", data)
