"""SHR's own files: which Visual Genome images are described, and facts about them.

Layout: `val_images_final.json`, `shr_factual_part1.jsonl`, `shr_factual_part2.jsonl`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from hadpo.data import Report, image_id, read_json, read_json_lines
from hadpo.records import BadInput, Evidence, Question

# Byte-exact: HA-DPO shr_eval.py of all backbones.
PROMPT = "Describe this image in detail."
SPLIT = "val"

_IMAGES = "expected val_images_final.json of SHR: a list of objects with image_id"
_FACTS = "expected JSON lines of SHR, each an object of one image id and its list of facts"


def image_ids(folder: Path, report: Report) -> list[str]:
    """Ids of the images to describe, in file order; only `image_id` is read, as in the original.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    path = folder / "val_images_final.json"
    found: dict[str, None] = {}
    for number, record in enumerate(read_json(path, list, expected=_IMAGES)):
        where = f"{path}: record {number}"
        try:
            if not isinstance(record, dict):
                raise BadInput(f"{where}: expected an object, found {type(record).__name__}")
            key = image_id(record, where=where)
        except BadInput as error:
            report.bad(str(error), source="shr")
            continue
        report.left_out("images named again", source="shr", count=int(key in found))
        found[key] = None
    return list(found)


def questions(image_ids: Iterable[str], images: Mapping[str, Evidence]) -> list[Question]:
    """One question per image.

    Raises:
        BadInput: an image is not among `images`; lists all of them.
    """
    ids = list(image_ids)
    unknown = [key for key in ids if key not in images]
    if unknown:
        raise BadInput(f"SHR images that Visual Genome does not have: {', '.join(unknown[:20])}")
    return [
        Question(
            question_id=f"shr-{key}",
            benchmark="shr",
            split=SPLIT,
            image_id=key,
            image=images[key].image,
            text=PROMPT,
        )
        for key in ids
    ]


def facts(folder: Path, report: Report) -> dict[str, tuple[str, ...]]:
    """Facts by image id; where both parts know an image, part 2 wins, and that is counted.

    Raises:
        BadInput: a file cannot be read as a whole.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part in (1, 2):
        path = folder / f"shr_factual_part{part}.jsonl"
        for where, record in read_json_lines(path, report, source="shr", expected=_FACTS):
            try:
                key, lines = _entry(record, where=where)
            except BadInput as error:
                report.bad(str(error), source="shr")
                continue
            if key in found:
                report.left_out("facts of part 1 that part 2 replaces", source="shr")
            found[key] = lines
    return found


def _entry(record: dict, *, where: str) -> tuple[str, tuple[str, ...]]:
    # The original reads the first key of a line and drops the others in silence.
    if len(record) != 1:
        raise BadInput(f"{where}: expected one image id, found {sorted(record)}")
    [(key, lines)] = record.items()
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise BadInput(f"{where}: field {key!r}: expected a list of texts, found {lines!r}")
    return image_id({"image_id": key}, where=where), tuple(lines)
