"""Object HalBench: 300 photos of COCO to describe.

The questions are RLAIF-V's `obj_halbench_300_with_image.jsonl` (image_id, question; its photos in
base64 are not read), the photos and annotations COCO's of train2014 and val2014. Its words are in
the form of CHAIR's, see `hadpo.data.chair.synonyms`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import Report, Text, missing_images, parse_raw, read_json_lines
from hadpo.records import BadInput, Question

SPLIT = "all"
PARTS = ("val2014", "train2014")
_EXPECTED = (
    "expected Object HalBench's lines with image_id, COCO's number of the photo, and question"
)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    image_id: int
    question: Text


def questions(path: Path, photos: Path, report: Report) -> list[Question]:
    """The questions in file order; ids, of the photos as well, are "objhal-<image_id>".

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    found: dict[str, Question] = {}
    places: dict[str, str] = {}
    for where, raw in _records(path, report):
        with report.checking("objhal"):
            key = f"objhal-{raw.image_id}"
            if key in found:
                raise BadInput(f"{where}: image_id {raw.image_id} is there twice")
            name = "{0}/COCO_{0}_{1:012d}.jpg"
            files = [photos / name.format(part, raw.image_id) for part in PARTS]
            image = str(next((file for file in files if file.is_file()), files[0]))
            places[image] = where
            found[key] = Question(
                question_id=key,
                benchmark="objhal",
                split=SPLIT,
                image_id=key,
                image=image,
                text=raw.question,
            )
    missing = missing_images(((w, p) for p, w in places.items()), report, source="objhal")
    return [question for question in found.values() if question.image not in missing]


def image_ids(path: Path) -> list[int]:
    """COCO's numbers of the photos, each once; problems are reported with the questions."""
    return list(dict.fromkeys(raw.image_id for _, raw in _records(path, Report("skip"))))


def _records(path: Path, report: Report) -> Iterator[tuple[str, _Raw]]:
    for where, value in read_json_lines(path, report, source="objhal", expected=_EXPECTED):
        with report.checking("objhal"):
            yield where, parse_raw(value, _Raw, where=where)
