"""SHR's own files: which Visual Genome images are described, and facts about them.

Layout: `val_images_final.json`, `shr_factual_part1.jsonl`, `shr_factual_part2.jsonl`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import (
    ImageId,
    Report,
    json_records,
    parse_raw,
    question,
    raw_records,
    read_json_lines,
    refuse_unknown,
)
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
    """Ids of the images to describe, in file order, each once."""
    values = json_records(folder / "val_images_final.json", expected=_IMAGES)
    ids = [raw.image_id for _, raw in raw_records(values, _Raw, report, source="shr")]
    report.left_out("images named again", source="shr", count=len(ids) - len(set(ids)))
    return list(dict.fromkeys(ids))


def questions(image_ids: Sequence[str], images: Mapping[str, Evidence]) -> list[Question]:
    """One question per image; BadInput if an image is not among `images`."""
    refuse_unknown(image_ids, images, source="SHR")
    return [question("shr", key, images[key], PROMPT, split=SPLIT) for key in image_ids]


def facts(folder: Path, report: Report) -> dict[str, tuple[str, ...]]:
    """Facts by image id; if both parts know an image, part 2 wins, and that is counted."""
    known: dict[str, tuple[str, ...]] = {}
    for part in (1, 2):
        path = folder / f"shr_factual_part{part}.jsonl"
        for where, value in read_json_lines(path, report, source="shr", expected=_FACTS):
            with report.checking("shr"):
                facts_of = parse_raw(value, dict[str, tuple[str, ...]], where=where)
                # The original reads the first key of a line and drops the others in silence.
                if len(facts_of) != 1:
                    found = sorted(facts_of)
                    raise BadInput(f"{where}: expected an object of one image id, found {found}")
                [(name, lines)] = facts_of.items()
                key = parse_raw({"image_id": name}, _Raw, where=where).image_id
                if key in known:
                    report.left_out("facts of part 1 that part 2 replaces", source="shr")
                known[key] = lines
    return known
