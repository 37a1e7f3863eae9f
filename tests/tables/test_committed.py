"""The committed tables of published numbers are those that the code makes, byte for byte."""

from pathlib import Path

from hadpo import config
from hadpo.runs.run import open_run
from hadpo.tables import REPORTED, compare


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
