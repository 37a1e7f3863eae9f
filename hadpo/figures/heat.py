"""Matrices of shares as heat maps side by side, every cell with its number."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from hadpo.figures._style import BLUE, INK, Figure, house_style, new_drawing, write_title


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
