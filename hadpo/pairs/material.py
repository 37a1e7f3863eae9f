"""Everything that prepare reads.

That is evidence, the questions of the benchmarks, the words of the oracle, pairs that others
published, and instructions to finetune on.
"""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hadpo.config import DataConfig, names
from hadpo.data import (
    Report,
    cc_sbu_align,
    chair,
    coco,
    gavie,
    gqa,
    hadpo_pairs,
    lrv,
    missing_images,
    pope,
    read_json,
    shr,
)
from hadpo.data import visual_genome as vg
from hadpo.instructions import oracle
from hadpo.judges.oracle.vocabulary import Vocabulary, from_evidence, from_json
from hadpo.plugins import choices
from hadpo.records import (
    BadInput,
    Evidence,
    Instruction,
    Pair,
    Question,
    input_hashes,
    read_jsonl,
)

if TYPE_CHECKING:
    from hadpo.runs import Run

ORACLE = "oracle"  # a place of instructions
INSTRUCTION_KINDS = ("positive", "negative", "chart", "caption")


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

    evaluated: Set[str]  # ids of Visual Genome that a benchmark asks about, under any name


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
    of_shr = _shr_image_ids(run, report)
    of_gavie = _gavie_image_ids(run, Report("skip"))  # problems: with the questions
    asked = {*of_shr, *of_gavie, *_gqa_image_ids(run)}
    wanted = None if image_ids is None else asked.union(image_ids)
    images = vg.read(folder, report, image_ids=wanted)
    sources = [folder / "image_data.json", folder / "region_descriptions.json"]
    if data.coco:
        sources.append(run.resolve(data.coco) / "objects.json")
    run.note_inputs(input_hashes(sources, below=run.folder.parent))
    if data.shr:
        facts = shr.facts(run.resolve(data.shr), report)
        images = {key: replace(e, facts=facts.get(key, ())) for key, e in images.items()}
    if data.gavie and data.gavie_regions:
        path = run.note_input(run.resolve(data.gavie_regions))
        images = _with_lrv_regions(images, path, of_gavie, of_shr, report)
    photos = coco.read(run.resolve(data.coco), report) if data.coco else {}
    questions = _pope_questions(run, report) + _with_images(shr.questions(of_shr, images), report)
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
        evaluated=asked.union(_same_photos(vg.coco_ids(folder), questions)),
    )


def images_to_mine(run: "Run", count: int) -> list[str]:
    """Ids of up to `count` images that no benchmark asks about, drawn by the seed.

    Only small files are read for this; broken records are reported when everything is.
    """
    folder, ignored = visual_genome_folder(run), Report("skip")
    evaluated = {
        *_shr_image_ids(run, ignored),
        *_gavie_image_ids(run, ignored),
        *_gqa_image_ids(run),
        *_same_photos(vg.coco_ids(folder), _pope_questions(run, ignored)),
    }
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


def read_instructions(
    run: "Run", known: Material, report: Report, counts: Counter[str]
) -> list[Instruction]:
    """The instructions of all places that the recipe names, by `instruction_kinds` and `limit`.

    A place is a file of our records (`.jsonl`, what the converters of `hadpo.instructions` write),
    one of LRV's files (`.json`, its pictures in `image/` beside it, those of charts in
    `chart_image/`), a folder in the layout of MiniGPT-4's second stage (`filter_cap.json` and
    `image/`), or `oracle`: made from what is known about the images that no benchmark asks about.

    Args:
        run: paths of its recipe's data section are resolved; the files are hashed.
        known: for the oracle: its images and words.
        report: collects broken records.
        counts: grows: what was read, by source and kind, and what was left out.

    Raises:
        BadInput: no such place, an unknown kind, a place that gives nothing, the same id twice, or
            a weight that is not above 0.
    """
    settings = run.settings
    wanted = names(settings.instruction_kinds)
    for kind in wanted:
        if kind not in INSTRUCTION_KINDS:
            raise BadInput(
                f"instruction_kinds: no kind {kind!r}; {choices(kind, INSTRUCTION_KINDS)}"
            )
    records: dict[str, Instruction] = {}
    seen: Counter[str] = Counter()
    for place in instruction_places(run):
        before = len(records)
        for record in _read_place(run, place, known, report):
            counts[f"instructions read: {record.source}, {record.kind}"] += 1
            if record.kind not in wanted:
                counts["instructions left out: not of instruction_kinds"] += 1
                continue
            if not record.weight > 0:
                raise BadInput(f"{place}: {record.instruction_id} weighs {record.weight}, not > 0")
            if record.instruction_id in records:
                raise BadInput(f"{place}: a second instruction {record.instruction_id!r}")
            seen[record.kind] += 1
            if not settings.limit or seen[record.kind] <= settings.limit:
                records[record.instruction_id] = record
        if len(records) == before and not settings.limit:
            raise BadInput(
                f"{place}: no instruction of {', '.join(wanted)}; counts: {dict(counts)}"
            )
    return list(records.values())


