"""Pictures of single cases: what was said of an image and how much is true; what a pair prefers."""

import difflib
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from hadpo import tables
from hadpo.figures._style import BLUE, GREY, INK, ORANGE, Figure, mark_mini, picture_html
from hadpo.figures.bars import (
    dumbbell,
    invented_objects,
    length_against_hallucination,
    pope_bars,
    published_dumbbell,
    shr_bars,
)
from hadpo.figures.curves import STEP, learning_curve, read_steps, training_curves
from hadpo.records import (
    BadInput,
    Evidence,
    Instruction,
    Pair,
    Question,
    Region,
    Verdict,
    read_json,
    read_jsonl,
)
from hadpo.runs import Run, read_manifest
from hadpo.tables import model_title

# Cards: an image beside columns of marked text, as HTML for a notebook, as PNG for a slide.

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


_KINDS = {"absent": "absent object", "attribute": "wrong attribute"}
_TONES: dict[str, Tone] = {"correct": "true", "hallucination": "invented"}


def hallucination_card(
    image: str | Path,
    verdicts: Iterable[Verdict],
    *,
    regions: Sequence[Region] = (),
    models: Sequence[str] = ("base", "merged"),
    most_regions: int = 5,
    title: str = "",
    is_mini: bool,
) -> Card:
    """An image with its boxes, and each model's sentences, marked true (✓) or wrong (✗).

    Args:
        image: the picture's file.
        verdicts: the rulings on one answer of each model, sentence by sentence.
        regions: known boxes; the first are drawn, with their numbers, the others counted.
        models: which models' columns, in this order; those without verdicts are left out.
        most_regions: boxes to draw.
        title: the message; empty: how many sentences are wrong.
        is_mini: mark the card as one of the synthetic world.

    Raises:
        BadInput: no readable image, or no verdict of these models.
    """
    ruled: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        ruled.setdefault(verdict.model, []).append(verdict)
    shown = [model for model in models if ruled.get(model)]
    if not shown:
        raise BadInput(f"no verdicts of {', '.join(models)}; there are those of {sorted(ruled)}")
    picture, note = with_boxes(open_image(image), regions, most_regions)
    columns = []
    for model in shown:
        count = sum(v.label == "hallucination" for v in ruled[model])
        heading = f"{model_title(model)}: {count} of {len(ruled[model])} wrong"
        columns.append(Column(heading, [_sentence(v) for v in ruled[model]]))
    signs = "✓ true; ✗ wrong: an absent object or a wrong attribute; ? not to be judged."
    name = f"card_{ruled[shown[0]][0].case_id}"
    message = title or "; ".join(column.heading for column in columns).capitalize() + "."
    note = mark_mini(f"{signs} {note}".strip(), is_mini=is_mini)
    return Card(name, message, picture, columns, note)


def pair_card(pair: Pair | Instruction, *, title: str = "", is_mini: bool) -> Card:
    """A preference pair: the image, the chosen and the rejected answer, with what differs marked.

    An instruction to finetune on has one answer, and nothing is marked in it.

    Raises:
        BadInput: no readable image.
    """
    if isinstance(pair, Instruction):
        return _instruction_card(pair, title=title, is_mini=is_mini)
    chosen, rejected = pair.chosen.split(), pair.rejected.split()
    same_chosen, same_rejected = set(), set()
    matcher = difflib.SequenceMatcher(a=chosen, b=rejected, autojunk=False)
    for block in matcher.get_matching_blocks():
        same_chosen |= set(range(block.a, block.a + block.size))
        same_rejected |= set(range(block.b, block.b + block.size))

    def column(heading: str, words: list[str], same: set[int], tone: Tone) -> Column:
        marked = [(word, at not in same) for at, word in enumerate(words)]
        return Column(f"{heading}, {len(words)} words", [Line(marked)], tone)

    columns = [
        column("chosen ✓", chosen, same_chosen, "true"),
        column("rejected ✗", rejected, same_rejected, "invented"),
    ]
    picture, _ = fit(open_image(pair.image))
    note = f"{pair.kind} pair {pair.pair_id} from {pair.source}, image {pair.image_id}."
    note = mark_mini(note, is_mini=is_mini)
    return Card(f"pair_{pair.pair_id}", title or pair.instruction, picture, columns, note)


def text_card(
    image: str | Path, columns: Sequence[Column], *, title: str, note: str = "", is_mini: bool
) -> Card:
    """An image beside columns of text of any kind.

    Raises:
        BadInput: no readable image.
    """
    picture, _ = fit(open_image(image))
    return Card("text", title, picture, columns, mark_mini(note, is_mini=is_mini))


