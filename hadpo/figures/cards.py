"""Pictures of single cases: what was said of an image and how much is true; what a pair prefers."""

import difflib
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from hadpo.figures._card import Card, Column, Line, Tone, draw_label, fit, font
from hadpo.figures._style import BLUE, mark_mini
from hadpo.records import BadInput, Evidence, Instruction, Pair, Region, Verdict
from hadpo.tables import model_title

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
