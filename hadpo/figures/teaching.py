"""Pictures for teaching: a packed row and its mask, where inventions come from, what pairs cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from hadpo.figures._style import (
    BLUE,
    FEW,
    GREY,
    INK,
    ORANGE,
    PALE,
    SAND,
    Figure,
    draw_shares,
    finish,
    name_rows,
    new_drawing,
    panels,
)
from hadpo.records import BadInput

# A packed row as a strip of coloured pieces, with the text that each token means.

_PER_LINE = 24
_STYLES = {  # of a part: ground, edge, hatch
    "prefix": ("#e3e3e3", GREY, ""),
    "chosen": (PALE, BLUE, ""),
    "rejected": (SAND, ORANGE, "////"),
}


def strip_picture(
    pieces: Sequence[str], parts: Mapping[str, int], is_image: Sequence[bool]
) -> Figure:
    """The tokens of a row in their order, line by line; image tokens are dark.

    `pieces` are their texts, "" for image tokens; `parts` says how many of them, in this order, are
    the prefix, the chosen and the rejected answer.

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
    with panels(11.0, 0.42 * lines + 1.2) as (drawing, axes):
        for at, (piece, owner) in enumerate(zip(pieces, owners, strict=True)):
            line, column = divmod(at, _PER_LINE)
            face, edge, hatch = _STYLES[owner]
            if is_image[at]:
                face, hatch = "#4d4d4d", ""
            style = {"facecolor": face, "edgecolor": edge, "hatch": hatch, "linewidth": 0.8}
            axes.add_patch(Rectangle((column, line), 0.94, 0.8, **style))
            text = piece.replace("\n", "\\n").strip() or ("" if is_image[at] else "␣")
            small = {"fontsize": 7 if len(text) < 7 else 5.6, "ha": "center", "va": "center"}
            if owner == "rejected":  # no hatch behind a word
                small["bbox"] = {"facecolor": face, "edgecolor": "none", "pad": 0.6}
            axes.text(column + 0.47, line + 0.42, text, **small)
            if at in starts:
                axes.text(column, line - 0.04, starts[at], fontsize=7, color=INK, weight="bold")
            data.append({"position": at, "part": owner, "text": piece, "image": is_image[at]})
        axes.set(xlim=(-0.05, _PER_LINE), ylim=(lines + 0.05, -0.3), xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    note = "Dark: image tokens. Grey: the words of the prompt. Blue: chosen. Hatched: rejected."
    alt = f"It reads: {' '.join(piece.strip() for piece in pieces if piece.strip())}"
    return finish(drawing, "packed_row", title, note=note, alt=alt, data=data)


# Matrices of shares as heat maps side by side, every cell with its number.


def heat_maps(
    matrices: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> Figure:
    """Matrices of shares, rows x columns; darker is more, and a cell says of how many.

    `counts` holds what each share is of, by the same names; a cell of fewer than `FEW` is grey.
    """
    data = []
    size = (9.5, 0.48 * len(rows) * len(matrices) + 2.4, len(matrices))
    with panels(*size, squeeze=False, sharex=True) as (drawing, array):
        for (name, matrix), axes in zip(matrices.items(), array[:, 0], strict=True):
            draw_shares(axes, matrix, counts[name])
            axes.set_title(name)
            axes.set_yticks(range(len(rows)), rows)
            axes.set_xticks(range(len(columns)), columns)
            axes.grid(visible=False)
            for (i, j), value in np.ndenumerate(matrix):
                cell = {"matrix": name, "row": rows[i], "column": columns[j]}
                data.append(cell | {"share": round(float(value), 4), "n": int(counts[name][i, j])})
    note = f"Percent, and below it of how many pictures; grey: fewer than {FEW}, too few to tell."
    alt = f"Heat maps of {' and '.join(matrices)}, by {', '.join(rows)}."
    return finish(drawing, "heat_maps", title, note=note, alt=alt, data=data)


# What training costs in two ways: tokens, time and memory as bars, the first way being 100 %.

_MEASURES = (
    ("tokens", "tokens read", 1, "{:,.0f}"),
    ("seconds", "time, forward and backward", 1e3, "{:,.1f} ms"),
    ("activation_bytes", "memory for the backward pass", 1e-6, "{:,.1f} MB"),
)


def cost_bars(costs: Sequence[Mapping[str, Any]]) -> Figure:
    """Bars of each measure, and what is saved.

    Args:
        costs: way, tokens, seconds and activation_bytes of each way; the first is the measure.
    """
    first, last = costs[0], costs[-1]
    tokens, seconds, memory = (f"{1 - last[key] / first[key]:.0%}" for key, *_ in _MEASURES)
    title = (
        f"{str(last['way']).capitalize()} saves {tokens} of the tokens, {seconds} of the time and "
        f"{memory} of the backward pass's memory."
    )
    with panels(9.0, 2.6, 1, len(_MEASURES), sharey=True) as (drawing, array):
        for axes, (key, name, factor, form) in zip(array, _MEASURES, strict=True):
            values = [cost[key] * factor for cost in costs]
            colours = [GREY, *[BLUE] * (len(costs) - 1)]
            bars = axes.barh(range(len(costs)), values, color=colours, height=0.55)
            axes.bar_label(bars, fmt=form, label_type="center", color="white")
            name_rows(axes, [cost["way"] for cost in costs])
            axes.set(title=name, xticks=[], xlim=(0, None))
            axes.grid(visible=False)
    note = "Measured in this run on this machine; the time is a median."
    return finish(drawing, "cost", title, note=note, alt="Bars for each of them.", data=costs)


# What else than truth tells chosen from rejected: length, wording, what the base finds likely.


def style_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Three pictures of the pairs: words, shared pairs of words, perplexity under the base.

    Args:
        rows: of `pairs.measure_style`; without perplexities the third picture is left out.
    """
    if not rows:  # pairs of questions alone have no style to measure
        message = "No description pairs, so there is no style to compare."
        return finish(new_drawing(6.2, 1.0), "pair_style", message, note="n = 0.", alt="")
    longer = np.array([row["words_chosen"] - row["words_rejected"] for row in rows])
    shared = np.array([row["shared_2"] for row in rows])
    known = [row for row in rows if row.get("perplexity_chosen")]
    more = "more" if longer.mean() >= 0 else "fewer"
    message = (
        f"Chosen texts have {abs(longer.mean()):.1f} words {more} and share {shared.mean():.0%} of "
        "the pairs of words."
    )
    alt = "Histograms of both."
    count = 3 if known else 2
    with panels(9.0 if known else 6.2, 3.0, 1, count) as (drawing, array):
        array[0].hist(longer, bins=21, color=BLUE)
        array[0].axvline(0, color=GREY, linewidth=1)
        array[0].set(xlabel="words, chosen - rejected", ylabel="pairs")
        array[1].hist(shared, bins=20, range=(0, 1), color=BLUE)
        array[1].set(xlabel="share of the rejected text's word pairs", ylabel="pairs")
        for axes in array[:2]:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if known:
            x, y = (
                np.array([row[f"perplexity_{name}"] for row in known])
                for name in ("rejected", "chosen")
            )
            ends = float(min(x.min(), y.min())) / 1.1, float(max(x.max(), y.max())) * 1.1
            axes = array[2]
            axes.plot(ends, ends, color=GREY, linewidth=1)
            axes.plot(x, y, ".", color=BLUE, markersize=3)
            axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
            ticks = np.geomspace(*ends, 4)  # powers of ten would leave small spans without numbers
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_ticks(ticks, [f"{tick:.3g}" for tick in ticks])
                axis.set_ticks([], minor=True)
            axes.set(xlabel="perplexity of rejected", ylabel="perplexity of chosen")
            share = float((y < x).mean())
            alt += f" The base finds the chosen text likelier in {share:.0%} of {len(known)} pairs."
    data = [
        {name: row[name] for name in ("pair_id", "words_chosen", "words_rejected", "shared_2")}
        | {
            name: row.get(name) or "unknown"
            for name in ("perplexity_chosen", "perplexity_rejected")
        }
        for row in rows
    ]
    note = f"n = {len(rows)} description pairs."
    return finish(drawing, "pair_style", message, note=note, alt=alt, data=data)


# The attention mask of a packed row.

_MESSAGE = "Chosen and rejected both see the prefix, and never each other."


def mask_picture(
    mask: Any, segments: Mapping[str, int] | None = None, *, title: str = _MESSAGE
) -> Figure:
    """Which position (row) sees which (column).

    The mask is length x length; `segments` are the parts of the row, in order, and their lengths.

    Raises:
        BadInput: a mask that is not square, or segments that do not fill it.
    """
    seen = np.asarray(mask).astype(bool).squeeze()
    if seen.ndim != 2 or seen.shape[0] != seen.shape[1]:
        raise BadInput(f"a mask of shape {np.shape(mask)}; expected length x length")
    length = len(seen)
    parts = dict(segments or {})
    if parts and sum(parts.values()) > length:
        raise BadInput(f"segments of {sum(parts.values())} positions in a mask of {length}")
    with panels(6.0, 5.4) as (drawing, axes):
        colours = ListedColormap(["#f4f4f4", BLUE])
        axes.imshow(seen, cmap=colours, vmin=0, vmax=1, interpolation="none", aspect="equal")
        start = 0
        for name, count in parts.items():
            middle = start + count / 2 - 0.5
            axes.text(middle, -1, name, ha="center", va="bottom")
            axes.text(-1, middle, name, ha="right", va="center", rotation=90)
            start += count
            if start < length:
                axes.axhline(start - 0.5, color=INK, linewidth=0.8)
                axes.axvline(start - 0.5, color=INK, linewidth=0.8)
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.set_xlabel("is seen: column")
        axes.set_ylabel("sees: row", labelpad=22 if parts else 4)
    data = [{"row": i, **{str(j): int(seen[i, j]) for j in range(length)}} for i in range(length)]
    names = ", ".join(f"{name} of {count}" for name, count in parts.items())
    alt = f"A square of {length} positions{': ' + names if names else ''}."
    note = f"Blue: attention is allowed. {length} positions."
    return finish(drawing, "mask", title, note=note, alt=alt, data=data)
