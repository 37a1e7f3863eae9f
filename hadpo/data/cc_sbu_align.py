"""CC-SBU-Align, the captions that MiniGPT-4's auxiliary loss learns from.

Layout: `filter_cap.json` with `annotations`, a list of image_id and caption; photos are
`image/<id>.jpg`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo.data import Report, Stem, Text, missing_images, parse_raw
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

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    path = folder / "filter_cap.json"
    captions: dict[str, Instruction] = {}
    content = parse_raw(read_json(path, dict, expected=_EXPECTED), _Content, where=str(path))
    for number, value in enumerate(content.annotations):
        where = f"{path}: record {number}"
        with report.checking("cc_sbu_align"):
            raw = parse_raw(value, _Raw, where=where)
            captions[where] = Instruction(
                instruction_id=f"cc_sbu_align-{number}",
                image_id=raw.image_id,
                image=str(folder / "image" / f"{raw.image_id}.jpg"),
                instruction="",
                answer=raw.caption,
                kind="caption",
                source=path.name,
            )
    places = ((where, caption.image) for where, caption in captions.items())
    missing = missing_images(places, report, source="cc_sbu_align")
    return [caption for caption in captions.values() if caption.image not in missing]
