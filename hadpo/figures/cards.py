"""Cards: an image beside columns of marked text, as HTML for a notebook, as PNG for a slide."""

import difflib
import functools
import html
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import jinja2
import markupsafe
import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing
from matplotlib.offsetbox import HPacker, OffsetBox, OffsetImage, PaddedBox, TextArea, VPacker
from PIL import Image, ImageDraw, ImageFont

from hadpo.figures._style import (
    BLUE,
    DPI,
    GREY,
    INK,
    ORANGE,
    Figure,
    house_style,
    picture_html,
    with_mini,
)
from hadpo.images import read_image
from hadpo.records import BadInput, Evidence, Instruction, Pair, Question, Region, Verdict
from hadpo.tables import model_title

Tone = Literal["true", "invented", "unknown", "plain"]
SIGNS: dict[Tone, str] = {"true": "✓", "invented": "✗", "unknown": "?", "plain": ""}
_COLOURS: dict[Tone, str] = {"true": BLUE, "invented": ORANGE, "unknown": GREY, "plain": INK}
_INKS = _COLOURS | {"invented": "#a34700", "unknown": "#5a5a5a"}  # of small text: dark enough
_GROUNDS = {"true": "#eaf3fb", "invented": "#fdebdc", "unknown": "#f2f2f2", "plain": "#ffffff"}
_SIDE = 300  # pixels of an image's longer side in a card
_COLUMN = 430  # pixels of a column of a PNG
_CHARACTERS = 42  # of a line in it


