"""POPE question files: is there a ... in the image?

Layout: `coco_pope_{random,popular,adversarial}.json`, JSON lines in spite of the name, with
question_id, image (a file of COCO val2014), text and label. Files of any length are read; the
official ones have 3000 questions, an older random one 2910.
"""

from pathlib import Path

from hadpo.data import Report, field, inside, missing_images, read_json_lines
from hadpo.records import BadInput, Question

SPLITS = ("random", "popular", "adversarial")
_EXPECTED = "expected JSON lines with the keys question_id, image, text, label"


def read(folder: Path, images: Path, report: Report) -> list[Question]:
    """The questions of all three splits, in file order; ids are "pope-<split>-<number>".

    Args:
        folder: holds the three files.
        images: folder with `val2014`.
        report: collects broken records and missing images.

    Raises:
        BadInput: a file that cannot be read as a whole.
    """
    return [q for split in SPLITS for q in _split(folder, images / "val2014", split, report)]


def path_of(folder: Path, split: str) -> Path:
    """The file of one split."""
    return folder / f"coco_pope_{split}.json"


def _split(folder: Path, images: Path, split: str, report: Report) -> list[Question]:
    path = path_of(folder, split)
    found: dict[str, Question] = {}
    places: dict[str, str] = {}
    for where, record in read_json_lines(path, report, source="pope", expected=_EXPECTED):
        try:
            name = field(record, "image", str, where=where)
            image = inside(images, name, where=where)
            label = field(record, "label", str, where=where)
            if label not in ("yes", "no"):  # the original takes everything but "no" for a yes
                raise BadInput(f"{where}: field 'label': expected yes or no, found {label!r}")
            question = Question(
                question_id=f"pope-{split}-{field(record, 'question_id', int, where=where)}",
                benchmark="pope",
                split=split,
                image_id=image.stem,
                image=str(image),
                text=field(record, "text", str, where=where),
                label=label,
            )
            if question.question_id in found:
                raise BadInput(f"{where}: question_id {record['question_id']} is there twice")
        except BadInput as error:
            report.bad(str(error), source="pope")
            continue
        found[question.question_id] = question
        places.setdefault(question.image, where)
    missing = missing_images(((w, p) for p, w in places.items()), report, source="pope")
    left = [q for q in found.values() if q.image not in missing]
    gone = len(found) - len(left)
    report.left_out("questions about missing photos", source="pope", count=gone)
    return left
