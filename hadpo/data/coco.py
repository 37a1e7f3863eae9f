"""COCO val2014: the photos that POPE asks about, and the objects that are in them.

Layout: `val2014/COCO_val2014_<12 digits>.jpg`; `objects.json` holds JSON lines of `image` and
`objects`. The official release has its objects in `annotations/instances_val2014.json`, which is
read if `objects.json` is missing; without both the photos are used without evidence, and that is
counted.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hadpo.data import (
    Box,
    InnerPath,
    Report,
    missing_images,
    parse_raw,
    read_json_lines,
    stream_list,
)
from hadpo.images import open_image
from hadpo.records import Evidence, Region

_EXPECTED = "expected JSON lines with the keys image and objects"
_INSTANCES = "expected COCO's instances: an object with images, annotations and categories"
_CAPTIONS = "expected COCO's captions: an object with images and annotations"


@dataclass(frozen=True, kw_only=True)
class _Objects:
    image: InnerPath
    objects: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Category:
    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    image_id: int
    category_id: int
    bbox: Box


@dataclass(frozen=True, kw_only=True)
class _Photo:
    id: int
    file_name: InnerPath
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class _Caption:
    image_id: int
    caption: str


Raw = TypeVar("Raw", _Category, _Annotation, _Photo, _Caption)


def read(folder: Path, report: Report) -> dict[str, Evidence]:
    """Evidence by image id (the file's name without its ending): path, size and objects.

    Raises:
        BadInput: the file of objects cannot be read as a whole.
    """
    path, official = folder / "objects.json", folder / "annotations" / "instances_val2014.json"
    if not path.is_file() and official.is_file():
        return instances(official, folder / "val2014", report)
    if not path.is_file():
        report.left_out("no objects.json: no objects known", source="coco")
        return {}
    evidence: dict[str, Evidence] = {}
    for where, value in read_json_lines(path, report, source="coco", expected=_EXPECTED):
        with report.checking("coco"):
            raw = parse_raw(value, _Objects, where=where)
            image = folder / "val2014" / raw.image
            if missing_images([(where, str(image))], report, source="coco"):
                continue
            with open_image(image) as opened:
                width, height = opened.size
            again = image.stem in evidence
            report.left_out("photos named again, the last counts", source="coco", count=int(again))
            evidence[image.stem] = Evidence(
                image_id=image.stem,
                image=str(image),
                width=width,
                height=height,
                objects=raw.objects,
            )
    return evidence


def instances(
    path: Path, images: Path, report: Report, *, ids: Collection[int] | None = None
) -> dict[str, Evidence]:
    """Evidence of an official file of instances: path, size, objects (each named once), boxes.

    A region's phrase is the object's name. Image files are not opened: the file knows their sizes.

    Args:
        path: `instances_val2014.json`; read in three passes, so that memory stays flat.
        images: folder of the photos.
        report: collects broken records.
        ids: COCO's numbers of the images that are read; None: all.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    names = {raw.id: raw.name for _, raw in _part(path, "categories", _Category, report)}
    regions: dict[int, list[Region]] = {}
    for where, raw in _part(path, "annotations", _Annotation, report):
        if ids is not None and raw.image_id not in ids:
            continue
        if raw.category_id not in names:
            report.bad(
                f"{where}: field 'category_id': {raw.category_id} is not among the categories",
                source="coco",
            )
            continue
        x, y, width, height = raw.bbox
        region = Region(x=x, y=y, width=width, height=height, phrase=names[raw.category_id])
        regions.setdefault(raw.image_id, []).append(region)
    evidence: dict[str, Evidence] = {}
    for _, raw in _part(path, "images", _Photo, report):
        if ids is not None and raw.id not in ids:
            continue
        image = images / raw.file_name
        boxes = tuple(regions.get(raw.id, ()))
        evidence[image.stem] = Evidence(
            image_id=image.stem,
            image=str(image),
            width=raw.width,
            height=raw.height,
            regions=boxes,
            objects=tuple(dict.fromkeys(region.phrase for region in boxes)),
        )
    return evidence


def captions(
    path: Path, report: Report, *, ids: Collection[int] | None = None
) -> dict[int, tuple[str, ...]]:
    """Captions by COCO's number of the image, all or of some, from an official file of captions.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    texts: dict[int, tuple[str, ...]] = {}
    for _, raw in _part(path, "annotations", _Caption, report, expected=_CAPTIONS):
        if ids is None or raw.image_id in ids:
            texts[raw.image_id] = (*texts.get(raw.image_id, ()), raw.caption)
    return texts


def _part(
    path: Path, name: str, kind: type[Raw], report: Report, *, expected: str = _INSTANCES
) -> Iterator[tuple[str, Raw]]:
    """The records of one list of an official file; broken ones are reported."""
    for where, value in stream_list(path, expected=expected, below=name, called=name):
        with report.checking("coco"):
            yield where, parse_raw(value, kind, where=where)
