import json
import logging
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from hadpo import config, runs
from hadpo.records import BadInput
from hadpo.runs import parameters
from hadpo.runs.lock import is_alive, started_at
from hadpo.runs.run import open_run
from hadpo.runs.state import discard


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(parameters, "_first_names", {})
    return tmp_path / "runs"


def manifest(folder, name, stage):
    return json.loads((folder / name / stage / "manifest.json").read_text())


def test_a_run_records_what_it_was_asked_and_how_it_ended(folder):
    run = runs.start("train", {"recipe": "mini/llava", "run": "a", "beta": 0.2, "types": types})
    assert run.settings.beta == 0.2
    assert manifest(folder, "a", "train")["status"] == "running"
    run.note(pairs=3)
    run.finish()
    found = manifest(folder, "a", "train")
    assert found["status"] == "done"
    assert found["overrides"] == {"beta": 0.2}
    assert found["settings"]["train"]["beta"] == 0.2
    assert found["facts"] == {"pairs": 3}
    assert found["versions"]["torch"] != "absent"
    assert found["is_mini"] is True


def test_the_name_defaults_to_the_recipe():
    assert runs.start("compare", {"recipe": "reported", "run": ""}).name == "reported"
    assert runs.run_name("mini/llava") == "mini-llava"
    assert runs.run_name("my/own.yaml") == "own"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"bata": 0.1}, "unknown parameter 'bata' for stage train; did you mean 'beta'"),
        ({"beta": "abc"}, r"train\.beta.*found 'abc'"),
        ({"lora_rank": 2.5}, r"train\.lora_rank.*found 2\.5"),
        ({"recipe": "mini/lava"}, "did you mean 'mini/llava'"),
        ({"recipe": 3}, "expected a recipe's name, found 3"),
        ({"run": "../x"}, "run name '../x'"),
        ({"run": 3}, "expected a run's name, found 3"),
        ({"from_run": True}, "expected a from_run's name, found True"),
        ({"lora_rank": True}, r"train\.lora_rank: expected a number"),
        ({"scratch": [1, 2]}, "unknown parameter 'scratch'"),
        ({"__annotations__": {"learning_rate": 1e-06}}, "expected 'learning_rate: value'"),
    ],
)
def test_a_wrong_parameter_of_a_notebook_is_an_error(names, message):
    with pytest.raises(BadInput, match=message):
        runs.start("train", {"recipe": "mini/llava", "run": "a"} | names)


def test_names_that_later_cells_make_are_no_parameters():
    names = {"recipe": "mini/llava", "run": "a", "beta": None}
    runs.start("train", names)
    runs.start("train", names | {"curves": object(), "steps_seen": 3})


def test_a_setting_typed_after_the_first_setup_counts_and_a_misspelt_one_is_an_error(folder):
    names = {"recipe": "mini/llava", "run": "a"}
    run = runs.start("train", names)
    again = runs.start("train", names | {"run": run, "micro_batch_pairs": 2})
    assert (again.name, again.settings.micro_batch_pairs) == ("a", 2)
    for wrong in ({"lora_rnk": 32}, {"micro_batch_pair": 2}, {"train_sed": "7"}):
        with pytest.raises(BadInput, match=r"unknown parameter .*did you mean"):
            runs.start("train", names | wrong)


def test_a_report_shows_its_settings_and_those_that_differ_from_the_recipe():
    run = runs.start(
        "train", {"recipe": "mini/llava", "run": "a", "beta": 0.3, "lora_dropout": 0.1}
    )
    rows = {row["setting"]: row for row in run.effective()}
    assert list(rows)[:2] == ["beta", "lora_dropout"]
    assert (rows["beta"]["value"], rows["beta"]["recipe"]) == (0.3, 0.1)
    rate = config.load_recipe("mini/llava").train.learning_rate
    assert rows["learning_rate"]["value"] == rate
    assert rows["description_share"]["value"] == 0.3333  # what the recipe sets
    assert "epochs" not in rows and "parallel" not in rows  # steps win; there is one process
    assert "label_smoothing" not in rows  # at its default
    shown = run._repr_html_()
    assert "<td>beta</td><td><b>0.3</b> (recipe: 0.1)</td><td>How strongly" in shown
    assert f"<td>learning_rate</td><td>{rate}</td>" in shown
    assert "hadpo settings train" in shown


