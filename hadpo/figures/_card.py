"""Cards: an image beside columns of marked text, as HTML for a notebook, as PNG for a slide."""

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from hadpo.figures._style import BLUE, GREY, INK, ORANGE, picture_html

Tone = Literal["true", "invented", "unknown", "plain"]
SIGNS: dict[Tone, str] = {"true": "✓", "invented": "✗", "unknown": "?", "plain": ""}
_COLOURS: dict[Tone, str] = {"true": BLUE, "invented": ORANGE, "unknown": GREY, "plain": INK}
_GROUNDS: dict[Tone, str] = {
    "true": "#eaf3fb",
    "invented": "#fdebdc",
    "unknown": "#f2f2f2",
    "plain": "#ffffff",
}
_SIDE = 300  # pixels of an image's longer side in a card
_COLUMN = 330
_LINE = 19
Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Line:
    """A sentence: its words, which of them are marked, and what the judge said of it."""

    words: Sequence[tuple[str, bool]]
    tone: Tone = "plain"
    label: str = ""  # shown small behind the sentence
    hover: str = ""  # shown when the pointer rests on it


@dataclass(frozen=True)
class Column:
    """A heading and its lines."""

    heading: str
    lines: Sequence[Line]
    tone: Tone = "plain"  # of the marked words


@dataclass(frozen=True, eq=False)
class Card:
    """An image with columns of text beside it; shows itself in a notebook, and saves as PNG.

    Attributes:
        name: of the file that `save` makes.
        title: one sentence above.
        image: what is shown at the left, drawn boxes included.
        columns: text beside it, from left to right.
        note: small text below.
    """

    name: str
    title: str
    image: Image.Image
    columns: Sequence[Column]
    note: str = ""
    said: str = ""  # more for the card in words: what a picture of several tells

    @property
    def alt(self) -> str:
        """The card in words."""
        parts = []
        for column in self.columns:
            said = " ".join(
                f"[{SIGNS[line.tone]}] {_text(line)}" if SIGNS[line.tone] else _text(line)
                for line in column.lines
            )
            parts.append(f"{column.heading}: {said}")
        return " ".join([self.title, *parts, self.said]).strip()

    def png(self) -> bytes:
        """The whole card as a picture; equal input gives equal bytes."""
        return _png(_draw(self))

    def save_png(self, path: Path) -> Path:
        """Write the card to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.png())
        return path

    def save(self, folder: Path, name: str = "") -> list[Path]:
        """Write the card as PNG and as a piece of HTML into `folder`."""
        stem = name or self.name
        picture = self.save_png(folder / f"{stem}.png")
        page = folder / f"{stem}.html"
        page.write_text(self._repr_html_(), encoding="utf-8", newline="\n")
        return [picture, page]

    def _repr_html_(self) -> str:
        alt = f"the image of: {self.title}" if self.columns else self.alt
        image = picture_html(_png(self.image), alt, width=self.image.width)
        columns = "".join(_column_html(column) for column in self.columns)
        note = f'<div style="font-size: 11px; color: #555">{html.escape(self.note)}</div>'
        return (
            '<div style="border: 1px solid #ddd; border-radius: 4px; padding: 10px; margin: 6px 0; '
            f'background: #fff; color: {INK}">'
            f'<div style="font-weight: bold; margin-bottom: 6px">{html.escape(self.title)}</div>'
            '<div style="display: flex; gap: 16px; flex-wrap: wrap; align-items: flex-start">'
            f"<div>{image}</div>{columns}</div>{note if self.note else ''}</div>"
        )

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png(), {"alt": self.alt}


def fit(image: Image.Image, side: int = _SIDE) -> tuple[Image.Image, float]:
    """The image, its longer side `side` pixels, and the factor; small ones stay sharp."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, way), scale


