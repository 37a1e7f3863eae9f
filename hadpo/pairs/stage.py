"""The stage prepare: read the sources, make the pairs, write what the later stages read.

`sample_images` and `plan` show what it is about to do, `sample_questions` and `read_prepared` what
it has written.
"""

import contextlib
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hadpo.chat import cache_file
from hadpo.data import Report, hadpo_pairs
from hadpo.judges import Judge, JudgeSettings, llm, oracle
from hadpo.pairs import asked, material, mine, ranked
from hadpo.pairs.material import Material
from hadpo.records import (
    Answer,
    BadInput,
    Evidence,
    Instruction,
    Pair,
    Question,
    input_hashes,
    read_jsonl,
    resume_jsonl,
    write_json,
    write_jsonl,
)
from hadpo.text import no_preference

if TYPE_CHECKING:
    from hadpo.runs import Run

Record = TypeVar("Record", Pair, Instruction)


def sample_images(run: "Run", count: int) -> list[Evidence]:
    """The first `count` images that pairs will be made of, with what is known about them.

    Without pairs to make, images that the benchmarks ask about.
    """
    ids = _image_ids(run)[:count]
    known = material.read(run, Report("skip"), image_ids=ids)
    return [known.images[key] for key in ids] or [*known.evidence.values()][:count]


def plan(run: "Run") -> dict[str, Any]:
    """Images, questions and settings of the stage, counted without asking a model anything."""
    settings = run.settings
    ids = _image_ids(run)
    known = material.read(run, Report("skip"), image_ids=ids)
    places = material.instruction_places(run) if settings.pair_source != "questions" else []
    facts: dict[str, Any] = {
        "pairs": settings.pair_source,
        "images that pairs are made of": len(ids),
        "images that benchmarks ask about": len({q.image_id for q in known.questions}),
        "in both": f"{len(set(ids) & known.evaluated)} ({settings.on_overlap})",
        "instructions from": ", ".join(places) or "nowhere",
        "broken records": settings.on_bad,
    }
    if settings.pair_source == "ranked":
        facts["descriptions to sample"] = settings.samples_per_image * settings.description_images
        facts["question pairs to keep"] = settings.yes_no_pairs
        facts["ranked by"] = settings.corrector
    if settings.pair_source == "mined":
        sampled = round(settings.sampled_share * settings.description_images)
        facts["descriptions to sample"] = sampled
        facts["descriptions to decode greedily"] = settings.description_images - sampled
        facts["question pairs to keep"] = settings.yes_no_pairs
        if settings.corrector == "llm":
            described = [known.images[key] for key in ids[: settings.description_images]]
            facts |= asked.estimate(settings, described)
    numbers = Counter(f"{q.benchmark} {q.split}" for q in known.questions)
    return facts | {f"questions of {name}": n for name, n in numbers.items()}


def prepare(run: "Run") -> dict[str, int]:
    """Make the pairs or instructions of the recipe, and write all that the later stages read.

    Writes pairs.jsonl and held_out.jsonl, or instructions.jsonl and held_out_instructions.jsonl, or
    both, questions.jsonl, evidence.jsonl, vocabulary.json, counts.json, the pairs in the three
    original schemas below export/, and own_answers.jsonl if pairs are mined.

    Returns:
        What was made, and what was left out why; also in counts.json and the manifest.

    Raises:
        BadInput: broken input (all problems of the records are listed at once), no pair at all, or
            images that are both trained on and evaluated.
        Unfinished: the corrector did not reply to each request; the same command goes on.
    """
    settings = run.settings
    report = Report(settings.on_bad)
    counts: Counter[str] = Counter()
    rewrites: asked.Rewrites = {}
    if settings.corrector == "llm" and _is_mined(run):
        asked.chat_settings(settings)  # wrong settings are refused before a model is loaded
    published = material.published_pairs(run, report) if _is_published(run) else []
    ids = _image_ids(run, published)
    known = material.read(run, report, image_ids=ids)
    counts.update(report.finish())
    pairs = published
    if _is_mined(run):
        pairs, rewrites = _mine(run, known, [known.images[key] for key in ids], counts)
    pairs = _limited(_with_preference(pairs, counts), settings.limit)
    own = Report(settings.on_bad)
    trains = settings.pair_source != "questions"
    instructions = material.read_instructions(run, known, own, counts) if trains else []
    counts.update(own.finish())
    if trains and not pairs and (settings.pair_source != "none" or not instructions):
        raise BadInput(f"no pairs: {dict(counts)}; look at the recipe's sections data and prepare")
    overlap = sorted({record.image_id for record in (*pairs, *instructions)} & known.evaluated)
    if overlap and settings.on_overlap == "error":
        more = " ..." if len(overlap) > 20 else ""
        raise BadInput(
            f"{len(overlap)} images are both trained on and evaluated: {', '.join(overlap[:20])}"
            f"{more}; take them out of the pairs, or set on_overlap to 'count'"
        )
    counts.update(f"questions of {q.benchmark} {q.split}" for q in known.questions)
    counts["images trained on and evaluated"] = len(overlap)
    if instructions:
        _write_instructions(run, instructions, counts)
    _write(run, pairs, known, rewrites, counts)
    ordered = dict(sorted(counts.items()))
    write_json(run.path("counts.json"), ordered)
    run.note(counts=ordered)
    return ordered