@dataclass(frozen=True)
class Line:
    """A sentence: its words, which of them are marked, and what the judge said of it."""

    words: Sequence[tuple[str, bool]]
    tone: Tone = "plain"
    label: str = ""  # shown small behind the sentence
    hover: str = ""  # shown when the pointer rests on it

    @property
    def text(self) -> str:
        """The words, unmarked."""
        return " ".join(word for word, _ in self.words)


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
        captions: what a picture of several pictures says of each.
    """

    name: str
    title: str
    image: Image.Image
    columns: Sequence[Column] = ()
    note: str = ""
    captions: Sequence[str] = ()

    def as_mini(self) -> Self:
        """This card, with the mark of the synthetic world below it."""
        return replace(self, note=with_mini(self.note))

    @property
    def alt(self) -> str:
        """The card in words."""
        parts = []
        for column in self.columns:
            texts = [f"[{SIGNS[x.tone]}] " * (x.tone != "plain") + x.text for x in column.lines]
            parts.append(f"{column.heading}: {' '.join(texts)}")
        return " ".join([self.title, *parts, "; ".join(self.captions)]).strip()

    def png(self) -> bytes:
        """The whole card as a picture; equal input gives equal bytes."""
        file = io.BytesIO()
        with house_style():
            _draw(self).savefig(file, format="png", dpi=DPI, metadata={"Software": None})
        return file.getvalue()

    def save(self, folder: Path, name: str = "") -> list[Path]:
        """Write the card as PNG and as a piece of HTML into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        picture, page = (folder / f"{name or self.name}.{form}" for form in ("png", "html"))
        picture.write_bytes(self.png())
        page.write_text(self._repr_html_(), encoding="utf-8", newline="\n")
        return [picture, page]

    def _repr_html_(self) -> str:
        alt = f"the image of: {self.title}" if self.columns else self.alt
        file = io.BytesIO()
        self.image.save(file, format="PNG")
        image = markupsafe.Markup(picture_html(file.getvalue(), alt, width=self.image.width))
        return _template().render(card=self, image=image)

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png(), {"alt": self.alt}


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures in the order of reading; `missing` says what could not be drawn, and why."""

    pictures: Sequence[Figure | Card]
    missing: Sequence[str] = ()

    def as_mini(self) -> "Pictures":
        """These pictures, each with the mark of the synthetic world."""
        return Pictures([picture.as_mini() for picture in self.pictures], self.missing)

    def save(self, folder: Path) -> list[Path]:
        """Write every picture into `folder`."""
        return [path for picture in self.pictures for path in picture.save(folder)]

    def _repr_html_(self) -> str:
        notes = (f"<p><small>not drawn: {html.escape(note)}</small></p>" for note in self.missing)
        return "".join([*(picture._repr_html_() for picture in self.pictures), *notes])


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True)
    environment.globals |= {"signs": SIGNS, "colours": _COLOURS, "inks": _INKS, "grounds": _GROUNDS}
    return environment.get_template("card.html.j2", globals={"ink": INK})


def _draw(card: Card) -> Drawing:
    """The card as matplotlib packs it: the title, the image beside the columns, the note."""
    drawing = Drawing(dpi=DPI)
    renderer = FigureCanvasAgg(drawing).get_renderer()
    image = OffsetImage(np.asarray(card.image), zoom=72 / DPI, interpolation="nearest")
    row = HPacker(children=[image, *map(_column_box, card.columns)], align="top", pad=0, sep=8)
    wide = max(_CHARACTERS, card.image.width // 10 + _CHARACTERS * len(card.columns))
    title = textwrap.fill(card.title, wide)
    parts = [TextArea(title, textprops={"fontsize": 9, "fontweight": "bold"}), row]
    if card.note:
        note = textwrap.fill(card.note, round(1.4 * wide))
        parts.append(TextArea(note, textprops={"fontsize": 6.5, "color": "#555555"}))
    page = VPacker(children=parts, align="left", pad=6, sep=5)
    page.set_figure(drawing)
    box = page.get_bbox(renderer)
    drawing.set_size_inches(box.width / DPI, box.height / DPI)
    page.set_offset((-box.x0, -box.y0))
    drawing.add_artist(page)
    return drawing


def _column_box(column: Column) -> OffsetBox:
    heading = TextArea(column.heading, textprops={"fontsize": 8, "fontweight": "bold"})
    boxes = [heading, *(_line_box(line, column.tone) for line in column.lines)]
    return VPacker(children=boxes, width=_COLUMN, align="left", pad=0, sep=3)


def _line_box(line: Line, tone: Tone) -> OffsetBox:
    """A sentence in lines of `_CHARACTERS`, on the ground of its tone."""
    words = [*line.words, *((word, False) for word in f"({line.label})".split() if line.label)]
    rows: list[list[Artist]] = [[]]
    used = 0
    if SIGNS[line.tone]:
        style = {"color": _COLOURS[line.tone], "fontsize": 8}
        rows[0].append(TextArea(SIGNS[line.tone], textprops=style))
        used = 2
    for word, is_marked in words:
        if rows[-1] and used + len(word) > _CHARACTERS:
            rows.append([])
            used = 0
        style: dict[str, Any] = {"color": INK, "fontsize": 8}
        used += len(word) + 1
        if is_marked:  # struck out or underlined by combining signs
            sign = "\u0336" if tone == "invented" else "\u0332"
            word = "".join(letter + sign for letter in word)
            ground = {"facecolor": _GROUNDS[tone], "edgecolor": "none", "pad": 0.5}
            style |= {"color": _COLOURS[tone], "bbox": ground}
        rows[-1].append(TextArea(word, textprops=style))
    lines = (HPacker(children=row, align="baseline", pad=0, sep=2.4) for row in rows)
    text = VPacker(children=list(lines), align="left", pad=0, sep=1.5)
    frame = {"facecolor": _GROUNDS[line.tone], "edgecolor": _COLOURS[line.tone], "linewidth": 0.5}
    return PaddedBox(text, pad=2, draw_frame=bool(SIGNS[line.tone]), patch_attrs=frame)


def fit(image: Image.Image, side: int = _SIDE) -> tuple[Image.Image, float]:
    """The image, its longer side `side` pixels, and the factor; small ones stay sharp."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, way), scale


