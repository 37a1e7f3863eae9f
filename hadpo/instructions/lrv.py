"""Instructions -> files to finetune on: filtered, balanced, split by image, in two layouts."""

import hashlib
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config import STRICT, Count, ShareBelowOne
from hadpo.data import Report, lrv
from hadpo.records import BadInput, Instruction, read_jsonl, replacing, to_json, write_json
from hadpo.text import fold

SPLITS = ("train", "val")
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
    *("mention", "bounding", "dense", "region", "given", "provided"),
    *("image ", "picture ", "scene "),
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
    """Which instructions pass."""

    max_answer_words: Count = 0  # 0: no limit; LRV asked its teacher for less than 30
    max_instruction_words: Count = 0  # 0: no limit
    coordinates: Literal["keep", "drop"] = "drop"
    wording: Literal["keep", "reword"] = "reword"  # of answers that betray the teacher's text
    dedupe: bool = True  # the same instruction about the same image
    negative_share: ShareBelowOne = 0.0  # of positive and negative ones; 0: as they come
    val_share: ShareBelowOne = 0.0  # of the images, kept from training
    seed: Count = 42


def convert(
    records: Iterable[Instruction], out: Path, settings: FilterSettings, report: Report
) -> dict[str, int]:
    """Write `<split>.jsonl` (records) and `<split>/filter_cap.json` (LRV's form), record by record.

    A split without records is not written. The counts are given back, and stand in `counts.json`.
    Raises BadInput for broken input (see `on_bad`), or if nothing is left.
    """
    out.mkdir(parents=True, exist_ok=True)
    passed = out / "passed.jsonl.part"
    kinds: list[str] = []
    images: list[str] = []  # of each record
    with passed.open("w", encoding="utf-8") as file:
        for record in filter_records(records, settings, report):
            file.write(to_json(record) + "\n")
            kinds.append(record.kind)
            images.append(sys.intern(record.image_id))
    try:
        counts = report.finish()
        gone = surplus(kinds, settings)
        if gone:
            counts["instructions: left out for the balance"] = len(gone)
        ids = sorted(set(images))
        draw = random.Random(f"{settings.seed}/val")
        val = set(draw.sample(ids, round(settings.val_share * len(ids))))
        for split in SPLITS:
            places = {
                place
                for place, image in enumerate(images)
                if place not in gone and (image in val) == (split == "val")
            }
            if places:
                _write(passed, places, out, split)
                numbers = Counter(kinds[place] for place in places)
                counts |= {f"records of {split}: {kind}": n for kind, n in numbers.items()}
    finally:
        passed.unlink()
    if not any(key.startswith("records of") for key in counts):
        raise BadInput(f"{out}: no instruction is left: {counts}")
    counts = dict(sorted(counts.items()))
    write_json(out / "counts.json", counts)
    return counts


def _write(passed: Path, places: set[int], out: Path, split: str) -> None:
    """The lines at these places as a file of records, then the same in LRV's form."""
    path = out / f"{split}.jsonl"
    with (
        passed.open(encoding="utf-8") as lines,
        replacing(path) as part,
        part.open("w", encoding="utf-8") as file,
    ):
        file.writelines(line for place, line in enumerate(lines) if place in places)
    lrv.write(read_jsonl(path, Instruction), out / split / "filter_cap.json", shape="annotations")


def filter_records(
    records: Iterable[Instruction], settings: FilterSettings, report: Report
) -> Iterator[Instruction]:
    """The records that pass, one by one, reworded if needed; the others are counted."""
    seen: set[bytes] = set()  # 16 bytes a record
    for record in records:
        why = _fault(record, settings)
        if not why and settings.wording == "reword" and _is_teachers(record.answer):
            reworded = reword(record.answer)
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


def reword(answer: str) -> str:
    """An answer reworded so that it speaks of the image; "" if no rule can do that.

    "There is no mention of a red truck in the given image information." becomes "There is no red
    truck in the image."
    """
    for pattern, form in _REWORDED:
        answer = pattern.sub(lambda match, form=form: _denial(match, form), answer)
    return "" if _is_teachers(answer) else answer


def surplus(kinds: Sequence[str], settings: FilterSettings) -> set[int]:
    """Positions of positive or negative ones to leave out for `negative_share`, drawn by seed."""
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
    draw = random.Random(f"{settings.seed}/balance")
    return set(draw.sample(places[too_many], max(0, len(places[too_many]) - wanted)))


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
    """Whether an answer speaks of the teacher's text; plain words rule out most, at little cost."""
    small = answer.lower()
    return any(sign in small for sign in _TEACHER_SIGNS) and bool(_TEACHER.search(answer))


def _denial(match: re.Match[str], form: str) -> str:
    thing = re.sub(r"^(?:a|an|any|the)\s+", "", match[1].strip(), flags=re.IGNORECASE)
    verb = "are" if form == "no plural" else "is"
    return f"There {verb} no {thing} in the image{match[2] or '.'}"


def _digest(record: Instruction) -> bytes:
    text = f"{record.image_id}\n{fold(record.instruction)}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
