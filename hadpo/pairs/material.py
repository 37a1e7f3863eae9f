"""Everything that prepare reads: evidence, questions of the benchmarks, words of the oracle."""

import random
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hadpo.config import DataConfig
from hadpo.data import (
    Report,
    chair,
    coco,
    gavie,
    gqa,
    hadpo_pairs,
    missing_images,
    pope,
    read_json,
    shr,
    vg_annotation,
)
from hadpo.data import visual_genome as vg
from hadpo.judges.oracle.vocabulary import Vocabulary, from_evidence, from_json
from hadpo.records import BadInput, Evidence, Pair, Question, input_hashes

if TYPE_CHECKING:
    from hadpo.runs import Run


@dataclass(frozen=True, kw_only=True)
class Material:
    """What was read, checked and joined."""

    images: dict[str, Evidence]  # of Visual Genome: pairs are made of these
    photos: dict[str, Evidence]  # of COCO: POPE asks about these
    questions: list[Question]  # of all benchmarks
    words: dict[str, Any]  # the content of vocabulary.json
    vocabulary: Vocabulary

    @property
    def evidence(self) -> dict[str, Evidence]:
        """All evidence by image id."""
        return {**self.images, **self.photos}

    evaluated: frozenset[str]  # ids of Visual Genome that a benchmark asks about, under any name


def read(run: "Run", report: Report, *, image_ids: Collection[str] | None) -> Material:
    """Read all sources that the recipe names.

    Args:
        run: paths of its recipe's data section are resolved; small input files are hashed.
        report: collects broken records.
        image_ids: images of Visual Genome to know beside those that SHR describes.

    Raises:
        BadInput: a file that cannot be read as a whole.
    """
    data: Any = run.recipe.data
    folder = visual_genome_folder(run)
    described = _described(run, report)
    graded = [*_graded(run, Report("skip")), *_examined(run)]  # problems: with their questions
    wanted = None if image_ids is None else {*image_ids, *described, *graded}
    images = vg.read(folder, report, image_ids=wanted)
    sources = [folder / "image_data.json", folder / "region_descriptions.json"]
    if data.coco:
        sources.append(run.resolve(data.coco) / "objects.json")
    hashes = input_hashes(sources, below=run.folder.parent)
    run.note(inputs={**run.manifest.facts.get("inputs", {}), **hashes})
    if data.shr:
        facts = shr.facts(run.resolve(data.shr), report)
        images = {key: replace(e, facts=facts.get(key, ())) for key, e in images.items()}
    if data.gavie and data.gavie_regions:
        path = run.note_input(run.resolve(data.gavie_regions))
        images = _as_lrv_shows(images, path, graded, described, report)
    photos = coco.read(run.resolve(data.coco), report) if data.coco else {}
    questions = _pope_questions(run, report) + _shr_questions(described, images, report)
    if data.gavie:
        path = run.note_input(run.resolve(data.gavie))
        questions += _with_images(gavie.questions(path, images, report), report)
    if data.gqa:
        path = run.note_input(run.resolve(data.gqa))
        questions += _with_images(gqa.questions(path, images, report), report)
    if data.chair_synonyms:
        questions += chair.questions(photos)
    words = _words(run, data, [*images.values(), *photos.values()])
    if data.chair_synonyms:
        path = run.note_input(run.resolve(data.chair_synonyms))
        words |= {"synonyms": chair.synonyms(path, report)}
    return Material(
        images=images,
        photos=photos,
        questions=questions,
        words=words,
        vocabulary=from_json(words, where=data.vocabulary or "vocabulary"),
        evaluated=frozenset({*described, *graded, *_same_photos(vg.coco_ids(folder), questions)}),
    )


def images_to_mine(run: "Run", count: int) -> list[str]:
    """Ids of up to `count` images that no benchmark asks about, drawn by the seed.

    Only small files are read for this; broken records are reported when everything is.
    """
    folder, ignored = visual_genome_folder(run), Report("skip")
    evaluated = {*_described(run, ignored), *_graded(run, ignored), *_examined(run)}
    evaluated |= {*_same_photos(vg.coco_ids(folder), _pope_questions(run, ignored))}
    free = sorted(set(vg.images(folder, ignored)) - evaluated)
    draw = random.Random(f"{run.settings.prepare_seed}/images")
    return draw.sample(free, min(count, len(free)))