def instruction_places(run: "Run") -> list[str]:
    """The places of instructions that the recipe names."""
    return names(run.recipe.data.instructions)


def _read_place(run: "Run", place: str, known: Material, report: Report) -> Iterable[Instruction]:
    if place == ORACLE:
        free = [e for key, e in known.images.items() if key not in known.evaluated]
        return oracle.instructions(free, known.vocabulary, seed=run.settings.prepare_seed)
    path = run.resolve(place)
    if not path.exists():
        raise BadInput(
            f"data.instructions: nothing at {path}; fetch or convert it, or correct the path"
        )
    if path.is_dir():
        run.note_input(path / "filter_cap.json")
        # Named by their folder: the files in such folders all have the same name.
        return (
            replace(record, source=path.name, instruction_id=f"{path.name}-{number}")
            for number, record in enumerate(cc_sbu_align.read(path, report))
        )
    run.note_input(path)
    if path.suffix == ".jsonl":
        return read_jsonl(path, Instruction)
    charts = path.with_name("chart_image")
    is_chart = path.name.startswith("chart") and charts.is_dir()
    return lrv.read(path, charts if is_chart else path.with_name("image"), report)


def visual_genome_folder(run: "Run") -> Path:
    """The Visual Genome folder; BadInput if the recipe names none."""
    if not run.recipe.data.visual_genome:
        raise BadInput("data.visual_genome names no folder; preference pairs are about its images")
    return run.resolve(run.recipe.data.visual_genome)


def _noted(run: "Run", folder: str, name: str) -> Path:
    """The folder, with the hash of one of its files in the manifest if the file is there."""
    path = run.resolve(folder)
    if (path / name).is_file():
        run.note_input(path / name)
    return path


def _shr_image_ids(run: "Run", report: Report) -> list[str]:
    """Ids of the images that SHR describes."""
    data: Any = run.recipe.data
    if not data.shr:
        return []
    return shr.image_ids(_noted(run, data.shr, "val_images_final.json"), report)


def _gqa_image_ids(run: "Run") -> list[str]:
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


def _gavie_image_ids(run: "Run", report: Report) -> list[str]:
    """Ids of the images that GAVIE asks about."""
    data: Any = run.recipe.data
    path = data.gavie
    return gavie.image_ids(run.resolve(path), report) if path else []


def _with_lrv_regions(
    images: dict[str, Evidence],
    path: Path,
    of_gavie: list[str],
    of_shr: list[str],
    report: Report,
) -> dict[str, Evidence]:
    """The images with LRV's regions instead of their own if GAVIE asks about them.

    There is one evidence of an image: SHR's judge sees these regions too, which is counted. An
    image that the file lacks is a broken record; if those are skipped, it keeps its own regions.
    """
    asked = images.keys() & {*of_gavie}
    regions = vg.read_annotation(path, report, image_ids=asked)
    for key in sorted(asked - regions.keys()):
        report.bad(f"{path}: no image {key}, about which GAVIE asks", source="vg_annotation")
    both = len(regions.keys() & {*of_shr})
    if both:
        report.counts["vg_annotation: images whose regions SHR's judge sees too"] += both
    return images | {key: replace(images[key], regions=regions[key]) for key in regions}


def _with_images(questions: list[Question], report: Report) -> list[Question]:
    """The questions whose image files exist; the others are reported."""
    source = questions[0].benchmark if questions else ""
    places = ((question.question_id, question.image) for question in questions)
    missing = missing_images(places, report, source=source)
    return [question for question in questions if question.image not in missing]


def _words(run: "Run", data: DataConfig, evidence: list[Evidence]) -> dict[str, Any]:
    if not data.vocabulary:
        return from_evidence(evidence)
    path = run.note_input(run.resolve(data.vocabulary))
    return read_json(path, dict, expected="expected objects, attributes, scenes")


def _same_photos(coco_ids: dict[str, int], questions: list[Question]) -> list[str]:
    """Ids of Visual Genome whose photo POPE asks about: COCO_val2014_000000310196 is 310196."""
    numbers = (re.search(r"(\d+)$", q.image_id) for q in questions if q.benchmark == "pope")
    asked = {int(number[1]) for number in numbers if number}
    return [key for key, number in coco_ids.items() if number in asked]
