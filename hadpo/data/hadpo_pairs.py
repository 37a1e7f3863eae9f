"""HA-DPO's preference pairs: the three schemas of the released files, read and written.

Layout: a folder with `desc_data.json` (several chosen and rejected descriptions per image) and
`pope_data.json` (a question, a right and a wrong answer). What differs between the schemas is a
table:

schema       desc_data       desc newlines   negative key of pope_data   correct       answer
minigpt4     list            deleted         reject                      never read    -
instructblip list            deleted         rejected                    truthy: skip  -
llava-v1.5   object by id    kept            reject                      truthy: skip  required

Deleting a newline joins the words on both sides ("end.Next"), so by default it becomes a space
where the original deletes it; `newlines="upstream"` deletes. Sources: HA-DPO
minigpt4/dpo_dataset.py, instructblip/dpo_dataset.py, llava-v1_5/train_dpo.py.
"""

import json
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hadpo.data import Report, field, image_id, missing_images, read_json, said
from hadpo.plugins import choices
from hadpo.records import BadInput, Evidence, Pair

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

    desc_by_id: bool
    deletes_newlines: bool
    negative: str
    skips_correct: bool
    has_answer: bool


SCHEMAS = {
    "minigpt4": Schema(
        desc_by_id=False,
        deletes_newlines=True,
        negative="reject",
        skips_correct=False,
        has_answer=False,
    ),
    "instructblip": Schema(
        desc_by_id=False,
        deletes_newlines=True,
        negative="rejected",
        skips_correct=True,
        has_answer=False,
    ),
    "llava-v1.5": Schema(
        desc_by_id=True,
        deletes_newlines=False,
        negative="reject",
        skips_correct=True,
        has_answer=True,
    ),
}


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
    are used where present.

    Args:
        folder: holds desc_data.json and pope_data.json.
        schema: a name in `SCHEMAS`.
        images: evidence by image id, for the paths (Visual Genome).
        seed: draws texts and instructions.
        report: collects broken records, and counts the entries with a truthy `correct`.
        newlines: what becomes of newlines in descriptions where the original deletes them.

    Raises:
        BadInput: unknown schema, or a file that cannot be read as a whole.
    """
    if schema not in SCHEMAS:
        raise BadInput(f"unknown pair schema {schema!r}; {choices(schema, SCHEMAS)}")
    reader = _Reader(SCHEMAS[schema], schema, images, report, newlines)
    found = reader.descriptions(folder / "desc_data.json", seed)
    found += reader.questions(folder / "pope_data.json")
    places = ((f"{folder}: pair {pair.pair_id}", pair.image) for pair in found)
    missing = missing_images(places, report, source="hadpo_pairs")
    left = [pair for pair in found if pair.image not in missing]
    if missing:
        report.left_out(
            "pairs of missing images", source="hadpo_pairs", count=len(found) - len(left)
        )
    return left


@dataclass
class _Reader:
    schema: Schema
    name: str
    images: Mapping[str, Evidence]
    report: Report
    newlines: str

    def descriptions(self, path: Path, seed: int) -> list[Pair]:
        kind = dict if self.schema.desc_by_id else list
        expected = (
            f"{self.name} has {'an object by image id' if kind is dict else 'a list of objects'}"
        )
        entries = read_json(path, kind, expected=expected)
        if kind is dict:
            entries = [
                {"image_id": key, **v} if isinstance(v, dict) else v for key, v in entries.items()
            ]
        draw = random.Random(seed)
        found: list[Pair] = []
        for number, entry in enumerate(entries):
            where = f"{path}: record {number}"
            try:
                key, image = self._image(entry, where)
                chosen = self._texts(entry, "chosen", where)
                rejected = self._texts(entry, "rejected", where)
            except BadInput as error:
                self.report.bad(str(error), source="hadpo_pairs")
                continue
            # The order of the draws is the original's: chosen, rejected, then LLaVA's question.
            texts = draw.choice(chosen), draw.choice(rejected)
            instruction = draw.choice(INSTRUCTIONS)
            found.append(
                Pair(
                    pair_id=str(entry.get("pair_id", f"desc-{number}")),
                    image_id=key,
                    image=image,
                    instruction=str(entry.get("instruction", instruction)),
                    chosen=texts[0],
                    rejected=texts[1],
                    kind="description",
                    source=str(entry.get("source", path.name)),
                )
            )
        return found

    def questions(self, path: Path) -> list[Pair]:
        found: list[Pair] = []
        for number, entry in enumerate(
            read_json(path, list, expected=f"{self.name} has a list of objects")
        ):
            where = f"{path}: record {number}"
            try:
                key, image = self._image(entry, where)
                pair = Pair(
                    pair_id=str(entry.get("pair_id", f"pope-{number}")),
                    image_id=key,
                    image=image,
                    instruction=said(entry, "question", where=where),
                    chosen=said(entry, "chosen", where=where),
                    rejected=said(entry, self.schema.negative, where=where),
                    kind="pope",
                    source=str(entry.get("source", path.name)),
                )
                if self.schema.has_answer:
                    field(entry, "answer", str, where=where)  # required and never used
                if self.schema.skips_correct and field(entry, "correct", (bool, int), where=where):
                    self.report.left_out("questions marked as correct", source="hadpo_pairs")
                    continue
            except BadInput as error:
                self.report.bad(str(error), source="hadpo_pairs")
                continue
            if not self.schema.skips_correct and entry.get("correct"):
                self.report.counts["hadpo_pairs: marked as correct, kept as minigpt4 does"] += 1
            found.append(pair)
        return found

    def _image(self, entry: Any, where: str) -> tuple[str, str]:
        if not isinstance(entry, dict):
            raise BadInput(f"{where}: expected an object, found {type(entry).__name__}")
        key = image_id(entry, where=where)
        if key not in self.images:
            raise BadInput(f"{where}: image {key} is not in image_data.json of Visual Genome")
        return key, self.images[key].image

    def _texts(self, entry: Mapping[str, Any], name: str, where: str) -> list[str]:
        texts = field(entry, name, list, where=where)
        if not texts:
            raise BadInput(f"{where}: field {name!r}: expected one or more texts, found none")
        for number, text in enumerate(texts):
            said({name: text}, name, where=f"{where}, text {number}")
        if not self.schema.deletes_newlines:
            return texts
        if self.newlines == "upstream":
            return [text.replace("\n", "") for text in texts]
        return [re.sub(r"\s*\n\s*", " ", text) for text in texts]


def write(
    pairs: Iterable[Pair],
    folder: Path,
    *,
    schema: str,
    rewrites: Mapping[str, tuple[list[str], list[str]]] | None = None,
) -> dict[str, int]:
    """Write pairs as one of the original schemas; `read` gives the same pairs back.

    Where a description has `rewrites` (chosen and rejected ones by pair_id), these are written in
    its place, as the released files have them, and `read` draws one of each.

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
    content: Any = _by_id(descriptions) if shape.desc_by_id else descriptions
    (folder / "desc_data.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / "pope_data.json").write_text(json.dumps(questions, indent=1), encoding="utf-8")
    return {"desc_data.json": len(descriptions), "pope_data.json": len(questions)}


def _by_id(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        key = str(record.pop("image_id"))
        if key in found:
            raise BadInput(f"two descriptions of image {key}; llava-v1.5 files hold one per image")
        found[key] = record
    return found
