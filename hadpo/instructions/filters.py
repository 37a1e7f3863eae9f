"""What instructions must be like to be trained on: worded about the image, short, told once."""

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config.sections.ranges import STRICT, Count, ShareBelowOne
from hadpo.data import Report
from hadpo.records import Instruction
from hadpo.text import said_alike

# "X: 12 Y: 30 Width: 5", "x:12", "[0.1, 0.2, 0.3, 0.4]": a teacher's boxes are unreliable.
_COORDINATES = re.compile(
    r"\b[XY]\s*[:=]\s*\d|\b(?:Width|Height)\s*[:=]\s*\d|\[\s*\d+(?:\.\d+)?(?:\s*,\s*\d+(?:\.\d+)?){3}",
    re.IGNORECASE,
)
_BOX_SIGNS = re.compile(r"[:=]\s*\d|\[\s*\d")  # without them there are no coordinates
# Words that betray that the teacher saw a list of regions and not the image.
_TEACHER = re.compile(
    r"\bmention(?:ed|s)?\b|\b(?:bounding box(?:es)?|dense captions?|region (?:list|phrases?))\b"
    r"|\b(?:given|provided)\b.{0,20}\b(?:information|captions?|descriptions?|details?|data)\b"
    r"|\b(?:image|picture|scene) (?:information|description|content)\b",
    re.IGNORECASE,
)
_TEACHER_SIGNS = (  # one of them is in each such answer
    *(
        "mention",
        "bounding",
        "dense",
        "region",
        "given",
        "provided",
        "image ",
        "picture ",
        "scene ",
    ),
)
_FROM_WHERE = (
    r"(?:\s+(?:in|within|of|from) (?:the )?(?:given |provided )?(?:image|picture|scene)?\s*"
    r"(?:information|captions?|descriptions?|content|data)?)?"
)
_REWORDED = (  # what the published teacher says -> the same said of the image
    (re.compile(rf"\bThere (?:is|was) no mention of (.+?){_FROM_WHERE}([.,;!]|$)", re.I), "no"),
    (re.compile(rf"\bThere (?:is|was) no (.+?) mentioned{_FROM_WHERE}([.,;!]|$)", re.I), "no"),
    (re.compile(rf"\bThere are no (.+?) mentioned{_FROM_WHERE}([.,;!]|$)", re.I), "no plural"),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FilterSettings:
    """Which instructions are kept."""

    max_answer_words: Count = 0  # 0: no limit; LRV asked its teacher for less than 30
    max_instruction_words: Count = 0  # 0: no limit
    coordinates: Literal["keep", "drop"] = "drop"
    wording: Literal["keep", "reword"] = "reword"  # of answers that betray the teacher's text
    dedupe: bool = True  # the same instruction about the same image
    negative_share: ShareBelowOne = 0.0  # of positive and negative ones; 0: as they come
    val_share: ShareBelowOne = 0.0  # of the images, kept from training
    seed: Count = 42


def kept(
    records: Iterable[Instruction], settings: FilterSettings, report: Report
) -> Iterator[Instruction]:
    """The records that pass, one by one, reworded where need be; the others are counted."""
    seen: set[bytes] = set()  # 16 bytes a record
    for record in records:
        why = _fault(record, settings)
        if not why and settings.wording == "reword" and _is_teachers(record.answer):
            reworded = grounded(record.answer)
            why = "" if reworded else "speaks of the teacher's text, not of the image"
            if reworded:
                report.left_out("answers reworded", source="instructions")
                record = replace(record, answer=reworded)
        if not why and settings.dedupe:
            key = _digest(record)
            why = "asked before of this image" if key in seen else ""
            seen.add(key)
        if why:
            report.left_out(why, source="instructions")
        else:
            yield record


def grounded(answer: str) -> str:
    """An answer reworded so that it speaks of the image; "" where that needs a person.

    "There is no mention of a red truck in the given image information." becomes "There is no red
    truck in the image."
    """
    for pattern, form in _REWORDED:
        answer = pattern.sub(lambda found, form=form: _denied(found, form), answer)
    return "" if _is_teachers(answer) else answer


def balanced(kinds: Sequence[str], settings: FilterSettings) -> set[int]:
    """Places of records to leave out, drawn by the seed, so that `negative_share` holds.

    Args:
        kinds: of all records, in order; only positive and negative ones count.
        settings: with the wanted share; 0 leaves out nothing.
    """
    share = settings.negative_share
    places = {
        kind: [i for i, k in enumerate(kinds) if k == kind] for kind in ("positive", "negative")
    }
    positive, negative = len(places["positive"]), len(places["negative"])
    if not share or not positive or not negative:
        return set()
    too_many = "negative" if negative > share * (positive + negative) else "positive"
    wanted = round(positive * share / (1 - share))
    if too_many == "positive":
        wanted = round(negative * (1 - share) / share)
    some = places[too_many]
    draw = random.Random(f"{settings.seed}/balance")
    return set(draw.sample(some, max(0, len(some) - wanted)))


def _fault(record: Instruction, settings: FilterSettings) -> str:
    if settings.max_answer_words and len(record.answer.split()) > settings.max_answer_words:
        return f"answer of more than {settings.max_answer_words} words"
    most = settings.max_instruction_words
    if most and len(record.instruction.split()) > most:
        return f"instruction of more than {most} words"
    if settings.coordinates == "drop":
        for text in (record.answer, record.instruction):
            if _BOX_SIGNS.search(text) and _COORDINATES.search(text):
                return "has coordinates"
    return ""


def _is_teachers(answer: str) -> bool:
    """Whether an answer speaks of the teacher's text; most are told apart by plain words."""
    small = answer.lower()
    return any(sign in small for sign in _TEACHER_SIGNS) and bool(_TEACHER.search(answer))


def _denied(found: re.Match[str], form: str) -> str:
    thing = re.sub(r"^(?:a|an|any|the)\s+", "", found[1].strip(), flags=re.IGNORECASE)
    verb = "are" if form == "no plural" else "is"
    return f"There {verb} no {thing} in the image{found[2] or '.'}"


def _digest(record: Instruction) -> bytes:
    text = f"{record.image_id}\n{said_alike(record.instruction)}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
