"""POPE question files: is there a ... in the image? Read, and sampled as POPE samples them.

Layout: `coco_pope_{random,popular,adversarial}.json`, JSON lines in spite of the name, with
question_id, image (a file of COCO val2014), text and label. Files of any length are read; the
official ones have 3000 questions, an older random one 2910.

Sampling: Li et al., Evaluating Object Hallucination in Large Vision-Language Models (POPE), section
5.2. Half of an image's questions are about objects in it; the objects of the other half are not,
and are drawn at random, or are the most frequent of the whole set, or those that occur most often
together with the objects of the image.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal

from hadpo.data import (
    InnerPath,
    Report,
    Sources,
    Text,
    one_label,
    raw_records,
    read_json_lines,
    with_images,
)
from hadpo.plugins import choices
from hadpo.records import BadInput, Question
from hadpo.text import article

SPLITS = ("random", "popular", "adversarial")
_EXPECTED = "expected JSON lines with the keys question_id, image, text, label"


@dataclass(frozen=True, kw_only=True)
class _Raw:
    question_id: int
    image: InnerPath
    text: Text
    label: Literal["yes", "no"]  # the original takes everything but "no" for a yes


def read(place: Path, images: Path, report: Report, *, benchmark: str = "pope") -> list[Question]:
    """The questions of all three splits, or of one file, in file order.

    Ids are "<benchmark>-<split>-<number>".

    Args:
        place: folder with the three files, or one of them; its name ends with its split, or, if
            nothing is asked, is taken for it.
        images: folder of the photos, or one with them in `val2014`.
        report: collects broken records and missing images.
        benchmark: pope, or repope, whose files have the same form.
    """
    photos = images / "val2014" if (images / "val2014").is_dir() else images
    paths = {split: path_of(place, split, benchmark) for split in SPLITS}
    if place.is_file():
        paths = {split: place for split in SPLITS if place.stem.endswith(f"_{split}")}
        paths = paths or ({} if report.asks else {place.stem: place})
        if not paths:
            raise BadInput(
                f"{place}: expected a name that ends with the split, for example "
                f"{path_of(Path(), SPLITS[0]).name}"
            )
    return [
        q for split, path in paths.items() for q in _split(path, photos, split, report, benchmark)
    ]


def of_sources(benchmark: str, sources: Sources) -> list[Question]:
    """The questions of pope or repope in the folder that the recipe names.

    Raises:
        BadInput: the recipe names no photos, or a file that cannot be read as a whole.
    """
    if not sources.data.coco:
        raise BadInput(
            f"data.{benchmark} is set but data.coco is not: its questions need the photos"
        )
    folder = sources.folder(benchmark, *names(benchmark))
    photos = sources.resolve(sources.data.coco)
    return read(folder, photos, sources.report, benchmark=benchmark)


def names(benchmark: str) -> tuple[str, ...]:
    """The names of the files of all three splits."""
    return tuple(path_of(Path(), split, benchmark).name for split in SPLITS)


def path_of(folder: Path, split: str, benchmark: str = "pope") -> Path:
    """The file of one split."""
    return folder / f"coco_{benchmark}_{split}.json"


def _split(path: Path, images: Path, split: str, report: Report, benchmark: str) -> list[Question]:
    values = read_json_lines(path, report, source=benchmark, expected=_EXPECTED)
    records = raw_records(values, _Raw, report, source=benchmark, once=("question_id",))
    asked = (
        (
            where,
            Question(
                question_id=f"{benchmark}-{split}-{raw.question_id}",
                benchmark=benchmark,
                split=split,
                image_id=Path(raw.image).stem,
                image=str(images / raw.image),
                text=raw.text,
                label=raw.label,
            ),
        )
        for where, raw in records
    )
    found = one_label(asked, report, source=benchmark)
    return with_images(found, report, source=benchmark, lost="questions about missing photos")


def text_of(name: str) -> str:
    """POPE's question about an object. Source: POPE's template, `Is there a {} in the image?`."""
    return f"Is there {article(name)} {name} in the image?"


def pope_questions(
    objects_by_image: Mapping[str, Sequence[str]],
    *,
    split: str,
    seed: int,
    per_image: int = 3,
    image_paths: Mapping[str, str],
) -> list[Question]:
    """Up to `per_image` questions with the label yes and as many with no per image, alternating.

    The positives are the same in all splits of one seed. An image with fewer present or absent
    objects gets fewer questions, always as many yes as no. The objects of an image are taken as
    complete. Ids are "pope-<split>-<number>", counted from 1.

    Raises:
        BadInput: an unknown split.
    """
    if split not in SPLITS:
        raise BadInput(f"unknown POPE split {split!r}; {choices(split, SPLITS)}")
    present = {image: sorted(set(names)) for image, names in objects_by_image.items()}
    frequency = Counter(name for names in present.values() for name in names)
    together = Counter(pair for names in present.values() for pair in permutations(names, 2))
    questions: list[Question] = []
    for image, names in present.items():
        absent = sorted(set(frequency) - set(names))
        count = min(per_image, len(names), len(absent))
        positives = random.Random(f"{seed}/{image}/positives").sample(names, count)
        if split == "random":
            negatives = random.Random(f"{seed}/{image}/negatives").sample(absent, count)
        else:
            rank = {
                "popular": lambda name: frequency[name],
                "adversarial": lambda name, here=names: sum(together[name, n] for n in here),
            }[split]
            negatives = sorted(absent, key=lambda name: (-rank(name), name))[:count]
        for pair in zip(positives, negatives, strict=True):
            for name, label in zip(pair, ("yes", "no"), strict=True):
                questions.append(
                    Question(
                        question_id=f"pope-{split}-{len(questions) + 1}",
                        benchmark="pope",
                        split=split,
                        image_id=image,
                        image=image_paths[image],
                        text=text_of(name),
                        label=label,
                    )
                )
    return questions
