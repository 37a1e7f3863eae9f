"""Sentences of the results section: every number of them stands in a table."""

from pathlib import Path

from hadpo.tables import MINI, audit_story, compare_runs, read_reported, results_story


def test_the_audit_in_sentences():
    text = str(audit_story(read_reported(["hadpo", "lrv-users"])))
    assert "of 18 printed rows 15 come from exactly one confusion matrix, 3 from none" in text
    assert "of 6 printed rows 6 come from exactly one" in text
    for digits in ("67.22", "50.30", "87.87"):
        assert digits in text
    assert "minigpt4-llama2-7b base: recall differs" in text
    assert "No published POPE rows" in str(audit_story([]))


def test_the_comparison_in_sentences(runs_folder: Path):
    tables = compare_runs(["run-s1", "run-s2", "run-s3"], runs_folder=runs_folder)
    text = str(results_story(tables))
    assert MINI in text and "Against finetuned on the chosen texts only" in text
    overview = next(table for table in tables if table.name == "overview")
    assert text.count("\n- ") == sum(column == "Difference" for _, column in overview.bold)
    one = str(results_story(compare_runs(["run-s1"], runs_folder=runs_folder)))
    assert ", better, n" in one
    assert "No run is compared" in str(results_story([]))
