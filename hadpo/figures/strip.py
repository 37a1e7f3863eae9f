"""A packed row as a strip of coloured pieces, with the text that each token means."""

from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

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
