"""HallusionBench's questions: yes/no, in groups about a picture, an edited one, or none.

`HallusionBench.json` is a list; the pictures lie as its `filename` says. Keys join what the
original's scorer groups by: category, subcategory, set, figure and question.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hadpo.data import Report, Text, inside, raw_records, read_json_lines, with_images
from hadpo.records import BadInput, Question

_FOLDER = "hallusion_bench"  # what each filename begins with, and the folder of the archive
_EXPECTED = "expected HallusionBench.json: a list of objects with category, set_id, question, ..."
_ID = re.compile(r"hallusion-([012])-(VD|VS)_(.+)_([^_]+)_([^_]+)")


@dataclass(frozen=True, kw_only=True)
class _Raw:
    category: Literal["VD", "VS"]
    subcategory: str
    visual_input: Literal["0", "1", "2"]  # none, original, edited
    set_id: str
    figure_id: str
    question_id: str
    question: Text
    gt_answer_details: str
    gt_answer: Literal["0", "1"]
    filename: str | None

    @property
    def key(self) -> str:
        """What tells a question from all others."""
        place = (self.category, self.subcategory, self.set_id, self.figure_id, self.question_id)
        return "_".join(place)


@dataclass(frozen=True)
class Place:
    """Where a question stands: what the groups of the scores are made of."""

    visual_input: str
    category: str
    set_id: str  # with the subcategory before it
    figure_id: str
    number: str

    @property
    def pair(self) -> str:
        """The same question about all figures of a set."""
        return "_".join((self.category, self.set_id, self.number))

    @property
    def figure(self) -> str:
        """All questions about a figure."""
        return "_".join((self.category, self.set_id, self.figure_id))

    @property
    def has_no_picture(self) -> bool:
        """Whether a picture would only help: the first figure of VS is none."""
        return self.category == "VS" and self.figure_id == "0"


def place_of(question_id: str) -> Place:
    """The place of a question, read off its id; BadInput: an id of another form."""
    match = _ID.fullmatch(question_id)
    if match is None:
        raise BadInput(f"{question_id!r} is no id of a question of HallusionBench")
    return Place(*match.groups())


def questions(path: Path, pictures: Path, report: Report) -> list[Question]:
    """The questions, VD before VS as they are scored, right answers as labels; splits are these.

    Ids are "hallusion-<visual_input>-<key>", and a label is yes or no with the right answer in a
    sentence behind it. A question without a picture has the image "".
    """
    found: dict[str, Question] = {}
    for where, raw in _records(path, report):
        with report.checking("hallusion"):
            found[where] = _question(raw, pictures, where=where)
    left = with_images(found, report, source="hallusion")
    return sorted(left, key=lambda question: question.split)


def _question(raw: _Raw, pictures: Path, *, where: str) -> Question:
    image = ""
    if raw.filename:
        name = raw.filename.removeprefix("./").removeprefix(f"{_FOLDER}/")
        folder = pictures / _FOLDER if (pictures / _FOLDER).is_dir() else pictures
        image = str(inside(folder, name, where=where))
    elif raw.visual_input != "0":
        raise BadInput(f"{where}: visual_input {raw.visual_input}, but no filename")
    key = f"hallusion-{raw.visual_input}-{raw.key}"
    return Question(
        question_id=key,
        benchmark="hallusion",
        split=raw.category,
        image_id=key.rpartition("_")[0],
        image=image,
        text=raw.question,
        label=f"{('no', 'yes')[int(raw.gt_answer)]}: {raw.gt_answer_details}",
    )


def _records(path: Path, report: Report) -> Iterator[tuple[str, _Raw]]:
    values = read_json_lines(path, report, source="hallusion", expected=_EXPECTED)
    return raw_records(values, _Raw, report, source="hallusion", once=("key",))
