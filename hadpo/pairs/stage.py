"""The stage prepare: read the sources, make the pairs, write what the later stages read."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hadpo.data import Report, hadpo_pairs
from hadpo.pairs import correcting, instructed, material, mine
from hadpo.pairs.look import free_images
from hadpo.pairs.material import Material
from hadpo.records import (
    BadInput,
    Evidence,
    Instruction,
    Pair,
    input_hashes,
    refuse_changed,
    write_jsonl,
    write_text,
)

if TYPE_CHECKING:
    from hadpo.runs import Run
    from hadpo.vlm.backbone import Backbone

Record = TypeVar("Record", Pair, Instruction)


def prepare(run: "Run") -> dict[str, int]:
    """Make the pairs or instructions of the recipe, and write all that the later stages read.

    Writes pairs.jsonl and held_out.jsonl, or instructions.jsonl and held_out_instructions.jsonl, or
    both, questions.jsonl, evidence.jsonl, vocabulary.json,
    counts.json, the pairs in the three original schemas below export/, and own_answers.jsonl if
    pairs are mined.

    Returns:
        What was made, and what was left out why; also in counts.json and the manifest.

    Raises:
        BadInput: broken input (all problems of the records are listed at once), no pair at all, or
            images that are both trained on and evaluated.
    """
    settings = run.settings
    report = Report(settings.on_bad)
    counts: Counter[str] = Counter()
    rewrites: correcting.Rewrites = {}
    if settings.corrector == "llm" and settings.pair_source == "mined":
        correcting.chat_settings(settings)  # whatever is wrong is said before a model is loaded
    if settings.pair_source == "published":
        pairs = material.published_pairs(run, report)
        known = material.read(run, report, image_ids={pair.image_id for pair in pairs})
        counts.update(report.finish())
    elif settings.pair_source == "mined":
        known, images = _material_to_mine(run, report)
        counts.update(report.finish())
        pairs, rewrites = _mined(run, known, images, counts)
    else:
        pairs = []
        known = material.read(run, report, image_ids=free_images(run))
        counts.update(report.finish())
    pairs = _limited(pairs, settings.limit)
    own = Report(settings.on_bad)
    instructions = instructed.read(run, known, own, counts)
    counts.update(own.finish())
    if not pairs and (settings.pair_source != "none" or not instructions):
        raise BadInput(f"no pairs: {dict(counts)}; look at the recipe's sections data and prepare")
    overlap = sorted({record.image_id for record in (*pairs, *instructions)} & known.evaluated)
    if overlap and settings.on_overlap == "error":
        more = " ..." if len(overlap) > 20 else ""
        raise BadInput(
            f"{len(overlap)} images are both trained on and evaluated: {', '.join(overlap[:20])}"
            f"{more}; take them out of the pairs, or set on_overlap to 'count'"
        )
    train, held_out = split_off(pairs, settings.held_out_share, settings.prepare_seed)
    counts.update(f"questions of {q.benchmark} {q.split}" for q in known.questions)
    found = dict(counts) | {"images trained on and evaluated": len(overlap)}
    found |= _kinds(train, "pairs") | _kinds(held_out, "held-out pairs")
    if instructions:
        found |= _write_instructions(run, instructions)
    found |= _write(run, train, held_out, known, rewrites)
    found = dict(sorted(found.items()))
    write_text(run.path("counts.json"), json.dumps(found, indent=1) + "\n")
    run.note(counts=found)
    return found


def split_off(
    pairs: Sequence[Record], share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """Records to train on, and the records of a share of the images, drawn by the seed."""
    images = sorted({pair.image_id for pair in pairs})
    count = round(share * len(images))
    held = set(random.Random(f"{seed}/held out").sample(images, count))
    train = [pair for pair in pairs if pair.image_id not in held]
    return train, [pair for pair in pairs if pair.image_id in held]


def _material_to_mine(run: "Run", report: Report) -> tuple[Material, list[Evidence]]:
    """All sources, and the images to mine from; a third as many as question pairs may be enough."""
    settings = run.settings
    wanted = max(settings.description_images, -(-settings.yes_no_pairs // 3))
    chosen = material.images_to_mine(run, wanted)
    known = material.read(run, report, image_ids=chosen)
    return known, [known.images[key] for key in chosen]


def _mined(
    run: "Run", known: Material, images: Sequence[Evidence], counts: Counter[str]
) -> tuple[list[Pair], correcting.Rewrites]:
    settings = run.settings
    described = images[: settings.description_images]
    counts["images to mine"] = len(images)
    counts["images asked for and not there"] = settings.description_images - len(described)
    asked = mine.description_questions(described, settings)
    to_ask = []
    if settings.yes_no_pairs:
        to_ask = mine.yes_no_questions(images, known.vocabulary, settings)
    path = run.path("own_answers.jsonl")
    _note_weights(run, path)
    answers = mine.answer_all(
        path,
        {**asked, "yes or no": to_ask},  # apart: long and short answers share no batch
        settings,
        lambda: _load(run),
    )
    questions = [*asked["sampled"], *asked["greedy"]]
    rewrites: correcting.Rewrites = {}
    if settings.corrector == "llm":
        descriptions, rewrites = correcting.description_pairs(
            run, questions, answers, known.images, counts
        )
    else:
        descriptions = mine.description_pairs(
            questions, answers, known.images, known.vocabulary, counts
        )
    pairs = [*descriptions, *mine.yes_no_pairs(to_ask, answers, settings, counts)]
    return pairs, rewrites


def _load(run: "Run") -> "Backbone":
    from hadpo import backbones  # torch; published pairs need none

    return backbones.load_for(run.recipe, backbones.files_of(run.recipe, run.resolve))


def _note_weights(run: "Run", answers: Path) -> None:
    """Hash the model's files; answers of other weights are refused."""
    from hadpo import backbones

    noted = run.manifest.facts.get("inputs", {})
    places = backbones.files_of(run.recipe, run.resolve).values()
    weights = input_hashes(places, below=run.folder.parent)
    if mine.kept_answers(answers):
        refuse_changed(noted, weights, where=answers)
    run.note(inputs={**noted, **weights})


