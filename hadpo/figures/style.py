"""What else than truth tells chosen from rejected: length, wording, what the base finds likely."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from hadpo.figures._style import BLUE, GREY, Figure, house_style, new_drawing, write_title


def style_figure(rows: Sequence[Mapping[str, Any]], *, is_mini: bool) -> Figure:
    """Three pictures of the pairs: words, shared pairs of words, perplexity under the base.

    Args:
        rows: as `pairs.style` gives them; without perplexities the third picture is left out.
        is_mini: whether they are of the synthetic world.
    """
    if not rows:  # pairs of questions alone have no style to measure
        message = "No description pairs, so there is no style to compare."
        with house_style():
            drawing = new_drawing(6.2, 1.0)
            write_title(drawing, message, note="n = 0.", is_mini=is_mini)
        return Figure(drawing, "pair_style", message, message, [])
    longer = np.array([row["words_chosen"] - row["words_rejected"] for row in rows])
    shared = np.array([row["shared_2"] for row in rows])
    known = [row for row in rows if row.get("perplexity_chosen")]
    more = "more" if longer.mean() >= 0 else "less"
    message = (
        f"Chosen texts have {abs(longer.mean()):.1f} words {more} and share {shared.mean():.0%} of "
        "the pairs of words."
    )
    alt = f"{message} Histograms of both."
    with house_style():
        drawing = new_drawing(9.0 if known else 6.2, 3.0)
        panels = drawing.subplots(1, 3 if known else 2)
        panels[0].hist(longer, bins=21, color=BLUE)
        panels[0].axvline(0, color=GREY, linewidth=1)
        panels[0].set(xlabel="words, chosen - rejected", ylabel="pairs")
        panels[1].hist(shared, bins=20, range=(0, 1), color=BLUE)
        panels[1].set(xlabel="share of the rejected text's word pairs", ylabel="pairs")
        for panel in panels[:2]:
            panel.yaxis.set_major_locator(MaxNLocator(integer=True))
        if known:
            x = np.array([row["perplexity_rejected"] for row in known])
            y = np.array([row["perplexity_chosen"] for row in known])
            ends = float(min(x.min(), y.min())) / 1.1, float(max(x.max(), y.max())) * 1.1
            panels[2].plot(ends, ends, color=GREY, linewidth=1)
            panels[2].plot(x, y, ".", color=BLUE, markersize=3)
            panels[2].set(xscale="log", yscale="log", xlim=ends, ylim=ends)
            ticks = np.geomspace(*ends, 4)  # powers of ten would leave small spans without numbers
            names = [f"{tick:.3g}" for tick in ticks]
            for axis in (panels[2].xaxis, panels[2].yaxis):
                axis.set_ticks(ticks, names)
                axis.set_ticks([], minor=True)
            panels[2].set(xlabel="perplexity of rejected", ylabel="perplexity of chosen")
            likelier = float((y < x).mean())
            alt += (
                f" The base finds the chosen text likelier in {likelier:.0%} of {len(known)} pairs."
            )
        write_title(drawing, message, note=f"n = {len(rows)} description pairs.", is_mini=is_mini)
    data = [
        {
            "pair_id": row["pair_id"],
            "words_chosen": row["words_chosen"],
            "words_rejected": row["words_rejected"],
            "shared_2": row["shared_2"],
            "perplexity_chosen": row.get("perplexity_chosen") or "unknown",
            "perplexity_rejected": row.get("perplexity_rejected") or "unknown",
        }
        for row in rows
    ]
    return Figure(drawing, "pair_style", message, alt, data)
