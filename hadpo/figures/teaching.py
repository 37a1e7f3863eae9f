"""A packed row as a strip of coloured pieces, with the text that each token means."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from hadpo.figures._style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    SAND,
    Figure,
    house_style,
    new_drawing,
    write_title,
)
from hadpo.records import BadInput

_PER_LINE = 24
_COLOURS = {"prefix": "#e3e3e3", "chosen": PALE, "rejected": SAND}
_HATCHES = {"prefix": "", "chosen": "", "rejected": "////"}
_EDGES = {"prefix": GREY, "chosen": BLUE, "rejected": ORANGE}


def strip_picture(
    pieces: Sequence[str], parts: Mapping[str, int], is_image: Sequence[bool], *, is_mini: bool
) -> Figure:
    """The tokens of a row in their order, line by line; image tokens are dark.

    Args:
        pieces: the text of each token; "" for image tokens.
        parts: prefix, chosen and rejected -> how many tokens each has, in this order.
        is_image: which tokens are image tokens.
        is_mini: mark the picture as one of the synthetic world.

    Raises:
        BadInput: parts that do not fill the row.
    """
    if sum(parts.values()) != len(pieces) or len(is_image) != len(pieces):
        raise BadInput(f"{len(pieces)} pieces in parts of {dict(parts)}")
    owners = [name for name, count in parts.items() for _ in range(count)]
    starts = {sum(list(parts.values())[:i]): name for i, name in enumerate(parts)}
    counts = ", ".join(f"{name} {count}" for name, count in parts.items())
    images = sum(is_image)
    title = f"One row holds both answers: {counts} tokens, {images} of them the image."
    lines = -(-len(pieces) // _PER_LINE)
    data = []
    with house_style():
        drawing = new_drawing(11.0, 0.42 * lines + 1.2)
        axes = drawing.add_subplot()
        for at, (piece, owner) in enumerate(zip(pieces, owners, strict=True)):
            line, column = divmod(at, _PER_LINE)
            face = "#4d4d4d" if is_image[at] else _COLOURS[owner]
            box = Rectangle(
                (column, line),
                0.94,
                0.8,
                facecolor=face,
                edgecolor=_EDGES[owner],
                hatch="" if is_image[at] else _HATCHES[owner],
                linewidth=0.8,
            )
            axes.add_patch(box)
            text = piece.replace("\n", "\\n").strip() or ("" if is_image[at] else "␣")
            patch = dict(facecolor=face, edgecolor="none", pad=0.6) if owner == "rejected" else None
            size = 7 if len(text) < 7 else 5.6
            axes.text(
                column + 0.47,
                line + 0.42,
                text,
                ha="center",
                va="center",
                fontsize=size,
                bbox=patch,
            )
            if at in starts:
                axes.text(column, line - 0.04, starts[at], fontsize=7, color=INK, weight="bold")
            data.append({"position": at, "part": owner, "text": piece, "image": is_image[at]})
        axes.set(xlim=(-0.05, _PER_LINE), ylim=(lines + 0.05, -0.3), xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        note = "Dark: image tokens. Grey: the words of the prompt. Blue: chosen. Hatched: rejected."
        write_title(drawing, title, note=note, is_mini=is_mini)
    words = " ".join(piece.strip() for piece in pieces if piece.strip())
    return Figure(drawing, "packed_row", title, f"{title} It reads: {words}", data)


# Matrices of shares as heat maps side by side, every cell with its number.


def heat_maps(
    matrices: Mapping[str, np.ndarray],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    is_mini: bool,
) -> Figure:
    """Matrices of the same rows and columns; darker is more, and the cells hold percentages.

    Args:
        matrices: name -> shares, rows x columns.
        rows: names of the rows.
        columns: names of the columns.
        title: the message.
        is_mini: mark the picture as one of the synthetic world.
    """
    colours = LinearSegmentedColormap.from_list("share", ["#ffffff", BLUE])
    data = []
    with house_style():
        drawing = new_drawing(9.5, 0.34 * len(rows) * len(matrices) + 2.4)
        for at, (name, matrix) in enumerate(matrices.items()):
            axes = drawing.add_subplot(len(matrices), 1, at + 1)
            top = max(float(matrix.max()), 1e-9)
            axes.imshow(matrix, cmap=colours, vmin=0, vmax=top, aspect="auto")
            axes.set_title(name)
            axes.set_yticks(range(len(rows)), rows)
            is_last = at == len(matrices) - 1
            axes.set_xticks(range(len(columns)), columns if is_last else [""] * len(columns))
            axes.grid(visible=False)
            for (i, j), value in np.ndenumerate(matrix):
                ink = "white" if value > 0.6 * top else INK
                text = f"{100 * value:.0f}" if value else ""
                axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=7.5)
                cell = {"row": rows[i], "column": columns[j], "share": round(float(value), 4)}
                data.append({"matrix": name, **cell})
        write_title(drawing, title, note="Numbers in percent; empty is zero.", is_mini=is_mini)
    alt = f"{title} Heat maps of {' and '.join(matrices)}, by {', '.join(rows)}."
    return Figure(drawing, "heat_maps", title, alt, data)


# What training costs in two ways: tokens, time and memory as bars, the first way being 100 %.

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


# What else than truth tells chosen from rejected: length, wording, what the base finds likely.


def style_figure(rows: Sequence[Mapping[str, Any]], *, is_mini: bool) -> Figure:
    """Three pictures of the pairs: words, shared pairs of words, perplexity under the base.

    Args:
        rows: of `pairs.measure_style`; without perplexities the third picture is left out.
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
