"""COCO val2014: the photos that POPE asks about, and the objects that are in them.

Layout: `val2014/COCO_val2014_<12 digits>.jpg`; `objects.json` holds JSON lines of `image` and
`objects`. The official release has its objects in `annotations/instances_val2014.json`, which is
read if `objects.json` is missing; without both the photos are used without evidence, and that is
counted.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from hadpo.data import (
    Box,
    InnerPath,
    Noun,
    Report,
    Side,
    raw_records,
    read_json_lines,
    stream_list,
)
from hadpo.images import open_image
from hadpo.records import BadInput, Evidence, Region

_EXPECTED = "expected JSON lines with the keys image and objects"
_INSTANCES = "expected COCO's instances: an object with images, annotations and categories"
_CAPTIONS = "expected COCO's captions: an object with images and annotations"


def _check_box(box: tuple[float, ...]) -> tuple[float, ...]:
    if min(box) < 0:  # a width or height of 0 stands in the official files
        raise ValueError(f"expected a place and a size inside of the photo, found {box}")
    return box


_Box = Annotated[Box, AfterValidator(_check_box)]


@dataclass(frozen=True, kw_only=True)
class _Objects:
    image: InnerPath
    objects: tuple[Noun, ...]


@dataclass(frozen=True, kw_only=True)
class _Category:
    id: int
    name: Noun


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    image_id: int
    category_id: int
    bbox: _Box


@dataclass(frozen=True, kw_only=True)
class _Photo:
    id: int
    file_name: InnerPath
    width: Side
    height: Side


@dataclass(frozen=True, kw_only=True)
class _Caption:
    image_id: int
    caption: str


PARTS = ("train2014", "val2014")
FILES = tuple(f"{kind}_{part}.json" for part in PARTS for kind in ("instances", "captions"))
Raw = TypeVar("Raw", _Category, _Annotation, _Photo, _Caption)


def read(folder: Path, report: Report) -> dict[str, Evidence]:
    """Evidence by image id (the file's name without its ending): path, size and objects."""
    path, official = folder / "objects.json", folder / "annotations" / "instances_val2014.json"
    if not path.is_file() and official.is_file():
        return instances(official, folder / "val2014", report)
    if not path.is_file():
        report.left_out("no objects.json: no objects known", source="coco")
        return {}
    evidence: dict[str, Evidence] = {}
    values = read_json_lines(path, report, source="coco", expected=_EXPECTED)
    for where, raw in raw_records(values, _Objects, report, source="coco"):
        with report.checking("coco"):
            image = folder / "val2014" / raw.image
            if not image.is_file():
                raise BadInput(f"{where}: no image file {image}")
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

    A region's phrase is the object's name. The file is read in three passes, so that memory stays
    flat. `ids` are COCO's numbers of the images that are read; None: all.
    """
    categories = _part(path, "categories", _Category, report, once=("id", "name"))
    names = {raw.id: raw.name for _, raw in categories}
    photos = {
        raw.id: raw
        for _, raw in _part(path, "images", _Photo, report, once=("id", "file_name"))
        if ids is None or raw.id in ids
    }
    regions: dict[int, list[Region]] = {number: [] for number in photos}
    for where, raw in _part(path, "annotations", _Annotation, report):
        if ids is not None and raw.image_id not in ids:
            continue
        with report.checking("coco"):
            if raw.category_id not in names:
                raise BadInput(
                    f"{where}: field 'category_id': {raw.category_id} is not among the categories"
                )
            if raw.image_id not in photos:
                raise BadInput(f"{where}: field 'image_id': {raw.image_id} is not among the images")
            x, y, width, height = raw.bbox
            region = Region(x=x, y=y, width=width, height=height, phrase=names[raw.category_id])
            regions[raw.image_id].append(region)
    return {
        (image := images / raw.file_name).stem: Evidence(
            image_id=image.stem,
            image=str(image),
            width=raw.width,
            height=raw.height,
            regions=tuple(regions[number]),
            objects=tuple(dict.fromkeys(region.phrase for region in regions[number])),
        )
        for number, raw in photos.items()
    }


def captions(
    path: Path, report: Report, *, ids: Collection[int] | None = None
) -> dict[int, tuple[str, ...]]:
    """Captions by COCO's number of the image, all or of some, from an official file of captions."""
    texts: dict[int, tuple[str, ...]] = {}
    for _, raw in _part(path, "annotations", _Caption, report, expected=_CAPTIONS):
        if ids is None or raw.image_id in ids:
            texts[raw.image_id] = (*texts.get(raw.image_id, ()), raw.caption)
    return texts


def annotated(
    folder: Path, photos: Path, ids: Collection[int] | None, report: Report
) -> dict[str, Evidence]:
    """Objects, and captions as facts, of photos by their file's name, in the order of the ids.

    A photo without captions has an empty one.

    Args:
        folder: with COCO's instances and captions of train2014 and val2014.
        photos: folder with train2014 and val2014.
        ids: COCO's numbers; None: all of val2014.
        report: collects broken records.

    Raises:
        BadInput: one of the four files is missing, or says nothing of a photo.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise BadInput(
            f"{folder / missing[0]}: no such file; expected instances and captions of "
            "train2014 and val2014, all four: hadpo fetch coco2014"
        )
    found: dict[int, Evidence] = {}
    for part in PARTS if ids is not None else PARTS[1:]:
        wanted = None if ids is None else set(ids) - found.keys()
        known = instances(folder / f"instances_{part}.json", photos / part, report, ids=wanted)
        said = captions(folder / f"captions_{part}.json", report, ids=wanted)
        for key, each in known.items():
            number = _number(key)
            found[number] = replace(each, facts=said.pop(number, ("",)))
        gone = sum(map(len, said.values()))
        report.left_out("captions of photos without instances", source="coco", count=gone)
    if lost := [number for number in ids or () if number not in found]:
        raise BadInput(f"{folder}: nothing of {len(lost)} photos of the list: {lost[:5]}")
    return {found[n].image_id: found[n] for n in (found if ids is None else ids)}


def of_list(images: Mapping[str, Evidence], ids: Collection[int] | None) -> dict[str, Evidence]:
    """The photos of a list, in its order; None: all of val2014."""
    photos = {k: e for k, e in images.items() if k.startswith(("COCO_val2014_", "COCO_train2014_"))}
    if ids is None:
        return {key: each for key, each in photos.items() if key.startswith("COCO_val2014_")}
    by_number = {_number(key): each for key, each in photos.items()}
    return {by_number[number].image_id: by_number[number] for number in ids}


def _number(key: str) -> int:
    """COCO's number of a photo; all twelve digits of its file's name count."""
    return int(key.rpartition("_")[2])


def _part(
    path: Path,
    name: str,
    kind: type[Raw],
    report: Report,
    *,
    expected: str = _INSTANCES,
    once: Collection[str] = (),
) -> Iterator[tuple[str, Raw]]:
    """The records of one list of an official file; broken ones are reported."""
    values = stream_list(path, expected=expected, below=name, called=name)
    return raw_records(values, kind, report, source="coco", once=once)
