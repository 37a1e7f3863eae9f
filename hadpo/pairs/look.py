"""What prepare is about to do, looked at before it is done."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hadpo.data import Report
from hadpo.pairs import correcting, instructed, material
from hadpo.records import Evidence, Instruction, Pair, Question, read_jsonl

if TYPE_CHECKING:
    from hadpo.runs import Run


def look(run: "Run", count: int) -> list[Evidence]:
    """The first `count` images that pairs will be made of, with what is known about them."""
    chosen = _images(run)[:count]
    known = material.read(run, Report("skip"), image_ids=chosen)
    return [known.images[key] for key in chosen]


def some_of_each(questions: Iterable[Question], count: int) -> list[Question]:
    """The first `count` questions of each benchmark and split."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for question in questions:
        source = question.benchmark, question.split
        seen[source] += 1
        if seen[source] <= count:
            found.append(question)
    return found


def plan(run: "Run") -> dict[str, Any]:
    """Images, questions and settings of the stage, counted without asking a model anything."""
    settings = run.settings
    chosen = _images(run)
    known = material.read(run, Report("skip"), image_ids=chosen)
    facts: dict[str, Any] = {
        "pairs": settings.pair_source,
        "images that pairs are made of": len(chosen),
        "images that benchmarks ask about": len({q.image_id for q in known.questions}),
        "in both": f"{len(set(chosen) & known.evaluated)} ({settings.on_overlap})",
        "instructions from": ", ".join(instructed.places(run)) or "nowhere",
        "broken records": settings.on_bad,
    }
    if settings.pair_source == "mined":
        sampled = round(settings.sampled_share * settings.description_images)
        facts["descriptions to sample"] = sampled
        facts["descriptions to decode greedily"] = settings.description_images - sampled
        facts["question pairs to keep"] = settings.yes_no_pairs
        if settings.corrector == "llm":
            described = [known.images[key] for key in chosen[: settings.description_images]]
            facts |= correcting.estimate(settings, described)
    asked = Counter(f"{q.benchmark} {q.split}" for q in known.questions)
    return facts | {f"questions of {name}": n for name, n in asked.items()}


def written(run: "Run") -> Sequence[Pair] | Sequence[Instruction]:
    """What the stage wrote to train on: pairs, or instructions where there are no pairs."""
    pairs = list(read_jsonl(run.path("pairs.jsonl"), Pair))
    return pairs or list(read_jsonl(run.path("instructions.jsonl"), Instruction))


def free_images(run: "Run") -> list[str]:
    """Ids of the images that the oracle makes instructions about; none where it is not asked."""
    if instructed.ORACLE not in instructed.places(run):
        return []
    return material.images_to_mine(run, sys.maxsize)


def _images(run: "Run") -> list[str]:
    settings = run.settings
    if settings.pair_source == "published":
        pairs = material.published_pairs(run, Report("skip"))
        return list(dict.fromkeys(pair.image_id for pair in pairs))
    if settings.pair_source == "none":
        return free_images(run)
    wanted = max(settings.description_images, -(-settings.yes_no_pairs // 3))
    return material.images_to_mine(run, wanted)
