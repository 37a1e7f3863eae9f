"""Runs beside each other and beside the published numbers, as tables for people and for papers.

`compare` is the stage; `compare_runs` compares any evaluated runs by name. A `Table` shows itself
in a notebook and writes Markdown, HTML, LaTeX and CSV. Fractions in CSV, percent in text.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hadpo import config
from hadpo.records import BadInput
from hadpo.runs import Run
from hadpo.tables._table import MINI, Table, Tables, facts
from hadpo.tables.audit import audit, audit_table, read_pope_table
from hadpo.tables.comparison import between_runs, comparison, controls, overview
from hadpo.tables.index import compared_index, run_index
from hadpo.tables.measures import (
    Measure,
    bars_of,
    learning_metric,
    measure_of,
    measures_of,
    model_title,
    models_in_order,
    split_title,
)
from hadpo.tables.notes import audit_story, results_story
from hadpo.tables.pope import mcnemar_table, pope_table
from hadpo.tables.reported import ReportedRow, read_reported, reported_tables
from hadpo.tables.results import RunResults, check_comparable, differences, read_results


def compare(run: Run) -> list[Table]:
    """The stage 05_compare: all tables of `run`, written to `tables/` in all formats.

    Raises:
        BadInput: a run that is not evaluated, or published numbers that do not exist.
    """
    results = run_results(run)
    anyway = run.settings.on_difference == "note"
    tables = _tables(results, published_rows(run), anyway=anyway)
    written = [path.name for table in tables for path in table.write(run.path("tables"))]
    run.note(tables=written)
    return tables


def published_rows(run: Run) -> list[ReportedRow]:
    """The published numbers that a compare stage asks for; raises BadInput if there are none."""
    settings = run.settings
    return read_reported(config.names(settings.reported), backbone=settings.reported_backbone)


def published_tables(run: Run) -> Tables:
    """The published numbers that a compare stage asks for, one table per system and benchmark."""
    return Tables(reported_tables(published_rows(run)))


def run_results(run: Run) -> list[RunResults]:
    """The evaluated runs that a compare stage is about: those its settings name, or its own."""
    names = config.names(run.settings.run_names)
    if names:
        return [read_results(name, run.root) for name in names]
    if "evaluate" not in run.recipe.stages:  # published numbers only
        return []
    metrics = run.earlier("evaluate", "metrics.jsonl")
    return [read_results(metrics.parent.parent.name, run.root)]


def tables_of_runs(made: Sequence[Table]) -> Tables:
    """The tables of `compare` that rest on runs; the published ones are `published_tables`."""
    return Tables([table for table in made if not table.name.startswith(("reported_", "audit_"))])


def compare_runs(
    names: Sequence[str],
    *,
    runs_folder: Path,
    reported: Sequence[str] = ("hadpo",),
    reported_backbone: str = "",
    anyway: bool = False,
) -> list[Table]:
    """All tables of the evaluated runs `names` in `runs_folder`, without writing anything.

    Args:
        names: of the runs.
        runs_folder: that holds them.
        reported: systems in papers_results/reported.
        reported_backbone: keep only the published rows of this backbone.
        anyway: compare runs with other questions, reading or judge too; a footnote says so.

    Raises:
        BadInput: no names, a run twice, no such run, one not evaluated, or not comparable runs.
    """
    if not names:
        raise BadInput("an empty comparison: name at least one evaluated run")
    results = [read_results(name, runs_folder) for name in names]
    return _tables(results, read_reported(reported, backbone=reported_backbone), anyway=anyway)


def render(tables: Sequence[Table], form: str) -> str:
    """Tables as one text: md, html, latex or csv; an empty line between two tables.

    Raises:
        BadInput: another format.
    """
    return "\n".join(table.to(form) for table in tables)


def headline(results: Sequence[RunResults]) -> tuple[Table, Table]:
    """What a reader of runs wants first, without published numbers: `overview`, and its source."""
    whole = comparison(results, **_draws(results))
    return overview(whole), whole


def _tables(
    results: Sequence[RunResults], reported: Sequence[ReportedRow], *, anyway: bool
) -> list[Table]:
    if not results:
        return reported_tables(reported)
    if not anyway:
        check_comparable(results)
    warnings = tuple(f"Not comparable, shown on request: {d}." for d in differences(results))
    draws = _draws(results)
    whole = comparison(results, reported, **draws)
    tables = [overview(whole), whole, controls(results, **draws)]
    if len(results) > 1:
        tables.append(comparison(results, reported, by_run=True, **draws))
    tables += [pope_table(results), mcnemar_table(results), between_runs(results, **draws)]
    ours = [replace(t, notes=(*warnings, *t.notes)) for t in tables if t is not None]
    return [*ours, *reported_tables(reported)]


def _draws(results: Sequence[RunResults]) -> dict[str, Any]:
    """How often intervals are resampled, and the seed: as the first run has it."""
    settings = results[0].settings.get("evaluate", {})
    names = {"samples": ("bootstrap_samples", 1000), "seed": ("evaluate_seed", 42)}
    return {name: settings.get(*setting) for name, setting in names.items()}
