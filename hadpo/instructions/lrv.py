"""Instructions -> files to finetune on: filtered, balanced, split by image, in two layouts."""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hadpo.data import Report, lrv
from hadpo.instructions.filters import FilterSettings, balanced, kept
from hadpo.records import BadInput, Instruction, read_jsonl, replacing, to_json, write_text

SPLITS = ("train", "val")


def convert(
    records: Iterable[Instruction], out: Path, settings: FilterSettings, report: Report
) -> dict[str, int]:
    """Write `<split>.jsonl` (records) and `<split>/filter_cap.json` (LRV's form), record by record.

    Args:
        records: of `data.lrv.read`, of one file or of several, or generated ones.
        out: folder to write to; a split without records is not written.
        settings: what is kept.
        report: collects broken records; counts of what was left out come from it.

    Returns:
        The counts, also in `counts.json`.

    Raises:
        BadInput: broken input (see `on_bad`), or nothing left.
    """
    out.mkdir(parents=True, exist_ok=True)
    passed = out / "passed.jsonl.part"
    kinds: list[str] = []
    images: list[str] = []  # of each record
    with passed.open("w", encoding="utf-8") as file:
        for record in kept(records, settings, report):
            file.write(to_json(record) + "\n")
            kinds.append(record.kind)
            images.append(sys.intern(record.image_id))
    try:
        counts = report.finish()
        gone = balanced(kinds, settings)
        if gone:
            counts["instructions: left out for the balance"] = len(gone)
        known = sorted(set(images))
        draw = random.Random(f"{settings.seed}/val")
        val = set(draw.sample(known, round(settings.val_share * len(known))))
        for split in SPLITS:
            places = {
                place
                for place, image in enumerate(images)
                if place not in gone and (image in val) == (split == "val")
            }
            if places:
                _write(passed, places, out, split)
                some = Counter(kinds[place] for place in places)
                counts |= {f"records of {split}: {kind}": n for kind, n in some.items()}
    finally:
        passed.unlink()
    if not any(key.startswith("records of") for key in counts):
        raise BadInput(f"{out}: no instruction is left: {counts}")
    counts = dict(sorted(counts.items()))
    write_text(out / "counts.json", json.dumps(counts, indent=1) + "\n")
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
