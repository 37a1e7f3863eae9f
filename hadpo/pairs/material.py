"""Everything that prepare reads.

That is evidence, the questions of the benchmarks, the words of the oracle, pairs that others
published, and instructions to finetune on.
"""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hadpo import plugins
from hadpo.config import DataConfig, names
from hadpo.data import (
    Report,
    Sources,
    cc_sbu_align,
    coco,
    hadpo_pairs,
    lrv,
    with_images,
)
from hadpo.data import visual_genome as vg
from hadpo.instructions import oracle
from hadpo.judges.oracle.vocabulary import Vocabulary, from_evidence, from_json
from hadpo.records import (
    BadInput,
    Evidence,
    Instruction,
    Pair,
    Question,
    input_hashes,
    read_json,
    read_jsonl,
)
from hadpo.text import visible

if TYPE_CHECKING:
    from hadpo.runs import Run

_BENCHMARKS = "hadpo.benchmarks"
ORACLE = "oracle"  # a place of instructions


@dataclass(frozen=True, kw_only=True)
class Material:
    """What was read, checked and joined."""

    images: dict[str, Evidence]  # of Visual Genome: pairs are made of these
    photos: dict[str, Evidence]  # of COCO
    others: dict[str, Evidence]  # what benchmarks bring about images of their own
    questions: list[Question]  # of all benchmarks
    words: dict[str, Any]  # the content of vocabulary.json
    vocabulary: Vocabulary

    @property
    def evidence(self) -> dict[str, Evidence]:
        """All evidence by image id."""
        return {**self.images, **self.photos, **self.others}

    evaluated: Set[str]  # ids of Visual Genome that a benchmark asks about, under any name


def read(run: "Run", report: Report, *, image_ids: Collection[str] | None) -> Material:
    """Read all sources that the recipe names; small input files are hashed.

    `image_ids` are images of Visual Genome to know beside those of benchmarks; None: all. Raises
    BadInput for a file that cannot be read as a whole.
    """
    data = run.recipe.data
    known = _sources(run, report)
    asked = {name: tuple(e.image_ids(known)) for name, e in _benchmarks("image_ids", known)}
    ids = {key for keys in asked.values() for key in keys}
    wanted = None if image_ids is None else ids.union(image_ids)
    images, twins, files = {}, {}, []
    if data.visual_genome or ids or run.settings.pair_source != "questions":
        folder = visual_genome_folder(run)
        images, twins = vg.read(folder, report, image_ids=wanted), vg.coco_ids(folder)
        files = [folder / "image_data.json", folder / "region_descriptions.json"]
    if data.coco:
        files.append(run.resolve(data.coco) / "objects.json")
    run.note_inputs(input_hashes(files, below=run.folder.parent))
    photos = coco.read(run.resolve(data.coco), report) if data.coco else {}
    known = replace(known, asked=asked, images=images, photos=photos)
    for _, each in _benchmarks("evidence", known):
        known = replace(known, images={**known.images, **each.evidence(known)})
    questions = []
    for _, each in _benchmarks("questions", known):
        questions += _with_images(each.questions(known), report)
    evidence = {key: known.images[key] for key in known.images.keys() - images.keys()}
    images = {key: known.images[key] for key in images}
    words = _words(run, data, [*images.values(), *photos.values()])
    for _, each in _benchmarks("vocabulary", known):
        more = each.vocabulary(known)
        lexicons = {**words.get("lexicons", {}), **more.get("lexicons", {})}
        words |= more | ({"lexicons": lexicons} if lexicons else {})
    return Material(
        images=images,
        photos=photos,
        others=evidence,
        questions=questions,
        words=words,
        vocabulary=from_json(words, where=data.vocabulary or "vocabulary"),
        evaluated=_under_any_name(ids, twins),
    )


def images_to_mine(run: "Run", count: int) -> list[str]:
    """Ids of up to `count` images that no benchmark asks about, drawn by the seed.

    Only small files are read for this; broken records are reported when everything is.
    """
    folder, ignored = visual_genome_folder(run), Report("skip")
    known = _sources(run, ignored)
    ids = {key for _, each in _benchmarks("image_ids", known) for key in each.image_ids(known)}
    evaluated = _under_any_name(ids, vg.coco_ids(folder))
    free = sorted(set(vg.images(folder, ignored)) - evaluated)
    draw = random.Random(f"{run.settings.prepare_seed}/images")
    return draw.sample(free, min(count, len(free)))


def _sources(run: "Run", report: Report) -> Sources:
    return Sources(data=run.recipe.data, resolve=run.resolve, note=run.note_input, report=report)


def _benchmarks(hook: str, known: Sources) -> list[tuple[str, Any]]:
    """Names and modules of the benchmarks that declare `hook`, and whose files there are."""
    modules = [(n, plugins.load(_BENCHMARKS, n)) for n in plugins.available(_BENCHMARKS)]
    return [(name, each) for name, each in modules if hasattr(each, hook) and known.has(each)]


def published_pairs(run: "Run", report: Report) -> list[Pair]:
    """The pairs of the released files that the recipe names."""
    data: Any = run.recipe.data
    if not data.pairs_folder:
        raise BadInput("prepare.pair_source is 'published', but data.pairs_folder names no folder")
    return hadpo_pairs.read(
        _sources(run, report).folder("pairs_folder", "desc_data.json", "pope_data.json"),
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
    `counts` grows: what was read, by source and kind, and what was left out.

    Raises:
        BadInput: no such place, a place that gives nothing, the same id twice, or a weight that
            is not above 0.
    """
    settings = run.settings
    wanted = names(settings.instruction_kinds)
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
            if (key := visible(record.instruction_id)) in records:
                raise BadInput(f"{place}: a second instruction {record.instruction_id!r}")
            seen[record.kind] += 1
            if not settings.limit or seen[record.kind] <= settings.limit:
                records[key] = record
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


def _with_images(questions: list[Question], report: Report) -> list[Question]:
    """The questions whose image files exist; the others are reported."""
    source = questions[0].benchmark if questions else ""
    return with_images({q.question_id: q for q in questions}, report, source=source)


def _words(run: "Run", data: DataConfig, evidence: list[Evidence]) -> dict[str, Any]:
    if not data.vocabulary:
        return from_evidence(evidence)
    path = run.note_input(run.resolve(data.vocabulary))
    return read_json(path, dict, expected="expected objects, attributes, scenes")


def _under_any_name(ids: Collection[str], coco_ids: Mapping[str, int]) -> set[str]:
    """Ids of Visual Genome that are asked about, also those named as photos of COCO.

    COCO_val2014_000000310196 is COCO's number 310196.
    """
    photos = {key for key in ids if re.fullmatch(r"COCO_.*_\d+", key)}
    numbers = {int(key.rpartition("_")[2]) for key in photos}
    return (set(ids) - photos) | {key for key, n in coco_ids.items() if n in numbers}
