"""Object HalBench: 300 photos of COCO to describe.

The questions are RLAIF-V's `obj_halbench_300_with_image.jsonl` (image_id, question; its photos in
base64 are not read), the photos and annotations COCO's of train2014 and val2014. Its words are in
the form of CHAIR's, see `hadpo.data.chair.synonyms`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import Report, Text, raw_records, read_json_lines, with_images
from hadpo.records import Question

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
    """The questions in file order; ids, of the photos as well, are "objhal-<image_id>"."""
    found = {
        where: Question(
            question_id=f"objhal-{raw.image_id}",
            benchmark="objhal",
            split=SPLIT,
            image_id=f"objhal-{raw.image_id}",
            image=str(_photo(photos, raw.image_id)),
            text=raw.question,
        )
        for where, raw in _records(path, report)
    }
    return with_images(found, report, source="objhal")


def image_ids(path: Path) -> list[int]:
    """COCO's numbers of the photos, each once; problems are reported with the questions."""
    return list(dict.fromkeys(raw.image_id for _, raw in _records(path, Report("skip"))))


def _records(path: Path, report: Report) -> Iterator[tuple[str, _Raw]]:
    values = read_json_lines(path, report, source="objhal", expected=_EXPECTED)
    return raw_records(values, _Raw, report, source="objhal", once=("image_id",))


def _photo(photos: Path, number: int) -> Path:
    files = [photos / part / f"COCO_{part}_{number:012d}.jpg" for part in PARTS]
    return next((file for file in files if file.is_file()), files[0])
