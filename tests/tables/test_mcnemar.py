"""McNemar's test against scipy, and what may stand in one table at all."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hadpo.records import BadInput
from hadpo.tables import compare_runs, read_results
from hadpo.tables.pope import mcnemar, mcnemar_table
from hadpo.tables.results import differences


@given(st.integers(0, 400), st.integers(0, 400))
def test_p_is_that_of_scipys_binomial_test(first: int, second: int):
    if first + second == 0:
        assert mcnemar(first, second) == 1.0
    else:
        expected = stats.binomtest(first, first + second).pvalue
        assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_p_is_near_the_chi_square_of_the_textbook_for_many_questions():
    rng = np.random.default_rng(0)
    for first, second in rng.integers(150, 250, (20, 2)).tolist():
        statistic = max(0, abs(first - second) - 1) ** 2 / (first + second)
        assert mcnemar(first, second) == pytest.approx(stats.chi2.sf(statistic, 1), abs=0.003)


def test_all_questions_of_pope_are_counted_and_nothing_overflows():
    assert mcnemar(1500, 1500) == 1.0
    assert 0 <= mcnemar(0, 3000) < 1e-300
    with pytest.raises(ValueError, match="not negative"):
        mcnemar(-1, 2)


def test_counts_are_those_of_the_answers(runs_folder: Path):
    results = [read_results(name, runs_folder) for name in ("run-s1", "run-s2")]
    table = mcnemar_table(results)
    assert table is not None and table.is_mini
    for row in table.frame.to_dict("records"):
        cells = [row[name] for name in ("both", "only_first", "only_second", "neither")]
        assert sum(cells) == row["n"] == 120
        assert row["p"] == mcnemar(row["only_first"], row["only_second"])
    own = table.frame[table.frame["second"] == "run-s1, tuned"]
    accuracy = results[0].value(("pope", "random", "accuracy", "merged"))
    first = own[own["split"] == "random"].iloc[0]
    assert (first["both"] + first["only_second"]) / first["n"] == pytest.approx(accuracy)
    across = table.frame[table.frame["first"].str.startswith("run-s1, tuned")]
    assert set(across["second"]) == {"run-s2, tuned"} and len(across) == 3


def change(folder: Path, name: str, edit) -> None:
    path = folder / name / "evaluate" / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


@pytest.fixture
def two(tmp_path: Path, write_run) -> Path:
    for seed in (1, 2):
        write_run(tmp_path, f"run-s{seed}", seed=seed)
    return tmp_path


def test_runs_with_other_questions_are_refused_unless_asked_for(two: Path):
    path = two / "run-s2" / "evaluate" / "outcomes.jsonl"
    asked = json.loads(path.read_text().splitlines()[0])["questions"]
    path.write_text(path.read_text().replace(asked, "0" * 64))
    with pytest.raises(BadInput, match=r"questions of pope random: 'run-s1' answered 120 .*anyway"):
        compare_runs(["run-s1", "run-s2"], runs_folder=two)
    tables = compare_runs(["run-s1", "run-s2"], runs_folder=two, anyway=True)
    ours = [table for table in tables if not table.name.startswith(("reported", "audit"))]
    assert all("Not comparable, shown on request" in table.to_markdown() for table in ours)


def test_runs_with_another_judge_or_reading_are_refused(two: Path):
    change(two, "run-s2", lambda m: m["settings"]["evaluate"].update(judge="llm"))
    with pytest.raises(BadInput, match=r"judge of pope: 'oracle' of 'run-s1', 'llm' of 'run-s2'"):
        compare_runs(["run-s1", "run-s2"], runs_folder=two)
    first, second = (read_results(name, two) for name in ("run-s1", "run-s2"))
    one, other = (
        dataclasses.replace(
            result, facts={"decoding": {"pope": {"readings": reading, "judge": ""}}}
        )
        for result, reading in ((first, "upstream"), (second, "strict"))
    )
    assert "readings of pope: 'upstream' of 'run-s1'" in differences([one, other])[0]
    assert differences([first, first]) == []
