"""Which stages a run is labelled with, above all one that was started from another run."""

from pathlib import Path

from hadpo.tables import read_results


def test_a_run_from_another_keeps_its_own_training(tmp_path: Path, write_run):
    write_run(tmp_path, "first", seed=1, beta=0.1)
    write_run(tmp_path, "second", seed=7, beta=0.5, earlier="first")
    found = read_results("second", tmp_path)
    assert found.settings["train"]["beta"] == 0.5
    assert found.settings["train"]["train_seed"] == 7
    assert found.training_log == tmp_path / "second" / "train" / "metrics.jsonl"
    assert found.folders["prepare"] == tmp_path / "first" / "prepare"
    assert found.settings["prepare"]["prepare_seed"] == 42
    # accuracy needs the questions' labels, which lie in the other run's prepare stage
    assert found.items["pope", "adversarial", "accuracy", "merged"]


def test_a_stage_that_a_run_does_not_have_is_the_other_runs(tmp_path: Path, write_run):
    write_run(tmp_path, "first", seed=1, beta=0.1)
    stages = ("prepare", "train")
    write_run(tmp_path, "again", seed=7, beta=0.5, earlier="first", earlier_stages=stages)
    found = read_results("again", tmp_path)
    assert found.settings["train"]["beta"] == 0.1
    assert found.training_log == tmp_path / "first" / "train" / "metrics.jsonl"


def test_a_run_with_all_its_own_stages_reads_none_of_the_other(tmp_path: Path, write_run):
    write_run(tmp_path, "first", seed=1, beta=0.1)
    write_run(tmp_path, "own", seed=7, beta=0.5, earlier="first", earlier_stages=())
    found = read_results("own", tmp_path)
    assert {folder.parent.name for folder in found.folders.values() if folder.is_dir()} == {"own"}