def test_a_name_in_use_with_other_parameters_is_refused(folder):
    runs.start("train", {"recipe": "mini/llava", "run": "a", "beta": 0.1}).finish()
    again = open_run("train", "mini/llava", "a", {})  # the recipe's own beta is 0.1
    assert again.is_done
    with pytest.raises(
        BadInput, match=r"in use with other parameters \(train.beta: 0.1 there, 0.2"
    ):
        open_run("train", "mini/llava", "a", {"beta": 0.2})


def test_an_earlier_stage_must_be_done_and_stay_the_same(folder):
    later = open_run("train", "mini/llava", "a", {})
    with pytest.raises(BadInput, match="needs stage prepare of run 'a', which has not been run"):
        later.earlier("prepare")
    first = open_run("prepare", "mini/llava", "a", {})
    with pytest.raises(BadInput, match="which is running"):
        later.earlier("prepare")
    first.path("pairs.jsonl").write_text("")
    first.finish()
    assert later.earlier("prepare", "pairs.jsonl").name == "pairs.jsonl"
    with pytest.raises(BadInput, match=r"held_out\.jsonl is absent"):
        later.earlier("prepare", "held_out.jsonl")
    discard("a", "prepare")
    open_run("prepare", "mini/llava", "a", {}).finish()
    with pytest.raises(BadInput, match="was made from another prepare"):
        later.earlier("prepare")


def test_stages_of_another_run_can_be_read(folder):
    first = open_run("prepare", "mini/llava", "a", {})
    first.path("pairs.jsonl").write_text("")
    first.finish()
    run = open_run("train", "mini/llava", "b", {}, earlier="a")
    assert run.earlier("prepare", "pairs.jsonl") == folder / "a" / "prepare" / "pairs.jsonl"
    assert run.manifest.parents == {"prepare": first.manifest.run_id}


def test_a_process_that_vanished_leaves_an_interrupted_run(folder):
    code = (
        "import os; from hadpo.runs.run import open_run; open_run('train', 'mini/llava', 'a', {})"
    )
    vanish = f"{code}; os._exit(9)"
    subprocess.run([sys.executable, "-c", vanish], check=False, env=dict(os.environ))
    assert manifest(folder, "a", "train")["status"] == "running"  # nobody was left to write more
    found = runs.read_manifest(folder / "a" / "train")
    assert found is not None
    assert found.status == "interrupted"
    assert open_run("train", "mini/llava", "a", {}).manifest.starts == 2


