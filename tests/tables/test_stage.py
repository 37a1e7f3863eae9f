"""The stage 05_compare on made-up runs, opened as a notebook opens it."""

from pathlib import Path

import pytest

from hadpo.records import BadInput
from hadpo.runs import Run
from hadpo.runs.run import open_run
from hadpo.tables import MINI, compare


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, **overrides: str) -> Run:
    monkeypatch.setenv("HADPO_RUNS", str(folder))
    return open_run("compare", "mini/llava", name, overrides)


@pytest.fixture
def runs(tmp_path: Path, write_run) -> Path:
    for seed in (1, 2):
        write_run(tmp_path, f"run-s{seed}", seed=seed)
    return tmp_path


def test_a_run_is_compared_with_the_published_numbers(runs: Path, monkeypatch):
    run = opened(runs, monkeypatch, "run-s1")
    tables = compare(run)
    names = [table.name for table in tables]
    published = ["reported_hadpo_pope", "audit_hadpo_pope", "reported_hadpo_shr"]
    assert names == ["overview", "comparison", "controls", "pope", "mcnemar", *published]
    folder = run.folder / "tables"
    assert {p.name for p in folder.iterdir()} == {
        f"{name}.{form}" for name in names for form in ("md", "html", "tex", "csv")
    }
    text = (folder / "comparison.md").read_text()
    assert MINI in text and "89.60" not in text  # of another model: in a table of its own
    assert "89.60" in (folder / "reported_hadpo_pope.md").read_text()
    assert len(tables[5].frame) == 6  # the recipe keeps one backbone's rows
    before = {p: p.read_bytes() for p in folder.iterdir()}
    compare(run)
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_several_runs_and_no_published_numbers(runs: Path, monkeypatch):
    run = opened(
        runs, monkeypatch, "both", run_names="run-s1, run-s2", reported="", reported_backbone=""
    )
    names = [table.name for table in compare(run)]
    assert names == [
        "overview",
        "comparison",
        "controls",
        "every_run",
        "pope",
        "mcnemar",
        "between_runs",
    ]
    text = (run.folder / "tables" / "every_run.md").read_text()
    assert text.count("run-s1 ") == text.count("run-s2 ") > 10


def test_the_recipe_reported_needs_no_run_and_names_none(tmp_path: Path, monkeypatch):
    written = []
    for name in ("one", "another"):
        monkeypatch.setenv("HADPO_RUNS", str(tmp_path / name))
        run = open_run("compare", "reported", name, {})
        sizes = {table.name: len(table.frame) for table in compare(run)}
        assert sizes == {
            "reported_hadpo_pope": 18,
            "audit_hadpo_pope": 18,
            "reported_hadpo_shr": 6,
            "reported_lrv_gavie": 8,
            "reported_lrv_mme": 1,
            "reported_lrv-users_mme": 3,
            "reported_lrv-users_pope": 6,
            "audit_lrv-users_pope": 6,
            "reported_amber_amber": 4,
            "reported_hallusionbench_hallusion": 5,
        }
        files = sorted((run.folder / "tables").iterdir())
        assert len(files) == 4 * len(sizes)
        written.append([(p.name, p.read_bytes()) for p in files])
    assert written[0] == written[1]
    assert not any(str(tmp_path).encode() in content for _, content in written[0])


def test_a_wrong_setting_is_named_before_anything_is_written(runs: Path, monkeypatch):
    run = opened(runs, monkeypatch, "run-s1", reported="hadpoo")
    with pytest.raises(BadInput, match="did you mean 'hadpo'"):
        compare(run)
    run = opened(runs, monkeypatch, "run-s2", run_names="run-s2,run-s7")
    with pytest.raises(BadInput, match="'run-s7' cannot be compared"):
        compare(run)
    assert not (run.folder / "tables").exists()
