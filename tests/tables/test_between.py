"""Two runs on the same images, paired; an exported run gives the tables of the run itself."""

from pathlib import Path

import numpy as np
import pytest

from hadpo.records import BadInput, Outcome, read_jsonl
from hadpo.runs.report import export
from hadpo.tables import compare_runs, read_results, results
from hadpo.tables.comparison import between_runs
from hadpo.tables.intervals import paired_difference

SHR = "hallucinated_sentence_ratio"


def test_tuned_models_are_paired_by_image(runs_folder: Path):
    found = [read_results(name, runs_folder) for name in ("run-s1", "run-s2", "run-s3")]
    table = between_runs(found, samples=200)
    assert table is not None
    rows = table.frame.set_index(["first", "second", "measure"])
    assert len({(first, second) for first, second, _ in rows.index}) == 3
    assert "pope" not in set(table.frame["benchmark"])  # McNemar's test is for these
    row = rows.loc[("run-s1", "run-s2", SHR)]
    sums = []
    for name in ("run-s1", "run-s2"):
        outcomes = read_jsonl(runs_folder / name / "evaluate" / "outcomes.jsonl", Outcome)
        (own,) = [o for o in outcomes if (o.benchmark, o.model) == ("shr", "merged")]
        order = np.argsort(np.array(own.images, dtype=str))
        sums.append(np.array(own.sums[SHR]).T[order])
    values = [s[:, 0].sum() / s[:, 1].sum() for s in sums]
    assert row["difference"] == pytest.approx(values[1] - values[0], abs=1e-12)
    ends = paired_difference(sums[0], sums[1], samples=200, seed=42)
    assert (row["low"], row["high"]) == pytest.approx(ends, abs=1e-12)
    bold = {at for at, _ in table.bold}
    for at, each in enumerate(table.frame.to_dict("records")):
        assert (at in bold) == (each["low"] > 0 or each["high"] < 0)


def test_other_images_are_not_paired(tmp_path: Path, write_run):
    write_run(tmp_path, "small", images=10)
    write_run(tmp_path, "large", images=12)
    found = [read_results(name, tmp_path) for name in ("small", "large")]
    assert between_runs(found) is None
    assert between_runs(found[:1]) is None


def test_an_exported_run_gives_the_tables_of_the_run(tmp_path: Path, write_run, monkeypatch):
    here, exports = tmp_path / "runs", tmp_path / "reproduced"
    for seed in (1, 2):
        write_run(here, f"run-s{seed}", seed=seed)
    names = ["run-s1", "run-s2"]
    of_runs = compare_runs(names, runs_folder=here)
    for name in names:
        export(name, exports / name, runs_folder=here)
    monkeypatch.setattr(results, "REPRODUCED", exports)
    of_exports = compare_runs(names, runs_folder=tmp_path / "nothing")
    assert len(of_runs) > 5
    assert [t.to_markdown() for t in of_exports] == [t.to_markdown() for t in of_runs]


def test_a_run_from_before_outcomes_says_what_to_do(tmp_path: Path, write_run):
    write_run(tmp_path, "old")
    (tmp_path / "old" / "evaluate" / "outcomes.jsonl").unlink()
    with pytest.raises(BadInput, match=r"outcomes.jsonl is not there.*redo it with hadpo stage"):
        read_results("old", tmp_path)