def published_pairs(run: "Run", report: Report) -> list[Pair]:
    """The pairs of the released files that the recipe names."""
    data: Any = run.recipe.data
    if not data.pairs_folder:
        raise BadInput("prepare.pair_source is 'published', but data.pairs_folder names no folder")
    for name in ("desc_data.json", "pope_data.json"):
        _noted(run, data.pairs_folder, name)
    return hadpo_pairs.read(
        run.resolve(data.pairs_folder),
        schema=data.pairs_schema,
        images=vg.images(visual_genome_folder(run), Report("skip")),
        seed=run.settings.prepare_seed,
        report=report,
    )


def visual_genome_folder(run: "Run") -> Path:
    """The Visual Genome folder; BadInput where the recipe names none."""
    if not run.recipe.data.visual_genome:
        raise BadInput("data.visual_genome names no folder; preference pairs are about its images")
    return run.resolve(run.recipe.data.visual_genome)


def _noted(run: "Run", folder: str, name: str) -> Path:
    """The folder, with the hash of one of its files in the manifest if the file is there."""
    path = run.resolve(folder)
    if (path / name).is_file():
        run.note_input(path / name)
    return path


def _described(run: "Run", report: Report) -> list[str]:
    """Ids of the images that SHR describes."""
    data: Any = run.recipe.data
    if not data.shr:
        return []
    return shr.image_ids(_noted(run, data.shr, "val_images_final.json"), report)


def _examined(run: "Run") -> list[str]:
    """Ids of the images that GQA asks about."""
    data: Any = run.recipe.data
    return gqa.image_ids(run.resolve(data.gqa), Report("skip")) if data.gqa else []


def _pope_questions(run: "Run", report: Report) -> list[Question]:
    data: Any = run.recipe.data
    if not data.pope:
        return []
    if not data.coco:
        raise BadInput("data.pope is set but data.coco is not: its questions need the photos")
    for split in pope.SPLITS:
        _noted(run, data.pope, pope.path_of(Path(), split).name)
    return pope.read(run.resolve(data.pope), run.resolve(data.coco), report)


def _graded(run: "Run", report: Report) -> list[str]:
    """Ids of the images that GAVIE asks about."""
    data: Any = run.recipe.data
    path = data.gavie
    return gavie.image_ids(run.resolve(path), report) if path else []


def _as_lrv_shows(
    images: dict[str, Evidence],
    path: Path,
    graded: list[str],
    described: list[str],
    report: Report,
) -> dict[str, Evidence]:
    """The images with LRV's regions where GAVIE asks about them.

    There is one evidence of an image: SHR's judge sees these regions too, which is counted. An
    image that the file lacks is a broken record; where those are skipped, it keeps its own.
    """
    asked = images.keys() & {*graded}
    found = vg_annotation.read(path, report, image_ids=asked)
    for key in sorted(asked - found.keys()):
        report.bad(f"{path}: no image {key}, about which GAVIE asks", source="vg_annotation")
    both = len(found.keys() & {*described})
    if both:
        report.counts["vg_annotation: images whose regions SHR's judge sees too"] += both
    return images | {key: replace(images[key], regions=found[key]) for key in found}


def _shr_questions(
    described: list[str], images: dict[str, Evidence], report: Report
) -> list[Question]:
    return _with_images(shr.questions(described, images), report)


def _with_images(asked: list[Question], report: Report) -> list[Question]:
    """The questions whose image files are there; the others are reported."""
    source = asked[0].benchmark if asked else ""
    missing = missing_images(((q.question_id, q.image) for q in asked), report, source=source)
    return [question for question in asked if question.image not in missing]


def _words(run: "Run", data: DataConfig, evidence: list[Evidence]) -> dict[str, Any]:
    if not data.vocabulary:
        return from_evidence(evidence)
    path = run.note_input(run.resolve(data.vocabulary))
    return read_json(path, dict, expected="expected objects, attributes, scenes")


def _same_photos(coco_ids: dict[str, int], questions: list[Question]) -> list[str]:
    """Ids of Visual Genome whose photo POPE asks about: COCO_val2014_000000310196 is 310196."""
    numbers = (re.search(r"(\d+)$", q.image_id) for q in questions if q.benchmark == "pope")
    asked = {int(found[1]) for found in numbers if found}
    return [key for key, number in coco_ids.items() if number in asked]
