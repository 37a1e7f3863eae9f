"""COCO val2014: the photos that POPE asks about, and the objects that are in them.

Layout: `val2014/COCO_val2014_<12 digits>.jpg`; `objects.json` holds JSON lines of `image` and
`objects`. The official release has its objects elsewhere (instances_val2014.json); without
`objects.json` the photos are used without evidence, and that is counted.
"""

from pathlib import Path

from PIL import Image

from hadpo.data import Report, field, inside, missing_images, read_json_lines
from hadpo.records import BadInput, Evidence

_EXPECTED = "expected JSON lines with the keys image and objects"


def read(folder: Path, report: Report) -> dict[str, Evidence]:
    """Evidence by image id (the file's name without its ending): path, size and objects.

    Raises:
        BadInput: the file of objects cannot be read as a whole.
    """
    path = folder / "objects.json"
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
        found[image.stem] = Evidence(
            image_id=image.stem,
            image=str(image),
            width=width,
            height=height,
            objects=tuple(names),
        )
    return found
