"""HA-DPO's preference pairs: the three schemas of the released files, read and written.

Layout: a folder with `desc_data.json` (several chosen and rejected descriptions per image) and
`pope_data.json` (a question, a right and a wrong answer). What differs between the schemas is a
table:

schema       desc_data       desc newlines   negative key of pope_data   correct       answer
minigpt4     list            deleted         reject                      never read    -
instructblip list            deleted         rejected                    truthy: skip  -
llava-v1.5   object by id    kept            reject                      truthy: skip  required

Deleting a newline joins the words on both sides ("end.Next"), so by default it becomes a space
if the original deletes it; `newlines="upstream"` deletes. Sources: HA-DPO
minigpt4/dpo_dataset.py, instructblip/dpo_dataset.py, llava-v1_5/train_dpo.py.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from hadpo.data import ImageId, Name, Report, Text, missing_images, parse_raw
from hadpo.plugins import choices
from hadpo.records import BadInput, Evidence, Pair, read_json, write_json
from hadpo.text import no_preference

# The instructions of the description pairs (byte-exact: minigpt4/prompts/alignment.txt).
INSTRUCTIONS = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """How one backbone's files differ from the others'."""

    negative: str = "reject"
    desc_by_id: bool = False
    deletes_newlines: bool = True
    skips_correct: bool = True
    has_answer: bool = False


_Kind = Literal["description", "pope"]
_FILES: dict[_Kind, str] = {"description": "desc_data.json", "pope": "pope_data.json"}
SCHEMAS = {
    "minigpt4": Schema(skips_correct=False),
    "instructblip": Schema(negative="rejected"),
    "llava-v1.5": Schema(desc_by_id=True, deletes_newlines=False, has_answer=True),
}


def _check_some(texts: list[str]) -> list[str]:
    if not texts:
        raise ValueError("expected one or more texts, found none")
    return texts


_Texts = Annotated[list[Text], AfterValidator(_check_some)]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    image_id: ImageId
    pair_id: Name | None = None  # these three are ours
    instruction: Text | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Description(_Entry):
    chosen: _Texts
    rejected: _Texts


@dataclass(frozen=True, kw_only=True)
class _Question(_Entry):
    question: Text
    chosen: Text
    reject: Text | None = None  # of these, each schema requires its own
    rejected: Text | None = None
    answer: str | None = None
    correct: Any = None


def read(
    folder: Path,
    *,
    schema: str,
    images: Mapping[str, Evidence],
    seed: int,
    report: Report,
    newlines: Literal["space", "upstream"] = "space",
) -> list[Pair]:
    """The pairs of a folder: descriptions first, one pair per entry, then the questions.

    One chosen text, one rejected text and one of the four instructions are drawn per description,
    once, with `random.Random(seed)` (the original's "offline" strategy; there the instruction of
    two schemas is drawn anew at each use). Keys that our writer adds (pair_id, instruction, source)
    are used if present.

    Args:
        folder: holds desc_data.json and pope_data.json.
        schema: a name in `SCHEMAS`.
        images: evidence by image id, for the paths (Visual Genome).
        seed: draws texts and instructions.
        report: collects broken records (also those whose two texts are the same), and counts the
            entries with a truthy `correct`, and refusals.
        newlines: what becomes of newlines in descriptions if the original deletes them.

    Raises:
        BadInput: unknown schema, or a file that cannot be read as a whole.
    """
    if schema not in SCHEMAS:
        raise BadInput(f"unknown pair schema {schema!r}; {choices(schema, SCHEMAS)}")
    shape = SCHEMAS[schema]
    draw = random.Random(seed)
    pairs: list[Pair] = []
    for kind, number, value in _records(folder, schema):
        with report.checking("hadpo_pairs"):
            file = _FILES[kind]
            where = f"{folder / file}: record {number}"
            raw = parse_raw(
                value, _Description if kind == "description" else _Question, where=where
            )
            if raw.image_id not in images:
                raise BadInput(
                    f"{where}: image {raw.image_id} is not in image_data.json of Visual Genome"
                )
            if isinstance(raw, _Question):
                texts = raw.question, raw.chosen, _rejected(raw, shape, where)
                if raw.correct and shape.skips_correct:
                    report.left_out("questions marked as correct", source="hadpo_pairs")
                    continue
                if raw.correct:
                    report.counts["hadpo_pairs: marked as correct, kept as minigpt4 does"] += 1
            else:
                # The order of the draws is the original's: chosen, rejected, LLaVA's question.
                chosen, rejected = draw.choice(raw.chosen), draw.choice(raw.rejected)
                instruction = draw.choice(INSTRUCTIONS)
                if shape.deletes_newlines:
                    chosen, rejected = (_one_line(text, newlines) for text in (chosen, rejected))
                texts = raw.instruction or instruction, chosen, rejected
            if why := no_preference(texts[1], texts[2]):
                report.left_out(why, source="hadpo_pairs")
                if "refusal" in why:
                    continue
                raise BadInput(f"{where}: {why}: no preference to learn; {texts[1]!r:.80}")
            pairs.append(
                Pair(
                    pair_id=raw.pair_id or f"{file.partition('_')[0]}-{number}",
                    image_id=raw.image_id,
                    image=images[raw.image_id].image,
                    instruction=texts[0],
                    chosen=texts[1],
                    rejected=texts[2],
                    kind=kind,
                    source=raw.source or file,
                )
            )
    places = ((f"{folder}: pair {pair.pair_id}", pair.image) for pair in pairs)
    missing = missing_images(places, report, source="hadpo_pairs")
    left = [pair for pair in pairs if pair.image not in missing]
    gone = len(pairs) - len(left)
    report.left_out("pairs of missing images", source="hadpo_pairs", count=gone)
    return left


def _records(folder: Path, schema: str) -> Iterator[tuple[_Kind, int, Any]]:
    """Kind, number in its file and raw record of all pairs, descriptions first."""
    for kind, name in _FILES.items():
        by_id = kind == "description" and SCHEMAS[schema].desc_by_id
        shape = "an object by image id" if by_id else "a list of objects"
        values = read_json(folder / name, dict if by_id else list, expected=f"{schema} has {shape}")
        if by_id:
            values = [{"image_id": k, **v} if isinstance(v, dict) else v for k, v in values.items()]
        for number, value in enumerate(values):
            yield kind, number, value


def _rejected(raw: _Question, schema: Schema, where: str) -> str:
    """The rejected answer; refuses a question that lacks what its schema requires."""
    rejected: str | None = getattr(raw, schema.negative)
    if rejected is None:
        raise BadInput(f"{where}: no field {schema.negative!r}")
    if schema.has_answer and raw.answer is None:  # required and never used
        raise BadInput(f"{where}: no field 'answer'")
    if schema.skips_correct and not isinstance(raw.correct, int):  # a bool is one
        raise BadInput(f"{where}: field 'correct': expected bool or int, found {raw.correct!r:.80}")
    return rejected


def _one_line(text: str, newlines: str) -> str:
    return text.replace("\n", "") if newlines == "upstream" else re.sub(r"\s*\n\s*", " ", text)


def write(
    pairs: Iterable[Pair],
    folder: Path,
    *,
    schema: str,
    rewrites: Mapping[str, tuple[list[str], list[str]]] | None = None,
) -> dict[str, int]:
    """Write pairs as one of the original schemas; `read` gives the same pairs back.

    If a description has `rewrites` (chosen and rejected ones by pair_id), these are written in its
    place, as the released files have them, and `read` draws one of each.

    The keys pair_id, instruction and source are ours; the original readers do not look at them.
    Newlines of descriptions become spaces when a schema that deletes them is read.

    Returns:
        How many records each file has.

    Raises:
        BadInput: unknown schema, or two descriptions of one image, which llava-v1.5 cannot hold.
    """
    if schema not in SCHEMAS:
        raise BadInput(f"unknown pair schema {schema!r}; {choices(schema, SCHEMAS)}")
    shape = SCHEMAS[schema]
    descriptions: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    for pair in pairs:
        ours = {"pair_id": pair.pair_id, "source": pair.source}
        key = {"image_id": int(pair.image_id) if pair.image_id.isdigit() else pair.image_id}
        if pair.kind == "description":
            chosen, rejected = (rewrites or {}).get(pair.pair_id, ([pair.chosen], [pair.rejected]))
            texts = {"chosen": chosen, "rejected": rejected}
            descriptions.append(key | texts | ours | {"instruction": pair.instruction})
            continue
        record = key | {"question": pair.instruction, "chosen": pair.chosen}
        record |= {shape.negative: pair.rejected}
        record |= {"correct": False} if shape.skips_correct else {}
        record |= {"answer": pair.chosen} if shape.has_answer else {}
        questions.append(record | ours)
    folder.mkdir(parents=True, exist_ok=True)
    content: Any = descriptions
    if shape.desc_by_id:
        counts = Counter(record["image_id"] for record in descriptions)
        if twice := [str(key) for key, count in counts.items() if count > 1]:
            raise BadInput(
                f"several descriptions of {', '.join(twice[:20])}; {schema} holds one per image"
            )
        content = {str(record.pop("image_id")): record for record in descriptions}
    write_json(folder / _FILES["description"], content)
    write_json(folder / _FILES["pope"], questions)
    return {_FILES["description"]: len(descriptions), _FILES["pope"]: len(questions)}