def _font() -> ImageFont.FreeTypeFont:
    """A font of matplotlib's, so that pictures are equal on every machine; 6 pixels a letter."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
    return ImageFont.truetype(path, 10)


_KINDS = {"absent": "absent object", "attribute": "wrong attribute"}
_TONES: dict[str, Tone] = {"correct": "true", "hallucination": "invented"}


def plain(text: str) -> list[tuple[str, bool]]:
    """The words of a text, none of them marked."""
    return [(word, False) for word in text.split()]


def hallucination_card(
    image: str | Path,
    verdicts: Iterable[Verdict],
    *,
    regions: Sequence[Region] = (),
    models: Sequence[str] = ("base", "merged"),
    most_regions: int = 5,
    title: str = "",
) -> Card:
    """An image with its boxes, and each model's sentences, marked true (✓) or wrong (✗).

    Args:
        image: the picture's file.
        verdicts: the rulings on one answer of each model, sentence by sentence.
        regions: known boxes; the first are drawn, with their numbers, the others counted.
        models: which models' columns, in this order; those without verdicts are left out.
        most_regions: boxes to draw.
        title: the message; empty: how many sentences are wrong.

    Raises:
        BadInput: no readable image, or no verdict of these models.
    """
    ruled: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        ruled.setdefault(verdict.model, []).append(verdict)
    shown = [model for model in models if ruled.get(model)]
    if not shown:
        raise BadInput(f"no verdicts of {', '.join(models)}; there are those of {sorted(ruled)}")
    picture, note = with_boxes(_read(image), regions, most_regions)
    columns = [verdict_column(model_title(model), ruled[model]) for model in shown]
    signs = (
        "✓ true; ✗ wrong: an absent object, a wrong colour, place or the like; ? not to be judged."
    )
    name = f"card_{ruled[shown[0]][0].case_id}"
    message = title or "; ".join(column.heading for column in columns).capitalize() + "."
    return Card(name, message, picture, columns, f"{signs} {note}".strip())


def verdict_column(name: str, verdicts: Sequence[Verdict]) -> Column:
    """Sentences with their signs and reasons, one line each, and how many are wrong."""
    lines = []
    for verdict in verdicts:
        is_wrong, label = verdict.label == "hallucination", ""
        if is_wrong or verdict.label == "unparsed":
            kind = _KINDS.get(verdict.kind, verdict.kind)
            label = kind if is_wrong else "the judge's reply could not be read"
        hover = ": ".join(filter(None, (verdict.kind or verdict.label, verdict.reason)))
        tone = _TONES.get(verdict.label, "unknown")
        lines.append(Line(plain(verdict.claim), tone, label, hover))
    wrong = sum(line.tone == "invented" for line in lines)
    return Column(f"{name}: {wrong} of {len(lines)} wrong", lines)


def _counted(marked: Sequence[object]) -> str:
    return f"{len(marked)} word{'s' * (len(marked) != 1)}"


def pair_card(pair: Pair | Instruction, *, title: str = "") -> Card:
    """A preference pair: the image, the chosen and the rejected answer, with what differs marked.

    An instruction to finetune on has one answer, and nothing is marked in it.

    Raises:
        BadInput: no readable image.
    """
    picture, _ = fit(read_image(pair.image))
    if isinstance(pair, Instruction):
        words = plain(pair.answer)
        columns = [Column(f"answer, {_counted(words)}", [Line(words)])]
        name, kind = f"instruction_{pair.instruction_id}", f"instruction {pair.instruction_id}"
    else:
        chosen, rejected = differing_words(pair)
        columns = [
            Column(f"chosen ✓, {_counted(chosen)}", [Line(chosen)], "true"),
            Column(f"rejected ✗, {_counted(rejected)}", [Line(rejected)], "invented"),
        ]
        name, kind = f"pair_{pair.pair_id}", f"pair {pair.pair_id}"
    note = f"{pair.kind} {kind} from {pair.source}, image {pair.image_id}."
    message = title or pair.instruction or "(a caption: the trainer draws the request)"
    return Card(name, message, picture, columns, note)


def differing_words(pair: Pair) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """The words of the chosen and the rejected text, each with whether the other lacks it there."""
    chosen, rejected = pair.chosen.split(), pair.rejected.split()
    same_chosen, same_rejected = set(), set()
    matcher = difflib.SequenceMatcher(a=chosen, b=rejected, autojunk=False)
    for a, b, size in matcher.get_matching_blocks():
        same_chosen |= set(range(a, a + size))
        same_rejected |= set(range(b, b + size))
    return (
        [(word, at not in same_chosen) for at, word in enumerate(chosen)],
        [(word, at not in same_rejected) for at, word in enumerate(rejected)],
    )


def text_card(image: str | Path, columns: Sequence[Column], *, title: str, note: str = "") -> Card:
    """An image beside columns of text of any kind.

    Raises:
        BadInput: no readable image.
    """
    picture, _ = fit(_read(image))
    return Card("text", title, picture, columns, note)


def best_and_worst(
    verdicts: Iterable[Verdict],
    evidence: Mapping[str, Evidence],
    *,
    count: int = 2,
    median: bool = False,
    models: tuple[str, str] = ("base", "merged"),
) -> Pictures:
    """Cards of the answers that improved most and of those that got worse most, in this order.

    Args:
        verdicts: of all answers and models.
        evidence: what is known of the image, by the id of the case (the question) it belongs to.
        count: cards of each sort; an answer is shown once.
        median: put the answer in the middle of the order between them, and name the three.
        models: before and after.

    Returns:
        The cards; none, with the reason, if no answer was judged for both models.
    """
    ruled: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.model in models and verdict.case_id in evidence:
            ruled.setdefault(verdict.case_id, []).append(verdict)
    change: dict[str, int] = {}
    for case_id, found in ruled.items():
        if {v.model for v in found} == set(models):
            wrong = [v.model for v in found if v.label == "hallucination"]
            change[case_id] = wrong.count(models[1]) - wrong.count(models[0])
    if not change:
        return Pictures((), [f"No description was judged for both {models[0]} and {models[1]}."])
    order = sorted(change, key=lambda case_id: (change[case_id], case_id))
    middle = [order[len(order) // 2]] if median else []
    shown = dict.fromkeys([*order[:count], *middle, *reversed(order[-count:])])
    places = {order[-1]: "worst", **dict.fromkeys(middle, "median"), order[0]: "best"}
    cards = []
    for case_id in shown:
        known, by = evidence[case_id], change[case_id]
        title = "as many wrong sentences after tuning as before"
        if by:
            way, noun = "fewer" if by < 0 else "more", "sentence" if abs(by) == 1 else "sentences"
            title = f"{abs(by)} {way} wrong {noun} after tuning"
        title = f"Image {known.image_id}: {title}"
        if median and case_id in places:
            title = f"The {places[case_id]} of {len(order)} descriptions. {title}"
        regions, own = known.regions, ruled[case_id]
        card = hallucination_card(known.image, own, regions=regions, models=models, title=title)
        cards.append(card)
    return Pictures(cards)


def contact_sheet(
    images: Sequence[str | Path],
    captions: Sequence[str] = (),
    *,
    columns: int = 6,
    side: int = 150,
    title: str = "",
) -> Card:
    """Small pictures in a grid, each with the beginning of a text below.

    Raises:
        BadInput: no images, an image that cannot be read, or captions that do not match them.
    """
    if not images or (captions and len(captions) != len(images)):
        raise BadInput(f"a contact sheet of {len(images)} images and {len(captions)} captions")
    foot = 34 if captions else 0
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + 10), rows * (side + foot + 10)), "white")
    draw = ImageDraw.Draw(sheet)
    for at, path in enumerate(images):
        left, top = (at % columns) * (side + 10), (at // columns) * (side + foot + 10)
        picture, _ = fit(_read(path), side)
        sheet.paste(picture, (left + (side - picture.width) // 2, top))
        if captions:
            lines = textwrap.wrap(captions[at], side // 6, max_lines=2, placeholder="…")
            draw.text((left, top + side + 3), "\n".join(lines), font=_font(), fill=INK)
    return Card("contact_sheet", title or f"{len(images)} images", sheet, captions=captions)


def _read(path: str | Path) -> Image.Image:
    """The picture of a file; a white one if a question has none."""
    return read_image(path) if str(path) else Image.new("RGB", (_SIDE, _SIDE), "white")


def with_boxes(image: Image.Image, regions: Sequence[Region], most: int) -> tuple[Image.Image, str]:
    """The image, enlarged or reduced, with numbered boxes, and what the numbers mean.

    Only what is somewhere has a box: no empty place, and no statement about the whole image.
    """
    picture, scale = fit(image)
    draw = ImageDraw.Draw(picture)
    whole = 0.95 * image.width * image.height
    regions = [
        r
        for r in regions
        if r.width * r.height < whole and not r.phrase.rstrip(". ").endswith("empty")
    ]
    shown = regions[:most]
    for at, region in enumerate(shown, start=1):
        x, y = region.x * scale, region.y * scale
        end = ((region.x + region.width) * scale - 1, (region.y + region.height) * scale - 1)
        draw.rectangle((x, y, max(x + 1, end[0]), max(y + 1, end[1])), outline=BLUE, width=2)
        place = (max(0, x) + 2, max(0, y) + 1)
        label = draw.textbbox(place, str(at), font=_font())
        draw.rectangle((place[0] - 2, place[1] - 1, label[2] + 2, label[3] + 2), fill=BLUE)
        draw.text(place, str(at), font=_font(), fill="white")
    texts = [f"{at} {region.phrase.strip()}" for at, region in enumerate(shown, start=1)]
    if len(regions) > len(shown):
        texts.append(f"{len(regions) - len(shown)} more regions")
    return picture, f"Boxes: {'; '.join(texts)}." if texts else ""


# A few records as a person wants to see them before anything is spent on all of them.


def pair_cards(pairs: Sequence[Pair | Instruction], *, notes: Sequence[str] = ()) -> Pictures:
    """One card a pair; `notes` are put in front of the instructions, one each."""
    titles = [f"{note}: {p.instruction}" for note, p in zip(notes, pairs, strict=False)]
    titles += [""] * (len(pairs) - len(titles))
    return Pictures([pair_card(p, title=t) for p, t in zip(pairs, titles, strict=True)])


def evidence_cards(evidence: Sequence[Evidence], *, most_regions: int = 5) -> Pictures:
    """Images with what is known about them: numbered boxes, their phrases, and the facts."""
    cards = []
    for known in evidence:
        picture, note = with_boxes(_read(known.image), known.regions, most_regions)
        note = " ".join([note, *known.facts])
        name = f"evidence_{known.image_id}"
        title = f"Image {known.image_id}: {len(known.regions)} regions, {len(known.facts)} facts"
        cards.append(Card(name, title, picture, note=note))
    return Pictures(cards)


def question_sheet(questions: Sequence[Question]) -> Card:
    """Images with the questions that are asked about them, and the right answers where known."""
    if not questions:  # a recipe that evaluates nothing still has its page
        blank = Image.new("RGB", (480, 24), "white")
        return Card("question_sheet", "No questions", blank)
    captions = [f"{q.text} {f'({q.label})' if q.label else ''}".strip() for q in questions]
    title = f"{len(questions)} questions, with the right answers if there are any"
    return contact_sheet([q.image for q in questions], captions, title=title)