def sample_questions(run: "Run", count: int) -> list[Question]:
    """`count` questions of each benchmark and split that a prepared run will ask.

    The first ones, of images that no other of them asks about while there are such, and, so that
    not all answers are yes, with another label than the one before.
    """
    sources: dict[tuple[str, str], list[Question]] = {}
    for question in read_jsonl(run.path("questions.jsonl"), Question):
        sources.setdefault((question.benchmark, question.split), []).append(question)
    shown: list[Question] = []
    images: set[str] = set()
    for source in sources.values():
        for _ in range(min(count, len(source))):
            new = [q for q in source if q.image_id not in images] or source
            last = shown[-1].label if shown else None
            chosen = next((q for q in new if q.label != last), new[0])
            source.remove(chosen)
            images.add(chosen.image_id)
            shown.append(chosen)
    return shown


def read_prepared(run: "Run") -> Sequence[Pair] | Sequence[Instruction]:
    """What the stage wrote to train on: pairs, or instructions if there are no pairs."""
    pairs = list(read_jsonl(run.path("pairs.jsonl"), Pair))
    if pairs or run.settings.pair_source == "questions":
        return pairs
    return list(read_jsonl(run.path("instructions.jsonl"), Instruction))


def split_off(
    records: Sequence[Record], share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """Records to train on, and the records of a share of the images, drawn by the seed."""
    images = sorted({record.image_id for record in records})
    count = round(share * len(images))
    held = set(random.Random(f"{seed}/held out").sample(images, count))
    train = [record for record in records if record.image_id not in held]
    return train, [record for record in records if record.image_id in held]


def _is_published(run: "Run") -> bool:
    return run.settings.pair_source == "published"


def _is_mined(run: "Run") -> bool:
    """Whether the pairs come from the model's own answers."""
    return run.settings.pair_source in ("mined", "ranked")


def _image_ids(run: "Run", published: Sequence[Pair] | None = None) -> list[str]:
    """Ids of the images that pairs, or the oracle's instructions, are made of.

    A third as many images as question pairs may be enough for these.
    """
    settings = run.settings
    if _is_published(run):
        if published is None:
            published = material.published_pairs(run, Report("skip"))
        return list(dict.fromkeys(pair.image_id for pair in published))
    if _is_mined(run):
        wanted = max(settings.description_images, -(-settings.yes_no_pairs // 3))
        return material.images_to_mine(run, wanted)
    if settings.pair_source == "none" and material.ORACLE in material.instruction_places(run):
        return material.images_to_mine(run, sys.maxsize)
    return []


def _mine(
    run: "Run", known: Material, images: Sequence[Evidence], counts: Counter[str]
) -> tuple[list[Pair], asked.Rewrites]:
    from hadpo import backbones  # torch; published pairs need none

    settings = run.settings
    described = images[: settings.description_images]
    counts["images to mine"] = len(images)
    counts["images asked for and not there"] = settings.description_images - len(described)
    is_ranked = settings.pair_source == "ranked"
    ask = ranked.sample_questions if is_ranked else mine.description_questions
    groups = ask(described, settings)
    questions = [question for group in groups.values() for question in group]
    yes_no = []
    if settings.yes_no_pairs:
        yes_no = mine.yes_no_questions(images, known.vocabulary, settings)
    groups["yes or no"] = yes_no  # apart: long and short answers share no batch
    path = run.path("own_answers.jsonl")
    earlier = resume_jsonl(path, Answer)
    places = backbones.files_of(run.recipe, run.resolve).values()
    weights = input_hashes(places, below=run.folder.parent)
    run.note_inputs(weights, begun=path if earlier else None)
    answers = mine.answer_all(path, earlier, groups, settings, lambda: mine.answering_base(run))
    rewrites: asked.Rewrites = {}
    if settings.corrector == "llm" and not is_ranked:
        descriptions, rewrites = asked.description_pairs(
            run, questions, answers, known.images, counts
        )
    else:
        with _judge(run, known) as judge:
            judged = mine.judge_descriptions(questions, answers, known.images, judge, counts)
        if is_ranked:
            descriptions = _rank(run, judged, counts)
        else:
            descriptions = mine.description_pairs(judged, known.images, known.vocabulary, counts)
    pairs = [*descriptions, *mine.yes_no_pairs(yes_no, answers, settings, counts)]
    return pairs, rewrites


@contextlib.contextmanager
def _judge(run: "Run", known: Material) -> Iterator[Judge]:
    """The corrector as a judge of sentences; what it replied is written down however it ends."""
    if run.settings.corrector == "oracle":
        yield oracle.make(vocabulary=known.vocabulary)
        return
    how = JudgeSettings(chat=asked.chat_settings(run.settings), replies=cache_file())
    judge = llm.make(vocabulary=known.vocabulary, settings=how)
    try:
        yield judge
    finally:
        write_jsonl(run.path("corrector_replies.jsonl"), judge.replies.values())
        run.note(corrector=judge.report())


def _rank(run: "Run", judged: Sequence[mine.Judged], counts: Counter[str]) -> list[Pair]:
    """The ranked pairs; writes what the controls learn from to `controls/<name>.jsonl`."""
    found = ranked.rank(judged, counts)
    for name, pairs in found.controls.items():
        write_jsonl(run.path("controls", f"{name}.jsonl"), pairs)
        counts[f"{name}: pairs"] = len(pairs)
    return found.pairs


def _with_preference(pairs: Sequence[Pair], counts: Counter[str]) -> list[Pair]:
    """The pairs that teach a preference; the others are counted."""
    why = {pair.pair_id: no_preference(pair.chosen, pair.rejected) for pair in pairs}
    counts.update(f"pairs left out: {reason}" for reason in why.values() if reason)
    return [pair for pair in pairs if not why[pair.pair_id]]


def _limited(pairs: Sequence[Pair], limit: int) -> Sequence[Pair]:
    """At most `limit` pairs of each kind; 0: all."""
    if not limit:
        return pairs
    seen: Counter[str] = Counter()
    first = []
    for pair in pairs:
        seen[pair.kind] += 1
        if seen[pair.kind] <= limit:
            first.append(pair)
    return first


def _write_instructions(run: "Run", records: Sequence[Instruction], counts: Counter[str]) -> None:
    settings = run.settings
    train, held_out = split_off(records, settings.held_out_share, settings.prepare_seed)
    write_jsonl(run.path("held_out_instructions.jsonl"), held_out)
    write_jsonl(run.path("instructions.jsonl"), train)
    counts["instructions"], counts["held-out instructions"] = len(train), len(held_out)
    counts.update(f"instructions: {record.kind}" for record in train)


def _write(
    run: "Run",
    pairs: Sequence[Pair],
    known: Material,
    rewrites: asked.Rewrites,
    counts: Counter[str],
) -> None:
    """Write the stage's files, pairs.jsonl last; counts what a schema has no room for."""
    settings = run.settings
    train, held_out = split_off(pairs, settings.held_out_share, settings.prepare_seed)
    for name, part in (("pairs", train), ("held-out pairs", held_out)):
        counts[name] = len(part)
        for kind in ("description", "pope"):
            counts[f"{name}: {kind}"] = sum(pair.kind == kind for pair in part)
    for schema in hadpo_pairs.SCHEMAS if train else ():
        try:
            folder = run.path("export", schema)
            hadpo_pairs.write(train, folder, schema=schema, rewrites=rewrites)
        except BadInput:  # two descriptions of one image: llava-v1.5 has room for one
            counts[f"export/{schema}: not written, several descriptions of one image"] = 1
    write_jsonl(run.path("held_out.jsonl"), held_out)
    write_jsonl(run.path("questions.jsonl"), known.questions)
    write_jsonl(run.path("evidence.jsonl"), known.evidence.values())
    write_json(run.path("vocabulary.json"), known.words, ensure_ascii=False)
    counts["images with evidence"] = len(known.evidence)
    write_jsonl(run.path("pairs.jsonl"), train)