def verdict_lines(verdicts: Iterable[Verdict]) -> list[Line]:
    """Sentences with their signs and reasons, one line each."""
    return [_sentence(verdict) for verdict in verdicts]


def _instruction_card(record: Instruction, *, title: str, is_mini: bool) -> Card:
    words = [(word, False) for word in record.answer.split()]
    column = Column(f"answer, {len(words)} words", [Line(words)])
    picture, _ = fit(open_image(record.image))
    note = f"{record.kind} instruction {record.instruction_id} from {record.source}, "
    note = mark_mini(f"{note}image {record.image_id}.", is_mini=is_mini)
    message = title or record.instruction or "(a caption: the trainer draws the request)"
    return Card(f"instruction_{record.instruction_id}", message, picture, [column], note)


@dataclass(frozen=True, eq=False)
class Cards:
    """Several cards, one below the other."""

    cards: Sequence[Card]
    note: str = ""  # said where there is no card

    def save(self, folder: Path) -> list[Path]:
        """Write each card into `folder`."""
        return [path for card in self.cards for path in card.save(folder)]

    def _repr_html_(self) -> str:
        cards = "".join(card._repr_html_() for card in self.cards)
        return cards or f"<p>{html.escape(self.note)}</p>"


def best_and_worst(
    verdicts: Iterable[Verdict],
    evidence: Mapping[str, Evidence],
    *,
    count: int = 2,
    models: tuple[str, str] = ("base", "merged"),
    is_mini: bool,
) -> Cards:
    """Cards of the answers that improved most and of those that got worse most, in this order.

    Args:
        verdicts: of all answers and models.
        evidence: what is known of the image, by the id of the case (the question) it belongs to.
        count: cards of each sort; an answer is shown once.
        models: before and after.
        is_mini: mark the cards as ones of the synthetic world.

    Returns:
        The cards; none, with a note, where no answer was judged for both models.
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
        return Cards((), f"No description was judged for both {models[0]} and {models[1]}.")
    order = sorted(change, key=lambda case_id: (change[case_id], case_id))
    shown = list(dict.fromkeys([*order[:count], *reversed(order[-count:])]))
    return Cards(
        [
            hallucination_card(
                evidence[case_id].image,
                ruled[case_id],
                regions=evidence[case_id].regions,
                models=models,
                title=f"Image {evidence[case_id].image_id}: {_change_text(change[case_id])}",
                is_mini=is_mini,
            )
            for case_id in shown
        ]
    )


def contact_sheet(
    images: Sequence[str | Path],
    captions: Sequence[str] = (),
    *,
    columns: int = 6,
    side: int = 150,
    title: str = "",
    is_mini: bool,
) -> Card:
    """Small pictures in a grid, each with a line of text below.

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
        picture, _ = fit(open_image(path), side)
        sheet.paste(picture, (left + (side - picture.width) // 2, top))
        for line, text in enumerate(_two_lines(captions[at] if captions else "", side)):
            draw.text((left, top + side + 3 + 14 * line), text, font=font(10), fill="#222222")
    message = title or f"{len(images)} images"
    note = mark_mini("", is_mini=is_mini)
    return Card("contact_sheet", message, sheet, (), note, said="; ".join(captions))


def open_image(path: str | Path) -> Image.Image:
    """The image in RGB; raises BadInput where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise BadInput(f"cannot read the image {path}: {error}") from error


def with_boxes(image: Image.Image, regions: Sequence[Region], most: int) -> tuple[Image.Image, str]:
    """The image, enlarged or reduced, with numbered boxes, and what the numbers mean."""
    picture, scale = fit(image)
    draw = ImageDraw.Draw(picture)
    shown = regions[:most]
    for at, region in enumerate(shown, start=1):
        x, y = region.x * scale, region.y * scale
        end = ((region.x + region.width) * scale - 1, (region.y + region.height) * scale - 1)
        draw.rectangle((x, y, max(x + 1, end[0]), max(y + 1, end[1])), outline=BLUE, width=2)
        draw_label(draw, max(0, x), max(0, y), str(at), BLUE)
    texts = [f"{at} {region.phrase.strip()}" for at, region in enumerate(shown, start=1)]
    if len(regions) > len(shown):
        texts.append(f"{len(regions) - len(shown)} more regions")
    return picture, f"Boxes: {'; '.join(texts)}." if texts else ""


def _sentence(verdict: Verdict) -> Line:
    words = [(word, False) for word in verdict.claim.split()]
    label = _KINDS.get(verdict.kind, verdict.kind) if verdict.label == "hallucination" else ""
    if verdict.label == "unparsed":
        label = "the judge's reply could not be read"
    hover = ": ".join(part for part in (verdict.kind or verdict.label, verdict.reason) if part)
    return Line(words, _TONES.get(verdict.label, "unknown"), label, hover)


def _change_text(change: int) -> str:
    if change == 0:
        return "as many wrong sentences after tuning as before"
    noun = "sentence" if abs(change) == 1 else "sentences"
    return f"{abs(change)} {'fewer' if change < 0 else 'more'} wrong {noun} after tuning"


def _two_lines(text: str, width: float) -> list[str]:
    """The beginning of `text` in at most two lines of `width` pixels."""
    lines, face = [""], font(10)
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == 2:
            lines[-1] = lines[-1][:-1] + "…"
            break
        else:
            lines.append(word)
    return lines


# Pictures of a whole stage: drawn from its files, saved with their data, shown in one column.


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures in the order of reading; `missing` says what could not be drawn, and why."""

    pictures: Sequence[Figure | Card]
    missing: Sequence[str] = ()

    def save(self, folder: Path) -> list[Path]:
        """Write every picture into `folder`."""
        return [path for picture in self.pictures for path in picture.save(folder)]

    def _repr_html_(self) -> str:
        notes = (f"<p><small>not drawn: {html.escape(note)}</small></p>" for note in self.missing)
        return "".join([*(picture._repr_html_() for picture in self.pictures), *notes])


def hallucination_cards(evaluated: Path, prepared: Path, *, count: int = 2) -> Gallery:
    """The descriptions that gained most and that lost most by tuning, sentence by sentence.

    Args:
        evaluated: folder of a stage evaluate, with `verdicts.jsonl`.
        prepared: folder of the stage prepare that it read, with questions and evidence.
        count: cards of each sort.
    """
    path = evaluated / "verdicts.jsonl"
    verdicts = list(read_jsonl(path, Verdict)) if path.is_file() else []
    known = {e.image_id: e for e in read_jsonl(prepared / "evidence.jsonl", Evidence)}
    questions = read_jsonl(prepared / "questions.jsonl", Question)
    described = (q for q in questions if q.benchmark == "shr" and q.image_id in known)
    evidence = {q.question_id: known[q.image_id] for q in described}
    manifest = read_manifest(evaluated)
    is_mini = manifest is not None and manifest.is_mini
    found = best_and_worst(verdicts, evidence, count=count, is_mini=is_mini)
    return Gallery(found.cards, () if found.cards else (found.note,))


def compare(run: Run, results: Sequence[tables.Table]) -> Gallery:
    """The pictures of 05_compare, saved under `figures/`: dumbbell, bars, curves and one card.

    The dumbbell and the curves show all compared runs, the bars and the card the first of them;
    the card is of the description that gained most. Without a run: the published numbers alone.
    A picture that the runs have no numbers for is named in `missing`, and so is the reason.
    """
    wanted: dict[str, Callable[[], Figure | Card]] = {}
    found = tables.run_results(run)
    published = tables.published_rows(run)
    if found:
        first, metrics = found[0], list(found[0].metrics.values())
        whole = next(table for table in results if table.name == "comparison")
        logs = {r.name: r.training_log for r in found if r.training_log is not None}
        log = logs if len(logs) > 1 else next(iter(logs.values()), ())
        wanted["dumbbell"] = partial(dumbbell, whole)
        wanted["POPE"] = partial(pope_bars, metrics, is_mini=first.is_mini)
        wanted["SHR"] = partial(shr_bars, metrics, is_mini=first.is_mini)
        wanted["length"] = partial(length_against_hallucination, first)
        for model in ("base", "merged"):
            wanted[f"invented objects, {model}"] = partial(_invented, first, model)
        if any(model.startswith(STEP) for *_, model in first.metrics):
            wanted["learning curve"] = partial(_learning, first)
        wanted["curves"] = partial(training_curves, log, is_mini=first.is_mini)
        wanted["card"] = partial(_best_card, first)
    elif published:
        wanted["published"] = partial(published_dumbbell, published)
    drawn, missing = [], []
    for name, draw in wanted.items():
        try:
            drawn.append(draw())
        except BadInput as error:  # no numbers for this one: said below the pictures
            missing.append(f"{name}: {error}")
    gallery = Gallery(drawn, missing)
    run.note(figures=[path.name for path in gallery.save(run.path("figures"))], not_drawn=missing)
    return gallery


def _best_card(result: tables.RunResults) -> Card:
    """The card of the description that gained most; BadInput where no card can be drawn."""
    folders = result.folders
    for name in ("questions.jsonl", "evidence.jsonl"):
        if not (folders["prepare"] / name).is_file():
            raise BadInput(
                f"prepare/{name} is absent, which says what was asked and is on the images"
            )
    found = hallucination_cards(folders["evaluate"], folders["prepare"], count=1)
    if not found.pictures:
        raise BadInput("; ".join(found.missing))
    best = found.pictures[0]
    assert isinstance(best, Card)
    note = f"Of all descriptions of {result.name} the one that gained most, not a typical one."
    return replace(best, name="hallucination_card", note=f"{note} {best.note}")


def _learning(result: tables.RunResults) -> Figure:
    """The learning curve of a run; how many updates it had stands in its training log."""
    if result.training_log is None:
        raise BadInput(f"run {result.name!r} has no training log")
    own = [step for step in read_steps(result.training_log) if step["objective"] == "dpo"]
    last = own or read_steps(result.training_log)
    return learning_curve(result, updates=last[-1]["step"] + 1)


def _invented(result: tables.RunResults, model: str) -> Figure:
    """The objects that a model of one run invents, from the files of its stages."""
    evaluated, prepared = (result.folders.get(stage) for stage in ("evaluate", "prepare"))
    files = [
        folder / name
        for folder, name in (
            (evaluated, "verdicts.jsonl"),
            (prepared, "evidence.jsonl"),
            (prepared, "questions.jsonl"),
            (prepared, "vocabulary.json"),
        )
        if folder is not None
    ]
    absent = [path.name for path in files if not path.is_file()]
    if absent or not files:
        raise BadInput(f"run {result.name!r} has no {', '.join(absent) or 'folder'}")
    verdicts = list(read_jsonl(files[0], Verdict))
    known = {e.image_id: e for e in read_jsonl(files[1], Evidence)}
    questions = read_jsonl(files[2], Question)
    evidence = {q.question_id: known[q.image_id] for q in questions if q.image_id in known}
    objects = read_json(files[3], dict, expected="run stage prepare again").get("objects", ())
    names = [name if isinstance(name, str) else str(name[0]) for name in objects]
    return invented_objects(verdicts, evidence, names, model=model, is_mini=result.is_mini)


# A few records as a person wants to see them before anything is spent on all of them.


def pair_cards(
    pairs: Sequence[Pair | Instruction], *, notes: Sequence[str] = (), is_mini: bool
) -> Cards:
    """One card a pair; `notes` are put in front of the instructions, one each."""
    titles = [f"{note}: {p.instruction}" for note, p in zip(notes, pairs, strict=False)]
    titles += [p.instruction for p in pairs[len(titles) :]]
    return Cards(
        [pair_card(p, title=t, is_mini=is_mini) for p, t in zip(pairs, titles, strict=True)]
    )


def evidence_cards(evidence: Sequence[Evidence], *, most_regions: int = 5, is_mini: bool) -> Cards:
    """Images with what is known about them: numbered boxes, their phrases, and the facts."""
    cards = []
    for known in evidence:
        picture, note = with_boxes(open_image(known.image), known.regions, most_regions)
        note = " ".join([note, *known.facts])
        name = f"evidence_{known.image_id}"
        title = f"Image {known.image_id}: {len(known.regions)} regions, {len(known.facts)} facts"
        cards.append(Card(name, title, picture, (), mark_mini(note, is_mini=is_mini)))
    return Cards(cards)


def question_sheet(questions: Sequence[Question], *, is_mini: bool) -> Card:
    """Images with the questions that are asked about them, and the right answers where known."""
    if not questions:  # a recipe that evaluates nothing still has its page
        blank = Image.new("RGB", (480, 24), "white")
        return Card("question_sheet", "No questions", blank, (), mark_mini("", is_mini=is_mini))
    captions = [f"{q.text} {f'({q.label})' if q.label else ''}".strip() for q in questions]
    title = f"{len(questions)} questions, with the right answers where there are such"
    return contact_sheet([q.image for q in questions], captions, title=title, is_mini=is_mini)
