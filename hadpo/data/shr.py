"""SHR's own files: which Visual Genome images are described, and facts about them.

Layout: `val_images_final.json`, `shr_factual_part1.jsonl`, `shr_factual_part2.jsonl`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import ImageId, Report, json_records, parse_raw, read_json_lines
from hadpo.records import BadInput, Evidence, Question

# Byte-exact: HA-DPO shr_eval.py of all backbones.
PROMPT = "Describe this image in detail."
SPLIT = "val"

_IMAGES = "expected val_images_final.json of SHR: a list of objects with image_id"
_FACTS = "expected JSON lines of SHR, each an object of one image id and its list of facts"


@dataclass(frozen=True, kw_only=True)
class _Raw:
    image_id: ImageId  # the only field that the original reads


def image_ids(folder: Path, report: Report) -> list[str]:
    """Ids of the images to describe, in file order.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    ids: dict[str, None] = {}
    for where, value in json_records(folder / "val_images_final.json", expected=_IMAGES):
        with report.checking("shr"):
            key = parse_raw(value, _Raw, where=where).image_id
            report.left_out("images named again", source="shr", count=int(key in ids))
            ids[key] = None
    return list(ids)


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
    """Facts by image id; if both parts know an image, part 2 wins, and that is counted.

    Raises:
        BadInput: a file cannot be read as a whole.
    """
    known: dict[str, tuple[str, ...]] = {}
    for part in (1, 2):
        path = folder / f"shr_factual_part{part}.jsonl"
        for where, value in read_json_lines(path, report, source="shr", expected=_FACTS):
            with report.checking("shr"):
                # The original reads the first key of a line and drops the others in silence.
                if not isinstance(value, dict) or len(value) != 1:
                    found = sorted(value) if isinstance(value, dict) else type(value).__name__
                    raise BadInput(f"{where}: expected an object of one image id, found {found}")
                [(name, lines)] = value.items()
                if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                    raise BadInput(
                        f"{where}: field {name!r}: expected a list of texts, found {lines!r}"
                    )
                key = parse_raw({"image_id": name}, _Raw, where=where).image_id
                if key in known:
                    report.left_out("facts of part 1 that part 2 replaces", source="shr")
                known[key] = tuple(lines)
    return known