def test_a_process_that_nobody_reaped_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    assert is_alive(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert not is_alive(process.pid)
    process.wait()
    assert not is_alive(process.pid)


def test_a_run_that_another_process_works_on_is_left_alone(folder):
    open_run("train", "mini/llava", "a", {})
    path = folder / "a" / "train" / "manifest.json"
    found = json.loads(path.read_text())
    other = {"pid": os.getppid(), "pid_started": started_at(os.getppid())}
    path.write_text(json.dumps(found | other))
    with pytest.raises(BadInput, match=f"worked on by process {os.getppid()}"):
        open_run("train", "mini/llava", "a", {})
    path.write_text(json.dumps(found | other | {"pid_started": 1}))  # its number was given anew
    assert open_run("train", "mini/llava", "a", {}).manifest.starts == 2


def test_what_runs_on_another_host_is_believed_and_not_taken_over(folder):
    open_run("train", "mini/llava", "a", {})
    path = folder / "a" / "train" / "manifest.json"
    there = {"host": "elsewhere-3", "pid": 2**22 + 1}  # no process here has such a number
    path.write_text(json.dumps(json.loads(path.read_text()) | there))
    found = runs.read_manifest(path.parent)
    assert found is not None
    assert found.status == "running"
    with pytest.raises(BadInput, match="on host elsewhere-3"):
        open_run("train", "mini/llava", "a", {})
    with pytest.raises(BadInput, match="on host elsewhere-3"):
        discard("a", "train")
    path.write_text(path.read_text().replace('"running"', '"interrupted"'))
    assert open_run("train", "mini/llava", "a", {}).manifest.starts == 2


def test_each_start_is_kept_and_a_finished_stage_is_not_falsified(folder, monkeypatch):
    monkeypatch.setattr("hadpo.runs.run.describe_code", lambda: ("one", False))
    open_run("train", "mini/llava", "a", {}).fail(ValueError("x"))
    monkeypatch.setattr("hadpo.runs.run.describe_code", lambda: ("two", True))
    run = open_run("train", "mini/llava", "a", {})
    run.note(pairs=3)
    run.finish()
    done = manifest(folder, "a", "train")
    starts = [(h["git_commit"], h["git_dirty"]) for h in done["history"]]
    assert starts == [("one", False), ("two", True)]
    assert all(h["time"] and h["pid"] == os.getpid() and h["host"] for h in done["history"])
    assert all("torch" in h["versions"] for h in done["history"])
    monkeypatch.setattr("hadpo.runs.run.describe_code", lambda: ("three", False))
    again = open_run("train", "mini/llava", "a", {})
    again.note(pairs=99)
    again.note_input(folder / "a" / "train" / "manifest.json")
    again.finish()
    found = manifest(folder, "a", "train")
    last = found["history"].pop()
    assert last["reopened"] is True
    assert last["time"]
    assert "git_commit" not in last
    assert found == done


def test_one_unreadable_manifest_does_not_hide_the_others(folder):
    open_run("train", "mini/llava", "a", {}).finish()
    open_run("prepare", "mini/llava", "b", {})
    (folder / "b" / "prepare" / "manifest.json").write_bytes(b"\xff{")
    found = {(m.name, m.stage): m for m in runs.list_manifests(folder)}
    assert found["a", "train"].status == "done"
    assert found["b", "prepare"].status == "unreadable"
    assert "not JSON" in found["b", "prepare"].error


def test_what_a_notebook_shows_of_a_run_is_escaped(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("title: <script>t</script>\nnotes: <script>n</script>\nstages: [compare]\n")
    shown = open_run("compare", str(path), "<script>x<br>", {})._repr_html_()
    assert "<script>" not in shown
    assert shown.count("&lt;script&gt;") == 4  # name, title, notes, folder


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="cannot write to"):
        open_run("train", "mini/llava", "a", {})


def test_a_broken_manifest_is_named(folder):
    open_run("train", "mini/llava", "a", {})
    path = folder / "a" / "train" / "manifest.json"
    path.write_text("{")
    with pytest.raises(BadInput, match=r"manifest\.json: not JSON"):
        runs.read_manifest(path.parent)
    path.write_text('{"name": "a"}')
    with pytest.raises(BadInput, match=r"no field 'stage'.*another version"):
        runs.read_manifest(path.parent)


def test_metrics_are_appended_line_by_line(folder):
    run = open_run("train", "mini/llava", "a", {})
    run.log({"step": 0, "loss": 0.5})
    run.log({"step": 1, "loss": 0.4})
    lines = Path(run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]


def test_a_failing_cell_is_written_down(folder):
    run = open_run("train", "mini/llava", "a", {})
    run.fail(ValueError("loss is NaN"))
    assert manifest(folder, "a", "train")["error"] == "ValueError: loss is NaN"
    run = open_run("train", "mini/llava", "a", {})
    run.fail(KeyboardInterrupt())
    assert manifest(folder, "a", "train")["status"] == "interrupted"


def test_a_failing_cell_marks_every_run_that_is_open_and_only_once(folder, monkeypatch, caplog):
    import IPython
    from IPython.core.events import EventManager, available_events

    ours = logging.getLogger("hadpo")
    monkeypatch.setattr(ours, "handlers", [])
    caplog.set_level(ours.level, logger="hadpo")  # both are put back after the test
    shell: Any = types.SimpleNamespace()
    shell.events = EventManager(shell, available_events)
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    first = open_run("prepare", "mini/llava", "a", {})
    # a setup cell that is rerun
    later = [open_run("train", "mini/llava", "a", {}) for _ in range(3)][-1]
    assert len(shell.events.callbacks["post_run_cell"]) == 1
    first.finish()
    error = ValueError("x")
    result = types.SimpleNamespace(error_in_exec=error, error_before_exec=None)
    shell.events.trigger("post_run_cell", result)
    assert (first.manifest.status, later.manifest.status) == ("done", "failed")
    assert manifest(folder, "a", "train")["error"] == "ValueError: x"
