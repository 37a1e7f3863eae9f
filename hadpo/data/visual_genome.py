"""Visual Genome: image sizes, image files and described regions; LRV's file of the same regions.

Layout: `image_data.json`, `region_descriptions.json` (needed only as evidence), `VG_100K`,
`VG_100K_2`. LRV-Instruction has the regions as `vg_annotation.json`, one object: image id as text
-> list of `caption` and `bbox`, which is [x, y, width, height] in pixels from the top left corner.
GAVIE's judge and the generation of instructions read it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hadpo.data import (
    Box,
    ImageId,
    Report,
    Side,
    inside,
    parse_raw,
    raw_records,
    stream_list,
    stream_object,
)
from hadpo.records import BadInput, Evidence, Region

_IMAGES = (
    "expected image_data.json of Visual Genome: a list of objects with image_id, url, width, height"
)
_REGIONS = (
    "expected region_descriptions.json of Visual Genome: a list of objects with id and regions"
)
_ANNOTATION = (
    "expected vg_annotation.json of LRV: an object of image id and a list of caption and bbox"
)


@dataclass(frozen=True, kw_only=True)
class _Id:
    image_id: ImageId


@dataclass(frozen=True, kw_only=True)
class _Image(_Id):
    url: str
    width: Side
    height: Side


@dataclass(frozen=True, kw_only=True)
class _Entry:
    regions: list[Region]


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    caption: str
    bbox: Box


def read(
    folder: Path, report: Report, *, image_ids: Collection[str] | None = None
) -> dict[str, Evidence]:
    """Evidence by image id, of some or all images: path, size, regions; no file is looked for."""
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
    evidence: dict[str, Evidence] = {}
    values = stream_list(folder / "image_data.json", expected=_IMAGES)
    records = raw_records(values, _Image, report, source="visual_genome", once=("image_id",))
    for where, raw in records:
        with report.checking("visual_genome"):
            # The files lie in two folders; only the last two parts of the address say in which one.
            image = inside(folder, "/".join(raw.url.split("/")[-2:]), where=where)
            key = raw.image_id
            if image_ids is None or key in image_ids:
                evidence[key] = Evidence(
                    image_id=key, image=str(image), width=raw.width, height=raw.height
                )
    return evidence


def coco_ids(folder: Path) -> dict[str, int]:
    """Visual Genome id -> COCO id, for the images that come from COCO (null elsewhere)."""
    records = (value for _, value in stream_list(folder / "image_data.json", expected=_IMAGES))
    pairs = ((r.get("image_id"), r.get("coco_id")) for r in records if isinstance(r, dict))
    return {str(key): value for key, value in pairs if isinstance(value, int)}


def _regions(
    path: Path, known: Mapping[str, Evidence], report: Report
) -> dict[str, tuple[Region, ...]]:
    by_image: dict[str, tuple[Region, ...]] = {}
    for where, value in stream_list(path, expected=_REGIONS):
        with report.checking("visual_genome"):
            entry = value.get("regions") if isinstance(value, dict) else None
            if entry == []:
                # The original takes the image's id from the first region and dies on such an entry.
                report.left_out("entries without regions", source="visual_genome")
                continue
            key = ""
            if isinstance(entry, list):
                key = parse_raw(entry[0], _Id, where=f"{where}, region 0").image_id
            if key and key not in known:
                report.left_out("entries of images that are not used", source="visual_genome")
                continue
            regions = parse_raw(value, _Entry, where=where).regions
            # Empty phrases say nothing; the original skips them too (get_desc).
            with_phrase = [r for r in regions if r.phrase.strip()]
            # Boxes without an area hold nothing; the original shows them to its judge.
            by_image[key] = tuple(r for r in with_phrase if r.width > 0 and r.height > 0)
            counts = {
                "regions with an empty phrase": len(regions) - len(with_phrase),
                "regions without an area": len(with_phrase) - len(by_image[key]),
            }
            for why, count in counts.items():
                report.left_out(why, source="visual_genome", count=count)
    return by_image


def read_annotation(
    path: Path, report: Report, *, image_ids: Collection[str] | None = None
) -> dict[str, tuple[Region, ...]]:
    """Regions by image id, of some or all images, from LRV's `vg_annotation.json`.

    An entry with one broken region is broken.
    """
    by_image: dict[str, tuple[Region, ...]] = {}
    for name, entry in stream_object(path, expected=_ANNOTATION):
        where = f"{path}: image {name!r}"
        with report.checking("vg_annotation"):
            key = parse_raw({"image_id": name}, _Id, where=where).image_id
            if image_ids is not None and key not in image_ids:
                report.left_out("images that are not used", source="vg_annotation")
                continue
            if key in by_image:  # JSON allows it, and the last would win in silence
                raise BadInput(f"{where}: the image is there twice")
            raw = parse_raw(entry, list[_Annotation], where=where)
            regions = [_region(r.caption, *r.bbox) for r in raw]
            # Boxes without an area hold nothing, and empty captions say nothing.
            by_image[key] = tuple(
                r for r in regions if r.width > 0 and r.height > 0 and r.phrase.strip()
            )
            report.left_out(
                "regions without an area or a caption",
                source="vg_annotation",
                count=len(regions) - len(by_image[key]),
            )
    return by_image


def _region(phrase: str, x: float, y: float, width: float, height: float) -> Region:
    return Region(x=x, y=y, width=width, height=height, phrase=phrase)
