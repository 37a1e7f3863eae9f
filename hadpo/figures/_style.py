"""House style, and what every function here returns: a figure."""

import base64
import contextlib
import csv
import html
import io
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing

from hadpo.tables import MINI
from hadpo.text import csv_cell

GREY = "#8c8c8c"  # base
BLUE = "#0b62a8"  # tuned
PALE = "#9dc3e6"  # the tuned blue, for parts of it
ORANGE = "#d55e00"  # invented; always with a sign or a hatch, never colour alone
SAND = "#f6c79b"
INK = "#222222"
FAINT = "#555555"  # notes
MODEL_COLOURS = {"base": GREY, "merged": BLUE, "base_cut": "#c9c9c9", "sft": PALE}
DPI = 150
FEW = 20  # pictures: a share of fewer is not coloured
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b0b0b0",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "hadpo",
    "svg.fonttype": "path",
}


def house_style() -> Any:
    """A context in which matplotlib draws in the house style, whatever the user has set."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"})


def new_drawing(width: float = 6.0, height: float = 3.5) -> Drawing:
    """An empty drawing of `width` x `height` inches, tied to no window and no global state."""
    drawing = Drawing(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


@contextlib.contextmanager
def panels(
    width: float = 6.0, height: float = 3.5, rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Drawing, Any]]:
    """A drawing in the house style, and its axes: one, or an array, as `Figure.subplots` has it."""
    with house_style():
        drawing = new_drawing(width, height)
        yield drawing, drawing.subplots(rows, columns, **options)


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture with its message, its description in words and its data.

    Attributes:
        drawing: what matplotlib drew.
        name: of the files that `save` makes.
        title: the message, one sentence, written above the picture.
        alt: the picture in words, for those who do not see it.
        data: the plotted numbers, one mapping per row.
        note: small text below the picture.
    """

    drawing: Drawing
    name: str
    title: str
    alt: str
    data: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    note: str = ""

    def as_mini(self) -> Self:
        """This picture, with the mark of the synthetic world below it."""
        note = with_mini(self.note)
        _write_note(self.drawing, note)
        return replace(self, note=note)

    def png(self) -> bytes:
        """The picture at 150 dots per inch; no time and no version in the bytes."""
        return self._bytes("png", {"Software": None, "Title": self.title, "Description": self.alt})

    def svg(self) -> bytes:
        """The picture as vectors; equal input gives equal bytes."""
        return self._bytes("svg", {"Date": None, "Title": self.title, "Description": self.alt})

    def csv(self) -> str:
        """The plotted numbers; no rows are an empty file."""
        names = list(dict.fromkeys(name for row in self.data for name in row))
        file = io.StringIO()
        if names:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            cells = ([row.get(name) for name in names] for row in self.data)
            writer.writerows(["-" if v is None else csv_cell(v) for v in row] for row in cells)
        return file.getvalue()

    def save(self, folder: Path, name: str = "") -> list[Path]:
        """Write png, svg and csv into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = name or self.name
        contents = {"png": self.png(), "svg": self.svg(), "csv": self.csv().encode()}
        for form, content in contents.items():
            (folder / f"{stem}.{form}").write_bytes(content)
        return [folder / f"{stem}.{form}" for form in contents]

    def _bytes(self, form: str, metadata: Mapping[str, str | None]) -> bytes:
        file = io.BytesIO()
        with house_style():
            self.drawing.savefig(file, format=form, dpi=DPI, metadata=dict(metadata))
        return file.getvalue()

    def _repr_html_(self) -> str:
        inches = self.drawing.get_figwidth()
        return picture_html(self.png(), self.alt, width=round(96 * inches))  # as large as on paper

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png(), {"alt": self.alt}


def picture_html(png: bytes, alt: str, *, width: int | None = None) -> str:
    """An image with its words, inside the page: no file and no address is needed to show it."""
    data = base64.b64encode(png).decode()
    size = f"width: {width}px; max-width: 100%" if width else "max-width: 100%"
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" style="{size}">'


def finish(
    drawing: Drawing,
    name: str,
    title: str,
    *,
    alt: str,
    note: str = "",
    data: Sequence[Mapping[str, Any]] = (),
    is_mini: bool = False,
) -> Figure:
    """The drawing as a `Figure`, with its title above and its note, small, below.

    `alt` is what words say of the picture behind its title.
    """
    note = with_mini(note) if is_mini else note
    with house_style():
        lines = textwrap.fill(title.replace(" %", "\xa0%"), int(drawing.get_figwidth() * 11.4))
        drawing.suptitle(lines, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        _write_note(drawing, note)
    return Figure(drawing, name, title, f"{title} {alt}".strip(), data, note)


def with_mini(note: str) -> str:
    """A note that ends with the mark of the synthetic world."""
    return note if MINI in note else f"{note} {MINI}.".strip()


def _write_note(drawing: Drawing, note: str) -> None:
    if note:
        text = textwrap.fill(note, int(drawing.get_figwidth() * 18.5))
        drawing.supxlabel(text, x=0.01, ha="left", fontsize=7, color=FAINT)


def name_rows(
    axes: Axes, labels: Sequence[str], *, rows: Sequence[float] = (), above: float = 0.5
) -> None:
    """Name horizontal bars, which go from top to bottom: at 0, 1, ... or at `rows`."""
    places = rows or range(len(labels))
    axes.set_yticks(places, labels)
    axes.set_ylim(places[-1] + 0.5, -above)
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.grid(axis="y", visible=False)


def text_beside(axes: Axes, row: float, text: str, **style: Any) -> None:
    """A small text to the right of the axes, at the height of a row."""
    style = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7.5} | style
    axes.text(1.02, row, text, **style)


def draw_shares(axes: Axes, shares: np.ndarray, counts: np.ndarray, *, size: float = 8.5) -> None:
    """A matrix of shares, darker is more, each cell with its percent and of how many (`counts`).

    A cell of fewer than `FEW` is grey, one of none has no text. `size` is that of the percent.
    """
    few = counts < FEW
    shown = np.ma.masked_array(shares, few)
    top = max(float(shown.max()), 1e-9) if shown.count() else 1.0
    colours = LinearSegmentedColormap.from_list("share", ["#ffffff", BLUE])
    axes.imshow(shown, cmap=colours, vmin=0, vmax=top, aspect="auto")
    axes.set_facecolor("#d4d4d4")
    for row, column in np.argwhere(counts > 0):
        is_dark = shares[row, column] > 0.6 * top and not few[row, column]
        style: Any = {"ha": "center", "va": "center", "color": "white" if is_dark else INK}
        axes.text(column, row - 0.14, f"{100 * shares[row, column]:.0f}", fontsize=size, **style)
        axes.text(
            column, row + 0.28, f"of {int(counts[row, column])}", fontsize=0.65 * size, **style
        )


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Names of lines at the right edge, each `(end, text, colour)` near where its line ends.

    `gap` is the share of the axes' height that a text needs.
    """
    low, high = axes.get_ylim()
    heights = spread([(end - low) / (high - low) for end, *_ in ends], gap)
    above = max([0.0, *(height - 0.95 for height in heights)])  # the title is there
    for (_, text, colour), height in zip(ends, heights, strict=True):
        style = {"color": colour, "fontsize": 7.5, "va": "center"}
        axes.annotate(text, (1.02, height - above), xycoords="axes fraction", **style)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """`values` moved apart until neighbours are at least `gap` apart; for labels beside curves."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = [float(v) for v in values]
    for _ in range(50):
        for lower, upper in itertools.pairwise(order):
            lack = gap - (placed[upper] - placed[lower])
            if lack > 1e-9:
                placed[lower] -= lack / 2
                placed[upper] += lack / 2
    return placed


def percent(value: float | None) -> str:
    """A fraction as a reader sees it in a picture; `-` for None."""
    return "-" if value is None else f"{100 * value:.1f} %"
