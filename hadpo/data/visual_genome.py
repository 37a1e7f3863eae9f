"""Visual Genome: image sizes, image files and described regions.

Layout: `image_data.json`, `region_descriptions.json` (needed only as evidence), `VG_100K`,
`VG_100K_2`.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from hadpo.data import Report, field, image_id, inside
from hadpo.data._stream import stream_list
from hadpo.records import BadInput, Evidence, Region

_IMAGES = (
    "expected image_data.json of Visual Genome: a list of objects with image_id, url, width, height"
)
_REGIONS = (
    "expected region_descriptions.json of Visual Genome: a list of objects with id and regions"
)


def read(
    folder: Path, report: Report, *, image_ids: Collection[str] | None = None
) -> dict[str, Evidence]:
    """Evidence by image id: path, size and regions. Image files are not opened or looked for.

    Args:
        folder: the Visual Genome folder.
        report: collects broken records.
        image_ids: keep only these images; None keeps all.

    Raises:
        BadInput: a file that cannot be read as a whole.
    """
    known = images(folder, report, image_ids=image_ids)
    if (folder / "region_descriptions.json").is_file():
        regions = _regions(folder / "region_descriptions.json", known, report)
        return {key: replace(e, regions=regions.get(key, ())) for key, e in known.items()}
    report.left_out("no region_descriptions.json: no regions known", source="visual_genome")
    return known


def images(
    folder: Path, report: Report, *, image_ids: Collection[str] | None = None
) -> dict[str, Evidence]:
    """As `read`, without the regions (their file is large and training does not need it)."""
    found: dict[str, Evidence] = {}
    path = folder / "image_data.json"
    for number, record in enumerate(stream_list(path, expected=_IMAGES)):
        try:
            evidence = _image(record, folder, where=f"{path}: record {number}")
        except BadInput as error:
            report.bad(str(error), source="visual_genome")
            continue
        if evidence.image_id in found:
            report.bad(
                f"{path}: record {number}: image {evidence.image_id} is there twice",
                source="visual_genome",
            )
        elif image_ids is None or evidence.image_id in image_ids:
            found[evidence.image_id] = evidence
    return found


def coco_ids(folder: Path) -> dict[str, int]:
    """Visual Genome id -> COCO id, for the images that come from COCO (null elsewhere)."""
    records = stream_list(folder / "image_data.json", expected=_IMAGES)
    pairs = ((r.get("image_id"), r.get("coco_id")) for r in records if isinstance(r, dict))
    return {str(key): value for key, value in pairs if isinstance(value, int)}


def _image(record: Any, folder: Path, *, where: str) -> Evidence:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected an object, found {type(record).__name__}")
    url = field(record, "url", str, where=where)
    # The files lie in two folders; only the last two parts of the address say in which one.
    tail = "/".join(url.split("/")[-2:])
    width, height = (field(record, name, int, where=where) for name in ("width", "height"))
    if min(width, height) < 1:
        raise BadInput(f"{where}: an image of {width} x {height} pixels")
    return Evidence(
        image_id=image_id(record, where=where),
        image=str(inside(folder, tail, where=where)),
        width=width,
        height=height,
    )


def _regions(
    path: Path, known: dict[str, Evidence], report: Report
) -> dict[str, tuple[Region, ...]]:
    found: dict[str, tuple[Region, ...]] = {}
    for number, entry in enumerate(stream_list(path, expected=_REGIONS)):
        where = f"{path}: record {number}"
        try:
            if not isinstance(entry, dict):
                raise BadInput(f"{where}: expected an object, found {type(entry).__name__}")
            regions = field(entry, "regions", list, where=where)
            if not regions:
                # The original takes the image's id from the first region and dies on such an entry.
                report.left_out("entries without regions", source="visual_genome")
                continue
            key = image_id(regions[0], where=f"{where}, region 0")
            if key not in known:
                report.left_out("entries of images that are not used", source="visual_genome")
                continue
            named = [_region(r, where=f"{where}, region {i}") for i, r in enumerate(regions)]
        except BadInput as error:
            report.bad(str(error), source="visual_genome")
            continue
        # Empty phrases say nothing; the original skips them too (get_desc).
        said = [r for r in named if r.phrase.strip()]
        # Boxes without an area hold nothing; the original shows them to its judge.
        found[key] = tuple(r for r in said if r.width > 0 and r.height > 0)
        gone = {
            "regions with an empty phrase": len(named) - len(said),
            "regions without an area": len(said) - len(found[key]),
        }
        for why, count in gone.items():
            report.left_out(why, source="visual_genome", count=count)
    return found


def _region(record: Any, *, where: str) -> Region:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected an object, found {type(record).__name__}")
    x, y, width, height = (
        float(field(record, name, (int, float), where=where))
        for name in ("x", "y", "width", "height")
    )
    phrase = field(record, "phrase", str, where=where)
    return Region(x=x, y=y, width=width, height=height, phrase=phrase)
