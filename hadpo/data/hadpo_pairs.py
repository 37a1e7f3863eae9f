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

from hadpo.data import ImageId, Name, Report, Text, raw_records, with_images
from hadpo.plugins import choices
from hadpo.records import BadInput, Evidence, Pair, read_json, write_json
from hadpo.text import no_preference, visible

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
    pair_id: Name  # these three are ours
    source: str
    instruction: Text | None = None


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
    are used if present. Entries with a truthy `correct`, and refusals, are counted; two equal texts
    are a broken record. `newlines` is for descriptions whose newlines the original deletes.
    """
    if schema not in SCHEMAS:
        raise BadInput(f"unknown pair schema {schema!r}; {choices(schema, SCHEMAS)}")
    shape = SCHEMAS[schema]
    draw = random.Random(seed)
    pairs: dict[str, Pair] = {}
    for where, raw in _records(folder, schema, report):
        with report.checking("hadpo_pairs"):
            place = f"{folder}: pair {visible(raw.pair_id)}"
            if place in pairs:
                raise BadInput(f"{where}: pair_id {raw.pair_id} is there twice")
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
            pairs[place] = Pair(
                pair_id=raw.pair_id,
                image_id=raw.image_id,
                image=images[raw.image_id].image,
                instruction=texts[0],
                chosen=texts[1],
                rejected=texts[2],
                kind="pope" if isinstance(raw, _Question) else "description",
                source=raw.source,
            )
    return with_images(pairs, report, source="hadpo_pairs", lost="pairs of missing images")


def _records(
    folder: Path, schema: str, report: Report
) -> Iterator[tuple[str, _Description | _Question]]:
    """Place and raw record of all pairs, descriptions first."""
    for kind, name in _FILES.items():
        by_id = kind == "description" and SCHEMAS[schema].desc_by_id
        shape = "an object by image id" if by_id else "a list of objects"
        values = read_json(folder / name, dict if by_id else list, expected=f"{schema} has {shape}")
        if by_id:
            values = [{"image_id": k, **v} if isinstance(v, dict) else v for k, v in values.items()]
        records = (
            (f"{folder / name}: record {number}", _with_own_keys(value, name, number))
            for number, value in enumerate(values)
        )
        shape = _Description if kind == "description" else _Question
        yield from raw_records(records, shape, report, source="hadpo_pairs")


def _with_own_keys(value: Any, file: str, number: int) -> Any:
    if not isinstance(value, dict):
        return value
    own = {"pair_id": f"{file.partition('_')[0]}-{number}", "source": file}
    return value | {name: value.get(name) or default for name, default in own.items()}


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
    place, as the released files have them, and `read` draws one of each. The keys pair_id,
    instruction and source are ours; the original readers do not look at them. Newlines of
    descriptions become spaces when a schema that deletes them is read. Returns how many records
    each file has.

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
