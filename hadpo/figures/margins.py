"""Reward margins pair by pair: how many pairs are the right way round, and by how much."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

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
from hadpo.records import Pair

_MORE = (BLUE, "#5a3e8e", "#2f7f6f", "#a0522d")
_STYLES = ("-", "--", ":", "-.")


def margin_histogram(
    margins: Sequence[tuple[Pair, float]] | Mapping[str, Sequence[float]],
    *,
    is_mini: bool,
) -> Figure:
    """Histogram of reward margins, one outline a run; right of zero the pair is the right way.

    Without margins the picture says so, because a training without held-out pairs is a good one;
    those that are not finite are counted below it.

    Args:
        margins: pairs with their margins, in nats, or margins of several runs by name.
        is_mini: mark the picture as one of the synthetic world.
    """
    if isinstance(margins, Mapping):
        named = {name: [float(value) for value in values] for name, values in margins.items()}
    else:
        named = {"": [float(value) for _, value in margins]}
    strange = sum(not np.isfinite(value) for values in named.values() for value in values)
    named = {name: [v for v in values if np.isfinite(v)] for name, values in named.items()}
    named = {name: values for name, values in named.items() if values}
    every = [value for values in named.values() for value in values]
    wide = max([1e-6, *(abs(value) for value in every)])
    edges = np.linspace(-wide, wide, 2 * min(20, max(4, len(every) // 4)) + 1)
    shares = {name: float(np.mean(np.array(v) > 0)) for name, v in named.items()}
    text = ", ".join(f"{name} {percent(s)}".strip() for name, s in shares.items())
    message = f"Held-out pairs the right way round: {text}."
    if not named:
        message = "No pair was held out of training: there are no margins to show."
    data = []
    with house_style():
        drawing = new_drawing()
        axes = drawing.add_subplot()
        for at, (name, values) in enumerate(named.items()):
            counts, _ = np.histogram(values, edges)
            colour, style = _MORE[at % len(_MORE)], _STYLES[at % len(_STYLES)]
            axes.stairs(counts, edges, color=colour, linestyle=style, linewidth=1.8)
            if len(named) == 1:
                axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
            middle = float(np.median(values))
            axes.axvline(middle, color=colour, linestyle=style, linewidth=0.8)
            label = f"{name} median {middle:+.2f}".strip()
            place = (0.02, 0.95 - 0.08 * at)
            axes.text(*place, label, color=colour, transform=axes.transAxes, fontsize=7.5)
            data += [
                {"run": name or "-", "low": round(low, 6), "high": round(high, 6), "pairs": n}
                for low, high, n in zip(
                    edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True
                )
            ]
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set(xlabel="reward margin, chosen minus rejected (nats)", ylabel="pairs")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(axis="x", colors=GREY)
        counts = ", ".join(f"{name} {len(v)}".strip() for name, v in named.items())
        note = f"n pairs: {counts or 0}. Left of zero: the rejected text is still preferred."
        note += f" Not finite and not drawn: {strange}." if strange else ""
        write_title(drawing, message, note=note, is_mini=is_mini)
    return Figure(drawing, "reward_margins", message, f"{message} Histogram of margins.", data)
