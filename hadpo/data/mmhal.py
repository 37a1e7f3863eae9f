"""MMHal-Bench's questions: 96 open ones about photos of OpenImages, each with a person's answer.

The file is LLaVA-RLHF's `response_template.json`, which RLAIF-V calls
`mmhal-bench_answer_template.json`: a list of objects. The photos lie in one folder, named by their
`image_id` or as in `image_src`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hadpo.data import Report, Stem, Text, raw_records, read_json_lines, with_images
from hadpo.records import Evidence, Question

_EXPECTED = (
    "expected MMHal-Bench's list of objects with question_type, image_id, image_src, "
    "image_content, question and gt_answer"
)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    question_type: str
    image_id: Stem
    image_src: str
    image_content: list[str]
    question: Text
    gt_answer: Text


def questions(path: Path, images: Path, report: Report) -> list[Question]:
    """The questions in file order; splits are their types, labels the answers that a person gave.

    Ids, of the photos as well, are "mmhal-<image_id>": what is known of a photo belongs to this
    benchmark alone. A photo is asked about once: again is a broken record.
    """
    found = {
        where: Question(
            question_id=f"mmhal-{raw.image_id}",
            benchmark="mmhal",
            split=raw.question_type,
            image_id=f"mmhal-{raw.image_id}",
            image=str(_photo(images, raw)),
            text=raw.question,
            label=raw.gt_answer,
        )
        for where, raw in _records(path, report)
    }
    return with_images(found, report, source="mmhal")


def evidence(path: Path, images: Path) -> dict[str, Evidence]:
    """The photos with what is in them as facts; problems are reported with the questions."""
    return {
        (key := f"mmhal-{raw.image_id}"): Evidence(
            image_id=key,
            image=str(_photo(images, raw)),
            width=0,
            height=0,
            facts=tuple(raw.image_content),
        )
        for _, raw in _records(path, Report("skip"))
    }


def _records(path: Path, report: Report) -> Iterator[tuple[str, _Raw]]:
    values = read_json_lines(path, report, source="mmhal", expected=_EXPECTED)
    return raw_records(values, _Raw, report, source="mmhal", once=("image_id",))


def _photo(images: Path, raw: _Raw) -> Path:
    """The photo under one of its names; the first of them if there is none."""
    places = [images / f"{raw.image_id}.jpg", images / (raw.image_src.rpartition("/")[2] or "-")]
    return next((place for place in places if place.is_file()), places[0])
