"""`hadpo score` and `hadpo shr-scores`: answers and judgements that others wrote."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from hadpo import benchmarks, config, plugins, runs
from hadpo.cli.results import AsJson
from hadpo.records import BadInput, Metric

commands = typer.Typer()
_RECIPE = "llava-1.5-7b"  # whose paths a benchmark without a recipe of its own has
Differences = Mapping[tuple[str, str], Mapping[str, Any]]  # split and metric -> fields of a row


@commands.command()
def score(
    file: Annotated[Path, typer.Argument(help="answers as a benchmark's own scripts write them")],
    benchmark: Annotated[str, typer.Option(help="pope, repope, chair, ...")],
    against: Annotated[str, typer.Option(help="other answers to the same questions")] = "",
    questions: Annotated[str, typer.Option(help="what was asked: file, folder, or a list")] = "",
    recipe: Annotated[str, typer.Option(help="recipe of paths and settings")] = "",
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="KEY=VALUE of the recipe")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score answers of anybody, with intervals, alone or against other answers.

    Read are the official files of each benchmark, lmms-eval's samples and VLMEvalKit's tables.

    Example: hadpo score answers.jsonl --benchmark pope --questions coco_pope_random.json
    """
    known = plugins.available("hadpo.benchmarks")
    if benchmark not in known:
        raise BadInput(f"--benchmark: no {benchmark!r}; {plugins.choices(benchmark, known)}")
    own = benchmark in config.recipe_names()
    chosen = config.load_recipe(
        recipe or (benchmark if own else _RECIPE), runs.read_overrides(parameter or ())
    )
    place = Path(questions)
    scored = [
        benchmarks.score_file(
            benchmark,
            path,
            data=chosen.data,
            settings=chosen.evaluate,
            resolve=config.resolve_path,
            questions=str(place.resolve()) if questions and place.exists() else questions,
        )
        for path in (file, *([Path(against)] if against else ()))
    ]
    first = scored[0]
    differences: Differences = {}
    if against:
        differences = _differences(first, scored[1], chosen.evaluate)
    if as_json:
        rows = [{**vars(m), **differences.get((m.split, m.name), {})} for m in first.metrics]
        typer.echo(json.dumps(rows))
        return
    for each in scored:
        model = each.metrics[0].model
        rest = f", {each.left_out} answers to other questions left out" * bool(each.left_out)
        typer.echo(f"{model}: {each.form}, {len(each.ids)} of {len(each.questions)} answered{rest}")
    if against:
        both = len(first.ids & scored[1].ids)
        typer.echo(f"difference: {file} minus {against}, on {both} questions that both answer")
    _show(first.metrics, differences)


def _differences(first: benchmarks.Scored, second: benchmarks.Scored, settings: Any) -> Differences:
    """First minus second on the questions that both answer, paired by photo.

    Raises:
        BadInput: they have no question in common.
    """
    from hadpo.tables.intervals import paired_difference

    common = first.ids & second.ids
    if not common:
        raise BadInput("--against: the two files answer no question in common")
    outcomes = [{o.split: o for o in each.outcomes(common)} for each in (first, second)]
    measures = {m.name: m for m in first.benchmark.MEASURES}
    samples, seed = settings.bootstrap_samples, settings.evaluate_seed
    found = {}
    for split, one in outcomes[0].items():
        other = outcomes[1][split]
        order = [other.images.index(image) for image in one.images]
        for name in one.sums.keys() & other.sums.keys():
            pair = np.array(one.sums[name]).T, np.array(other.sums[name]).T[order]
            totals = [sums.sum(axis=0) for sums in pair]
            if measures[name].unit == "count" or any(total[1] == 0 for total in totals):
                continue
            low, high = paired_difference(*pair[::-1], samples=samples, seed=seed) or (None, None)
            value, against = (float(total[0] / total[1]) for total in totals)
            fields = {"against": against, "difference": value - against}
            found[split, name] = fields | {"difference_low": low, "difference_high": high}
    return found


@commands.command("shr-scores")
def shr_scores(
    judgement: Annotated[Path, typer.Argument(help="judgement.json as HA-DPO's scripts write it")],
    as_json: AsJson = False,
) -> None:
    """Score the judgements of an original SHR run: its numbers, ours beside them, and intervals.

    Example: hadpo shr-scores shr_eval_results/Mon_Jan_1/judgement.json
    """
    found = plugins.load("hadpo.benchmarks", "shr").score_judgement(judgement)
    if as_json:
        typer.echo(json.dumps([vars(metric) for metric in found]))
        return
    _show(found, {})


def _show(metrics: Iterable[Metric], differences: Differences) -> None:
    """A line for each metric; its split before the first of it, if there are several."""
    metrics = list(metrics)
    splits = list(dict.fromkeys(metric.split for metric in metrics))
    for split in splits:
        if len(splits) > 1:
            typer.echo(f"\n{split or 'all'}:")
        for m in (m for m in metrics if m.split == split):
            value = "-" if m.value is None else f"{m.value:.3f}"
            unread = f", {m.n_unreadable} unreadable" if m.n_unreadable else ""
            line = f"{m.name:38} {value:>8}{_ends(m.low, m.high)}  n {m.n}{unread}"
            if more := differences.get((split, m.name)):
                ends = _ends(more["difference_low"], more["difference_high"])
                line += f"  against {more['against']:.3f}, "
                line += f"difference {more['difference']:+.3f}{ends}"
            typer.echo(line)


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None else f"  [{low:.3f}, {high:.3f}]"
