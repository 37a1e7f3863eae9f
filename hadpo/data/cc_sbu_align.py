"""CC-SBU-Align, the captions that MiniGPT-4's auxiliary loss learns from.

Layout: `filter_cap.json` with `annotations`, a list of image_id and caption; photos are
`image/<id>.jpg`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo.data import Report, Stem, Text, parse_raw, raw_records, with_images
from hadpo.records import Instruction, read_json

_EXPECTED = (
    "expected filter_cap.json: an object whose 'annotations' are a list of image_id and caption"
)


@dataclass(frozen=True, kw_only=True)
class _Content:
    annotations: list[Any]


@dataclass(frozen=True, kw_only=True)
class _Raw:
    image_id: Stem
    caption: Text


def read(folder: Path, report: Report) -> list[Instruction]:
    """The captions in file order (the original never reaches the last one; we do).

    Their `instruction` is empty: the backbone draws one of its own requests.
    """
    path = folder / "filter_cap.json"
    content = parse_raw(read_json(path, dict, expected=_EXPECTED), _Content, where=str(path))
    values = ((f"{path}: record {n}", value) for n, value in enumerate(content.annotations))
    captions = {
        where: Instruction(
            instruction_id=f"cc_sbu_align-{where.rpartition(' ')[2]}",
            image_id=raw.image_id,
            image=str(folder / "image" / f"{raw.image_id}.jpg"),
            instruction="",
            answer=raw.caption,
            kind="caption",
            source=path.name,
        )
        for where, raw in raw_records(values, _Raw, report, source="cc_sbu_align")
    }
    return with_images(captions, report, source="cc_sbu_align")
