"""LRV's `vg_annotation.json`: the described boxes of Visual Genome, as its prompts show them.

One object: image id as text -> list of `caption` and `bbox`, which is [x, y, width, height] in
pixels from the top left corner. GAVIE's judge and the generation of instructions read it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hadpo.data import Report, box, field, image_id
from hadpo.data._stream import stream_object
from hadpo.records import BadInput, Region

_EXPECTED = (
    "expected vg_annotation.json of LRV: an object of image id and a list of caption and bbox"
)


def read(
    path: Path, report: Report, *, image_ids: Collection[str] | None = None
) -> dict[str, tuple[Region, ...]]:
    """Regions by image id.

    Args:
        path: the file.
        report: collects broken entries; an entry with one broken region is broken.
        image_ids: keep only these images; None keeps all.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    found: dict[str, tuple[Region, ...]] = {}
    for key, entry in stream_object(path, expected=_EXPECTED):
        where = f"{path}: image {key!r}"
        try:
            name = image_id({"image_id": key}, where=where)
            if image_ids is not None and name not in image_ids:
                report.left_out("images that are not used", source="vg_annotation")
                continue
            if name in found:  # JSON allows it, and the last would win in silence
                raise BadInput(f"{where}: the image is there twice")
            if not isinstance(entry, list):
                raise BadInput(f"{where}: expected a list, found {type(entry).__name__}")
            named = [_region(r, f"{where}, region {i}") for i, r in enumerate(entry)]
        except BadInput as error:
            report.bad(str(error), source="vg_annotation")
            continue
        # Boxes without an area hold nothing, and empty captions say nothing.
        found[name] = tuple(r for r in named if r.width > 0 and r.height > 0 and r.phrase.strip())
        report.left_out(
            "regions without an area or a caption",
            source="vg_annotation",
            count=len(named) - len(found[name]),
        )
    return found


def write(regions: Mapping[str, Sequence[Region]], path: Path) -> None:
    """Write regions in LRV's form; `read` gives the same regions back."""
    content = {
        key: [{"caption": r.phrase, "bbox": [r.x, r.y, r.width, r.height]} for r in some]
        for key, some in regions.items()
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _region(record: Any, where: str) -> Region:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected an object, found {type(record).__name__}")
    phrase = field(record, "caption", str, where=where)
    x, y, width, height = box(record, "bbox", where=where)
    return Region(x=x, y=y, width=width, height=height, phrase=phrase)
