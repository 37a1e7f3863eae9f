"""Pictures of whole stages, drawn from their files and saved with their data."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from hadpo import tables
from hadpo.figures._style import Figure
from hadpo.figures.bars import (
    dumbbell,
    invented_objects,
    length_against_hallucination,
    published_dumbbell,
)
from hadpo.figures.cards import Card, Pictures, best_and_worst
from hadpo.figures.curves import STEP, learning_curve, read_steps, training_curves
from hadpo.figures.scores import pope_bars, score_bars
from hadpo.records import BadInput, Evidence, Question, Verdict, read_json, read_jsonl
from hadpo.runs import Run, read_manifest


def hallucination_cards(
    evaluated: Path, prepared: Path, *, count: int = 2, median: bool = False
) -> Pictures:
    """The descriptions that gained most and that lost most by tuning, sentence by sentence.

    Args:
        evaluated: folder of a stage evaluate, with `verdicts.jsonl`.
        prepared: folder of the stage prepare that it read, with questions and evidence.
        count: cards of each sort.
        median: also the description in the middle.

    Raises:
        BadInput: the stage prepare has left no questions, or no evidence.
    """
    path = evaluated / "verdicts.jsonl"
    verdicts = list(read_jsonl(path, Verdict)) if path.is_file() else []
    evidence = _evidence(prepared, "shr")
    cards = best_and_worst(verdicts, evidence, count=count, median=median)
    manifest = read_manifest(evaluated)
    return cards.as_mini() if manifest is not None and manifest.is_mini else cards


def _evidence(prepared: Path, benchmark: str = "") -> dict[str, Evidence]:
    """What is known of the image of each question of a benchmark, or of all, by its id."""
    for name in ("questions.jsonl", "evidence.jsonl"):
        if not (prepared / name).is_file():
            raise BadInput(
                f"{prepared.name}/{name} is absent, which says what was asked and is on the images"
            )
    known = {e.image_id: e for e in read_jsonl(prepared / "evidence.jsonl", Evidence)}
    questions = read_jsonl(prepared / "questions.jsonl", Question)
    asked = (q for q in questions if q.image_id in known and benchmark in ("", q.benchmark))
    return {q.question_id: known[q.image_id] for q in asked}


def compare(run: Run, results: Sequence[tables.Table]) -> Pictures:
    """The pictures of 05_compare, saved under `figures/`: dumbbell, bars, curves and one card.

    The dumbbell and the curves show all compared runs, the bars and the card the first of them;
    the card is of the description that gained most. Without a run: the published numbers alone.
    A picture that the runs have no numbers for is named in `missing`, and so is the reason.
    """
    wanted: dict[str, Callable[[], Figure | Card]] = {}
    found = tables.run_results(run)
    published = tables.published_rows(run)
    if found:
        first, metrics = found[0], list(found[0].metrics.values())
        whole = next(table for table in results if table.name == "comparison")
        logs = {r.name: r.training_log for r in found if r.training_log is not None}
        log = logs if len(logs) > 1 else next(iter(logs.values()), ())
        wanted["dumbbell"] = partial(dumbbell, whole)
        wanted["POPE"] = partial(pope_bars, metrics)
        wanted["SHR"] = partial(score_bars, metrics, "shr")
        wanted["length"] = partial(length_against_hallucination, first)
        for model in ("base", "merged"):
            wanted[f"invented objects, {model}"] = partial(_invented, first, model)
        if any(model.startswith(STEP) for *_, model in first.metrics):
            wanted["learning curve"] = partial(_learning, first)
        wanted["curves"] = partial(training_curves, log)
        wanted["card"] = partial(_best_card, first)
    elif published:
        wanted["published"] = partial(published_dumbbell, published)
    drawn, missing = [], []
    for name, draw in wanted.items():
        try:
            drawn.append(draw())
        except BadInput as error:  # no numbers for this one: said below the pictures
            missing.append(f"{name}: {error}")
    pictures = Pictures(drawn, missing)
    if any(result.is_mini for result in found):
        pictures = pictures.as_mini()
    run.note(figures=[path.name for path in pictures.save(run.path("figures"))], not_drawn=missing)
    return pictures


def _best_card(result: tables.RunResults) -> Card:
    """The card of the description that gained most; BadInput if no card can be drawn."""
    folders = result.folders
    found = hallucination_cards(folders["evaluate"], folders["prepare"], count=1)
    if not found.pictures:
        raise BadInput("; ".join(found.missing))
    best = found.pictures[0]
    assert isinstance(best, Card)
    note = f"Of all descriptions of {result.name} the one that gained most, not a typical one."
    return replace(best, name="hallucination_card", note=f"{note} {best.note}")


def _learning(result: tables.RunResults) -> Figure:
    """The learning curve of a run; how many updates it had stands in its training log."""
    if result.training_log is None:
        raise BadInput(f"run {result.name!r} has no training log")
    steps = read_steps(result.training_log)
    own = [step for step in steps if step["objective"] == "dpo"] or steps
    return learning_curve(result, updates=own[-1]["step"] + 1)


def _invented(result: tables.RunResults, model: str) -> Figure:
    """The objects that a model of one run invents, from the files of its stages."""
    evaluated, prepared = (result.folders.get(stage, Path()) for stage in ("evaluate", "prepare"))
    files = evaluated / "verdicts.jsonl", prepared / "vocabulary.json"
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise BadInput(f"run {result.name!r} has no {', '.join(absent)}")
    objects = read_json(files[1], dict, expected="run stage prepare again").get("objects", ())
    names = [name if isinstance(name, str) else str(name[0]) for name in objects]
    verdicts = list(read_jsonl(files[0], Verdict))
    return invented_objects(verdicts, _evidence(prepared), names, model=model)
