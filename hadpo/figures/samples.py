"""A few records as a person wants to see them before anything is spent on all of them."""

from collections.abc import Sequence

from PIL import Image

from hadpo.figures._card import Card
from hadpo.figures._style import mark_mini
from hadpo.figures.cards import Cards, contact_sheet, open_image, pair_card, with_boxes
from hadpo.records import Evidence, Instruction, Pair, Question


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