def font(size: int, *, bold: bool = False) -> Font:
    """The font that comes with matplotlib, so that pictures are equal on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def draw_label(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: str) -> None:
    """Small white text on a patch of `colour`, its upper left corner at (x, y)."""
    box = draw.textbbox((x + 2, y + 1), text, font=font(10))
    draw.rectangle((x, y, box[2] + 2, box[3] + 2), fill=colour)
    draw.text((x + 2, y + 1), text, font=font(10), fill="white")


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _text(line: Line) -> str:
    return " ".join(word for word, _ in line.words)


def _column_html(column: Column) -> str:
    lines = "".join(_line_html(line, column.tone) for line in column.lines)
    heading = html.escape(column.heading)
    return (
        f'<div style="flex: 1; min-width: 220px"><div style="font-weight: bold">{heading}</div>'
        f"{lines}</div>"
    )


def _line_html(line: Line, marked: Tone) -> str:
    words = []
    for word, is_marked in line.words:
        text = html.escape(word)
        if is_marked:
            way = "line-through" if marked == "invented" else "underline"
            text = (
                f'<span style="color: {_COLOURS[marked]}; background: {_GROUNDS[marked]}; '
                f'text-decoration: {way}; font-weight: bold">{text}</span>'
            )
        words.append(text)
    colour, ground = _COLOURS[line.tone], _GROUNDS[line.tone]
    sign = f'<b style="color: {colour}">{SIGNS[line.tone]}</b> ' if SIGNS[line.tone] else ""
    label = f' <small style="color: {colour}">({html.escape(line.label)})</small>'
    border = f"border-left: 3px solid {colour}; background: {ground}; " if sign else ""
    return (
        f'<div title="{html.escape(line.hover)}" style="{border}padding: 2px 6px; margin: 3px 0">'
        f"{sign}{' '.join(words)}{label if line.label else ''}</div>"
    )


def _draw(card: Card) -> Image.Image:
    """The card as a picture: measured first, then drawn."""
    width = 30 + card.image.width + len(card.columns) * (_COLUMN + 20)
    title = _wrap([(word, False) for word in card.title.split()], width - 20, font(14, bold=True))
    top = 12 + 20 * len(title)
    heights = [22 + sum(_height(line) for line in column.lines) for column in card.columns]
    note = _wrap([(word, False) for word in card.note.split()], width - 20, font(10))
    bottom = top + max([card.image.height, *heights]) + 8
    page = Image.new("RGB", (width, bottom + 14 * len(note) + 8), "white")
    draw = ImageDraw.Draw(page)
    for at, words in enumerate(title):
        text = " ".join(word for word, _ in words)
        draw.text((10, 8 + 20 * at), text, font=font(14, bold=True), fill=INK)
    page.paste(card.image, (10, top))
    for at, column in enumerate(card.columns):
        left = 30 + card.image.width + at * (_COLUMN + 20)
        draw.text((left, top), column.heading, font=font(12, bold=True), fill=INK)
        y = top + 22
        for line in column.lines:
            _draw_line(draw, left, y, line, column.tone)
            y += _height(line)
    for at, words in enumerate(note):
        text = " ".join(word for word, _ in words)
        draw.text((10, bottom + 14 * at), text, font=font(10), fill="#555555")
    return page


def _all_words(line: Line) -> list[tuple[str, bool]]:
    return [*line.words, *((w, False) for w in (f"({line.label})" if line.label else "").split())]


def _height(line: Line) -> int:
    return _LINE * len(_wrap(_all_words(line), _COLUMN - 26, font(12))) + 8


def _draw_line(draw: ImageDraw.ImageDraw, left: int, y: int, line: Line, marked: Tone) -> None:
    colour = _COLOURS[line.tone]
    height = _height(line)
    if SIGNS[line.tone]:
        draw.rectangle((left, y, left + _COLUMN, y + height - 5), fill=_GROUNDS[line.tone])
        draw.rectangle((left, y, left + 2, y + height - 5), fill=colour)
        draw.text((left + 6, y + 1), SIGNS[line.tone], font=font(12, bold=True), fill=colour)
    normal, space = font(12), font(12).getlength(" ")
    for words in _wrap(_all_words(line), _COLUMN - 26, normal):
        x = left + 22.0
        for word, is_marked in words:
            length = normal.getlength(word)
            if is_marked:
                ground = (x - 1, y + 1, x + length + 1, y + 16)
                draw.rectangle(ground, fill=_GROUNDS[marked])
                bar = y + 9 if marked == "invented" else y + 16
                draw.line((x, bar, x + length, bar), fill=_COLOURS[marked], width=1)
            ink = _COLOURS[marked] if is_marked else INK
            draw.text((x, y + 1), word, font=normal, fill=ink)
            x += length + space
        y += _LINE


def _wrap(
    words: Sequence[tuple[str, bool]], width: float, face: Font
) -> list[list[tuple[str, bool]]]:
    """Words in lines no wider than `width` pixels; a word that is wider stands alone."""
    lines: list[list[tuple[str, bool]]] = [[]]
    used, space = 0.0, face.getlength(" ")
    for word, is_marked in words:
        length = face.getlength(word)
        if lines[-1] and used + length > width:
            lines.append([])
            used = 0.0
        lines[-1].append((word, is_marked))
        used += length + space
    return [line for line in lines if line]
