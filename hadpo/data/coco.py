"""COCO val2014: the photos that POPE asks about, and the objects that are in them.

Layout: `val2014/COCO_val2014_<12 digits>.jpg`; `objects.json` holds JSON lines of `image` and
`objects`. The official release has its objects in `annotations/instances_val2014.json`, which is
read where `objects.json` is not there; without both the photos are used without evidence, and that
is counted.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from hadpo.data import Report, box, field, inside, missing_images, read_json_lines
from hadpo.data._stream import stream_list
from hadpo.records import BadInput, Evidence, Region

_EXPECTED = "expected JSON lines with the keys image and objects"
_INSTANCES = "expected COCO's instances: an object with images, annotations and categories"
_CAPTIONS = "expected COCO's captions: an object with images and annotations"


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
    found: dict[str, Evidence] = {}
    for where, record in read_json_lines(path, report, source="coco", expected=_EXPECTED):
        try:
            name = field(record, "image", str, where=where)
            image = inside(folder / "val2014", name, where=where)
            names = field(record, "objects", list, where=where)
            if not all(isinstance(each, str) for each in names):
                raise BadInput(f"{where}: field 'objects': expected names, found {names!r}")
        except BadInput as error:
            report.bad(str(error), source="coco")
            continue
        if missing_images([(where, str(image))], report, source="coco"):
            continue
        try:
            with Image.open(image) as opened:
                width, height = opened.size
        except OSError as error:
            report.bad(f"{where}: {image} is no readable image ({error})", source="coco")
            continue
        again = image.stem in found
        report.left_out("photos named again, the last counts", source="coco", count=int(again))
        found[image.stem] = Evidence(
            image_id=image.stem,
            image=str(image),
            width=width,
            height=height,
            objects=tuple(names),
        )
    return found


def instances(path: Path, images: Path, report: Report) -> dict[str, Evidence]:
    """Evidence of an official file of instances: path, size, objects (each named once), boxes.

    A region's phrase is the object's name. Image files are not opened: the file knows their sizes.

    Args:
        path: `instances_val2014.json`; read in three passes, so that memory stays flat.
        images: folder of the photos.
        report: collects broken records.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    names: dict[int, str] = {}
    for where, record in _part(path, "categories", report):
        try:
            names[field(record, "id", int, where=where)] = field(record, "name", str, where=where)
        except BadInput as error:
            report.bad(str(error), source="coco")
    regions: dict[int, list[Region]] = {}
    for where, record in _part(path, "annotations", report):
        try:
            key, region = _region(record, names, where)
        except BadInput as error:
            report.bad(str(error), source="coco")
            continue
        regions.setdefault(key, []).append(region)
    found: dict[str, Evidence] = {}
    for where, record in _part(path, "images", report):
        try:
            key, evidence = _photo(record, images, where)
        except BadInput as error:
            report.bad(str(error), source="coco")
            continue
        boxes = tuple(regions.get(key, ()))
        objects = tuple(dict.fromkeys(region.phrase for region in boxes))
        found[evidence.image_id] = replace(evidence, regions=boxes, objects=objects)
    return found


def captions(path: Path, report: Report) -> dict[int, tuple[str, ...]]:
    """Captions by COCO's number of the image, from an official file of captions.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    found: dict[int, tuple[str, ...]] = {}
    for where, record in _part(path, "annotations", report, expected=_CAPTIONS):
        try:
            key = field(record, "image_id", int, where=where)
            text = field(record, "caption", str, where=where)
        except BadInput as error:
            report.bad(str(error), source="coco")
            continue
        found[key] = (*found.get(key, ()), text)
    return found


def _part(
    path: Path, name: str, report: Report, *, expected: str = _INSTANCES
) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, record in enumerate(stream_list(path, expected=expected, below=name)):
        where = f"{path}: {name} {number}"
        if isinstance(record, dict):
            yield where, record
        else:
            report.bad(f"{where}: expected an object, found {type(record).__name__}", source="coco")


def _region(record: dict[str, Any], names: dict[int, str], where: str) -> tuple[int, Region]:
    category = field(record, "category_id", int, where=where)
    if category not in names:
        raise BadInput(f"{where}: field 'category_id': {category} is not among the categories")
    x, y, width, height = box(record, "bbox", where=where)
    region = Region(x=x, y=y, width=width, height=height, phrase=names[category])
    return field(record, "image_id", int, where=where), region


def _photo(record: dict[str, Any], images: Path, where: str) -> tuple[int, Evidence]:
    image = inside(images, field(record, "file_name", str, where=where), where=where)
    evidence = Evidence(
        image_id=image.stem,
        image=str(image),
        width=field(record, "width", int, where=where),
        height=field(record, "height", int, where=where),
    )
    return field(record, "id", int, where=where), evidence
