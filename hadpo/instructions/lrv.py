"""Instructions -> files to finetune on: filtered, balanced, split by image, in two layouts."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from hadpo.data import Report, lrv
from hadpo.instructions.filters import FilterSettings, balanced, kept
from hadpo.records import BadInput, Instruction, read_jsonl, to_json, write_jsonl, write_text

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
    images: dict[str, None] = {}
    with passed.open("w", encoding="utf-8") as file:
        for record in kept(records, settings, report):
            file.write(to_json(record) + "\n")
            kinds.append(record.kind)
            images[record.image_id] = None
    try:
        counts = report.finish()
        gone = balanced(kinds, settings)
        if gone:
            counts["instructions: left out for the balance"] = len(gone)
        draw = random.Random(f"{settings.seed}/val")
        val = set(draw.sample(sorted(images), round(settings.val_share * len(images))))
        for split in SPLITS:
            counts |= _write(passed, out, split, gone, val)
    finally:
        passed.unlink()
    if not any(key.startswith("records of") for key in counts):
        raise BadInput(f"{out}: no instruction is left: {counts}")
    write_text(out / "counts.json", json.dumps(dict(sorted(counts.items())), indent=1) + "\n")
    return dict(sorted(counts.items()))


def _write(passed: Path, out: Path, split: str, gone: set[int], val: set[str]) -> dict[str, int]:
    found: Counter[str] = Counter()

    def chosen() -> Iterator[Instruction]:
        for place, record in enumerate(read_jsonl(passed, Instruction)):
            if place not in gone and (record.image_id in val) == (split == "val"):
                found[f"records of {split}: {record.kind}"] += 1
                yield record

    path = out / f"{split}.jsonl"
    if not write_jsonl(path, chosen()):
        path.unlink()
        return {}
    lrv.write(read_jsonl(path, Instruction), out / split / "filter_cap.json", shape="annotations")
    return dict(found)
