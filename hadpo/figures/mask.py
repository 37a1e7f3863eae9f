"""The attention mask of a packed row, as a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap

from hadpo.figures._style import BLUE, INK, Figure, house_style, new_drawing, write_title
from hadpo.records import BadInput

_MESSAGE = "Chosen and rejected both see the prefix, and never each other."


def mask_picture(
    mask: Any, segments: Mapping[str, int] | None = None, *, is_mini: bool, title: str = _MESSAGE
) -> Figure:
    """Which position (row) sees which (column).

    Args:
        mask: booleans, length x length; anything that numpy takes, also a tensor.
        segments: name -> length of the parts of the row, in order: prefix, chosen, rejected.
        is_mini: mark the picture as one of the synthetic world.
        title: the message.

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
    with house_style():
        drawing = new_drawing(6.0, 5.4)
        axes = drawing.add_subplot()
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
        note = f"Blue: attention is allowed. {length} positions."
        write_title(drawing, title, note=note, is_mini=is_mini)
    data = [{"row": i, **{str(j): int(seen[i, j]) for j in range(length)}} for i in range(length)]
    names = ", ".join(f"{name} of {count}" for name, count in parts.items())
    alt = f"{title} A square of {length} positions{': ' + names if names else ''}."
    return Figure(drawing, "mask", title, alt, data)
