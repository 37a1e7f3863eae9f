"""LRV-Instruction: instructions and answers about Visual Genome images, and about charts.

Files: `filter_cap*.json` with images `<image_id>.jpg` in one flat folder, and
`chart_release_update.json` whose image_id is a file's name with its ending. Records hold image_id,
question, answer and task; the task "negative" (in any case) marks the negative ones. The released
lists are plain; LRV's own training code wants them below `annotations`, so both are read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hadpo.data import Report, Stem, Text, raw_records, stream_list
from hadpo.records import BadInput, Instruction, replacing

_EXPECTED = (
    "expected LRV's instructions: a list of objects with image_id, question, answer and task, or "
    "an object with that list below 'annotations'"
)
_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


@dataclass(frozen=True, kw_only=True)
class _Raw:
    image_id: Stem
    question: Text
    answer: Text
    task: str | None = None  # charts may have none: nothing says if their question misleads


def read(path: Path, images: Path, report: Report) -> Iterator[Instruction]:
    """The records in file order, one at a time; ids are "<file>-<number>", counted from 0.

    What is broken or has no image is in the report when the last record is read.
    """
    files: dict[str, str] = {}  # image_id -> path, "" without a file
    values = stream_list(path, expected=_EXPECTED, below="annotations")
    for where, raw in raw_records(values, _Raw, report, source="lrv"):
        with report.checking("lrv"):
            chart = is_chart(raw.image_id)
            if raw.image_id not in files:
                image = images / (raw.image_id if chart else f"{raw.image_id}.jpg")
                files[raw.image_id] = str(image) if image.is_file() else ""
                if not files[raw.image_id]:
                    raise BadInput(f"{where}: no image file {image}")
            if not files[raw.image_id]:
                report.left_out("records of missing images", source="lrv")
                continue
            task = raw.task or ""
            is_negative = task.strip().lower().startswith("negative")
            yield Instruction(
                instruction_id=f"{path.stem}-{where.rpartition(' ')[2]}",
                image_id=raw.image_id,
                image=files[raw.image_id],
                instruction=raw.question,
                answer=raw.answer,
                kind="chart" if chart else "negative" if is_negative else "positive",
                source=path.name,
                task=task,
            )


def write(
    records: Iterable[Instruction], path: Path, *, shape: Literal["list", "annotations"] = "list"
) -> int:
    """Write records in LRV's form, one at a time; `read` gives the same questions and answers back.

    Their weight and our ids are not part of that form: a plain list, or one below `annotations`, as
    LRV's training code reads it. Returns how many were written.
    """
    values = (
        {"image_id": record.image_id, "question": record.instruction, "answer": record.answer}
        | ({"task": record.task} if record.task else {})
        for record in records
    )
    return write_list(path, values, below="" if shape == "list" else shape)


def write_list(path: Path, values: Iterable[Mapping[str, Any]], *, below: str = "") -> int:
    """Write a JSON list, or an object with one `below` a key, value by value; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(f'{{"{below}": [\n' if below else "[\n")
        for count, value in enumerate(values, start=1):
            file.write((",\n" if count > 1 else "") + json.dumps(value, ensure_ascii=False))
        file.write("\n]}\n" if below else "\n]\n")
    return count


def is_chart(image_id: str) -> bool:
    """Whether an image_id is the name of a chart's file."""
    return image_id.lower().endswith(_IMAGE_ENDINGS)