def _limited(pairs: Sequence[Pair], limit: int) -> list[Pair]:
    """At most `limit` pairs of each kind; 0: all."""
    seen: Counter[str] = Counter()
    found = []
    for pair in pairs:
        seen[pair.kind] += 1
        if not limit or seen[pair.kind] <= limit:
            found.append(pair)
    return found


def _kinds(pairs: Sequence[Pair], name: str) -> dict[str, int]:
    kinds = Counter(pair.kind for pair in pairs)
    return {name: len(pairs)} | {f"{name}: {k}": kinds[k] for k in ("description", "pope")}


def _write_instructions(run: "Run", records: Sequence[Instruction]) -> dict[str, int]:
    settings = run.settings
    train, held_out = split_off(records, settings.held_out_share, settings.prepare_seed)
    write_jsonl(run.path("held_out_instructions.jsonl"), held_out)
    write_jsonl(run.path("instructions.jsonl"), train)
    counts = {"instructions": len(train), "held-out instructions": len(held_out)}
    kinds = Counter(record.kind for record in train)
    return counts | {f"instructions: {kind}": n for kind, n in kinds.items()}


def _write(
    run: "Run",
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    known: Material,
    rewrites: correcting.Rewrites,
) -> dict[str, int]:
    """Write the stage's files, pairs.jsonl last; counts of what a schema could not hold."""
    counts: dict[str, int] = {}
    for schema in hadpo_pairs.SCHEMAS if train else ():
        try:
            folder = run.path("export", schema)
            hadpo_pairs.write(train, folder, schema=schema, rewrites=rewrites)
        except BadInput:  # two descriptions of one image: llava-v1.5 has room for one
            counts[f"export/{schema}: not written, several descriptions of one image"] = 1
    write_jsonl(run.path("held_out.jsonl"), held_out)
    write_jsonl(run.path("questions.jsonl"), known.questions)
    write_jsonl(run.path("evidence.jsonl"), known.evidence.values())
    text = json.dumps(known.words, indent=1, ensure_ascii=False) + "\n"
    write_text(run.path("vocabulary.json"), text)
    counts["images with evidence"] = len(known.evidence)
    write_jsonl(run.path("pairs.jsonl"), train)
    return counts
