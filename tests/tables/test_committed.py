"""The committed tables, of published numbers and of our runs, are those that the code makes."""

from pathlib import Path

import pytest

from hadpo import config
from hadpo.runs.run import open_run
from hadpo.tables import compare, comparison, overview, read_results
from hadpo.tables.reported import REPORTED
from hadpo.tables.results import REPRODUCED


def test_the_committed_tables_are_regenerated(tmp_path: Path, monkeypatch):
    """Where they differ: hadpo stage compare reported, and copy its tables to reported/tables."""
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path))
    run = open_run("compare", "reported", "reported", {})
    compare(run)
    made = {p.name: p.read_bytes() for p in (run.folder / "tables").iterdir()}
    there = {p.name: p.read_bytes() for p in (REPORTED / "tables").iterdir()}
    assert there.keys() == made.keys()
    assert [name for name in made if made[name] != there[name]] == []


def test_the_recipe_reported_reads_every_file():
    systems = {path.stem.partition("_")[0] for path in REPORTED.glob("*_*.csv")}
    named = config.load_recipe("reported").compare.reported
    assert {name.strip() for name in named.split(",")} == systems


@pytest.mark.parametrize(("recipe", "folder"), [("results", "tables"), ("ablations", "ablations")])
def test_the_committed_tables_of_our_runs_are_regenerated(
    tmp_path: Path, monkeypatch, recipe, folder
):
    """Where they differ: hadpo stage compare RECIPE, and copy its md and csv to the folder.

    The runs are read from their exports: no answer, no model and no other run is needed. Of the
    ablations the overview alone is kept.
    """
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path))
    run = open_run("compare", recipe, recipe, {})
    compare(run)
    made = {
        path.name: path.read_bytes()
        for path in (run.folder / "tables").iterdir()
        if path.suffix in (".md", ".csv")
        and not path.name.startswith(("reported_", "audit_"))
        and (folder == "tables" or path.stem == "overview")
    }
    there = {path.name: path.read_bytes() for path in (REPRODUCED / folder).iterdir()}
    assert there.keys() == made.keys()
    assert {"overview.csv", "overview.md"} <= there.keys()
    assert [name for name in made if made[name] != there[name]] == []


def test_the_table_of_corrected_pairs_is_that_of_the_committed_runs():
    seeds = [f"mini-llava-corrected{seed}" for seed in ("", "-seed1", "-seed2")]
    table = overview(comparison([read_results(name, REPRODUCED) for name in seeds]))
    text = (config.ROOT / "docs" / "results.md").read_text().partition("<!-- mini table -->\n")[2]
    lines = [line.strip("| ").split(" | ") for line in text.partition("\n\n")[0].splitlines()]
    columns, rows = lines[0], lines[2:]
    cells = table.shown.copy()
    for at, column in table.bold:
        cells.loc[at, column] = f"**{cells.loc[at, column]}**"
    made = {row["Measure"]: [row[name] for name in columns] for row in cells.to_dict("records")}
    assert len(rows) >= 10
    assert rows == [made[row[0]] for row in rows]
