"""Real papermill, real kernels: how a stage ends, however it ends, is written down truthfully."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import pytest

from hadpo import config, runs
from hadpo.records import BadInput
from hadpo.runs import execute
from hadpo.runs.run import open_run
from hadpo.runs.state import discard

START = 'from hadpo import runs\nrun = runs.start("compare", globals())'
PARAMETERS = """recipe: str = "reported"
run: str = ""
from_run: str = ""
reported: str = None
run_names: str = None"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A checkout whose 05_compare holds the cells that a test gives."""
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def write(*cells):
        book = nbformat.v4.new_notebook()
        book.metadata.kernelspec = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        book.cells = [nbformat.v4.new_code_cell(c) for c in (PARAMETERS, START, *cells)]
        book.cells[0].metadata.tags = ["parameters"]
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(book, tmp_path / "notebooks" / "05_compare.ipynb")
        return tmp_path / "runs" / "a" / "compare"

    return write


def run(**overrides):
    return execute.execute("compare", "reported", "a", overrides)


def test_a_stage_that_ends_well_leaves_a_report_and_is_not_done_twice(stage):
    folder = stage('run.path("out.txt").write_text("x")', "run.finish()")
    assert run().was_done is False
    manifest = runs.read_manifest(folder)
    assert manifest is not None
    assert (manifest.status, manifest.error) == ("done", "")
    report = (folder / "report.html").read_text()
    assert "out.txt" in report
    assert 'src="http' not in report
    assert "cdnjs" not in report
    assert run().was_done is True
    assert json.loads((folder / "manifest.json").read_text())["starts"] == 1


def test_a_failing_cell_is_one_message_and_the_copy_is_kept(stage):
    folder = stage('raise ValueError("loss is NaN")', "run.finish()")
    with pytest.raises(execute.StageFailed, match=r"in cell 4: ValueError: loss is NaN.*ipynb"):
        run()
    manifest = runs.read_manifest(folder)
    assert manifest is not None
    assert (manifest.status, manifest.error) == ("failed", "ValueError: loss is NaN")
    assert "loss is NaN" in (folder / "report.html").read_text()


def test_bad_input_inside_a_notebook_is_bad_input_outside(stage):
    stage('from hadpo.records import BadInput\nraise BadInput("pairs.jsonl:3: no field")')
    with pytest.raises(BadInput, match=r"^pairs\.jsonl:3: no field$"):
        run()


def test_a_kernel_that_dies_is_said_to_have_died(stage):
    folder = stage("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(execute.StageFailed, match="kernel died"):
        run()
    manifest = runs.read_manifest(folder)
    assert manifest is not None
    assert manifest.status == "failed"


def test_a_notebook_that_forgets_to_finish_is_no_success(stage):
    stage("1 + 1")
    with pytest.raises(execute.StageFailed, match=r"ended without finishing.*run\.finish\(\)"):
        run()


def test_force_deletes_nothing_before_all_is_checked(stage):
    stage("run.finish()")
    later = open_run("train", "mini/llava", "a", {})
    later.path("kept.txt").write_text("x")
    later.finish()
    with pytest.raises(BadInput, match="needs stage prepare"):
        execute.execute("train", "mini/llava", "a", {}, force=True)
    assert (later.folder / "kept.txt").is_file()


def test_force_does_not_delete_what_another_process_works_on(stage):
    folder = stage("run.finish()")
    open_run("compare", "reported", "a", {}).path("kept.txt").write_text("x")
    path = folder / "manifest.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"pid": os.getppid(), "pid_started": 0})
    )
    with pytest.raises(BadInput, match=f"worked on by process {os.getppid()}"):
        execute.execute("compare", "reported", "a", {}, force=True)
    assert (folder / "kept.txt").is_file()


def test_a_stage_made_from_another_earlier_stage_is_not_called_done(stage):
    stage("run.finish()")
    open_run("prepare", "mini/llava", "a", {}).finish()
    later = open_run("train", "mini/llava", "a", {})
    later.earlier("prepare")
    later.finish()
    assert execute.execute("train", "mini/llava", "a", {}).was_done
    discard("a", "prepare")
    open_run("prepare", "mini/llava", "a", {}).finish()
    with pytest.raises(BadInput, match="made from another prepare") as caught:
        execute.execute("train", "mini/llava", "a", {})
    assert "hadpo run mini/llava --name a --redo-from train (or" in str(caught.value)
    with pytest.raises(BadInput, match=r"stage train .* made from another prepare"):
        execute.execute("merge", "mini/llava", "a", {})  # nor is it built upon


def test_stages_of_another_run_stay_fresh_until_that_run_redoes_them(stage):
    stage("run.finish()")
    open_run("prepare", "mini/llava", "a", {}).finish()
    later = open_run("train", "mini/llava", "b", {}, earlier="a")
    later.earlier("prepare")
    later.finish()
    assert execute.execute("train", "mini/llava", "b", {}, from_run="a").was_done
    discard("a", "prepare")
    assert execute.execute("train", "mini/llava", "b", {}, from_run="a").was_done  # it only left
    open_run("prepare", "mini/llava", "a", {}).finish()
    with pytest.raises(BadInput, match="made from another prepare"):
        execute.execute("train", "mini/llava", "b", {}, from_run="a")


def test_a_comparison_of_named_runs_needs_no_stages_of_its_own(stage):
    stage("run.finish()")
    with pytest.raises(BadInput, match="needs stage prepare of run 'all'"):
        execute.execute("compare", "mini/llava", "all", {})
    done = execute.execute("compare", "mini/llava", "all", {"run_names": "a,b"})
    assert done.was_done is False


def test_an_unknown_parameter_is_refused_before_a_kernel_starts(stage):
    folder = stage("run.finish()")
    with pytest.raises(BadInput, match=r"unknown parameter 'report'.*did you mean 'reported'"):
        run(report="x")
    assert not folder.exists()


@pytest.mark.parametrize("parameter", [("-p", "report", "x"), ("-y", "{reported:1}")])
def test_plain_papermill_is_as_strict(stage, tmp_path, parameter):
    stage("run.finish()")
    book = tmp_path / "notebooks" / "05_compare.ipynb"
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(book),
        str(tmp_path / "out.ipynb"),
        *parameter,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BadInput" in done.stderr


SHORT = """# Other settings work, too: `hadpo settings train` lists them all.
recipe: str = "mini/llava"
run: str = "b"
from_run: str = ""
beta: float = None"""
OLD = SHORT.replace(
    "# Other settings work, too: `hadpo settings train` lists them all.", "# as recipe"
)
SHOW = """from hadpo import runs
run = runs.start("train", globals())
print(run.settings.lora_rank, run.settings.beta, run.manifest.overrides)
run"""


def papermill(tmp_path, monkeypatch, cells, *parameters):
    """Plain papermill as a user starts it, with the entry points of pyproject.toml."""
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    root = Path(__file__).parents[2]
    entries = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    (tmp_path / "site" / "hadpo.egg-info").mkdir(parents=True)
    (tmp_path / "site" / "hadpo.egg-info" / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n{k} = {v}\n" for group, each in entries.items() for k, v in each.items()
        )
    )
    book = nbformat.v4.new_notebook()
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book.cells = [nbformat.v4.new_code_cell(c) for c in cells]
    book.cells[0].metadata.tags = ["parameters"]
    nbformat.write(book, tmp_path / "in.ipynb")
    places = [str(tmp_path / "site"), str(root)]
    command = [sys.executable, "-m", "papermill", str(tmp_path / "in.ipynb")]
    done = subprocess.run(
        [*command, str(tmp_path / "out.ipynb"), "--no-progress-bar", *parameters],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
    )
    written = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    outputs = [output for cell in written.cells for output in cell.get("outputs", [])]
    return done, outputs


def test_plain_papermill_takes_a_setting_that_the_cell_does_not_name(tmp_path, monkeypatch):
    given = ("-p", "lora_rank", "32", "-p", "beta", "0.3")
    done, outputs = papermill(tmp_path, monkeypatch, (SHORT, SHOW), *given)
    assert done.returncode == 0, done.stderr
    assert outputs[0]["text"] == "32 0.3 {'lora_rank': 32, 'beta': 0.3}\n" or (
        outputs[0]["text"] == "32 0.3 {'beta': 0.3, 'lora_rank': 32}\n"
    )
    assert "Passed unknown parameter" not in done.stderr
    assert "<b>32</b> (recipe: 16)" in outputs[1]["data"]["text/html"]


def test_a_notebook_of_before_and_a_cell_typed_by_hand_work(tmp_path, monkeypatch):
    cells = (OLD, "lora_rank = 8", SHOW)
    done, outputs = papermill(tmp_path, monkeypatch, cells, "-p", "beta", "0.3")
    assert done.returncode == 0, done.stderr
    assert outputs[0]["text"].startswith("8 0.3 ")


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (
            ("lora_rnk", "32"),
            ("parameter 'lora_rnk' for stage train; did you mean 'lora_rank'",),
        ),
        (
            ("lora_rank", "True", "-p", "batch_pairs", "2.5", "-p", "trackers", "wandbb"),
            (
                "train.lora_rank: expected a number (found True)",
                "train.batch_pairs: Input should be a valid integer",
                "did you mean 'wandb'",
            ),
        ),
    ],
)
def test_plain_papermill_replaces_its_warning_by_our_error(tmp_path, monkeypatch, given, messages):
    done, _ = papermill(tmp_path, monkeypatch, (SHORT, SHOW), "-p", *given)
    assert done.returncode == 1
    assert [text for text in messages if text not in done.stderr] == []
    assert "Passed unknown parameter" not in done.stderr


@pytest.mark.slow  # fast: SHORT above; what papermill finds in each notebook, test_notebooks.py
def test_the_real_notebooks_list_all_settings_for_papermill(tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    cell = nbformat.read(root / "notebooks" / "02_train.ipynb", as_version=4)
    [source] = [c.source for c in cell.cells if "parameters" in c.metadata.get("tags", [])]
    done, outputs = papermill(tmp_path, monkeypatch, (source, SHOW), "-p", "lora_dropout", "0.1")
    assert done.returncode == 0, done.stderr
    assert "'lora_dropout': 0.1" in outputs[0]["text"]
    assert "Passed unknown parameter" not in done.stderr


def interrupt(stage, tmp_path, number):
    """Start a stage of the command line as a user does, send it a signal midway; its exit code."""
    folder = stage(
        'run.path("midway").write_text("x")', "import time; time.sleep(60)", "run.finish()"
    )
    code = f"""
import pathlib
from hadpo import cli, config
config.ROOT = pathlib.Path({str(tmp_path)!r})
cli.main()
"""
    command = [sys.executable, "-c", code, "stage", "compare", "reported", "--name", "a"]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        # as in a terminal: a shell that starts tests in the background switches Ctrl-C off
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (folder / "midway").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors, folder


def test_control_c_stops_with_130_and_a_rerun_goes_on(stage, tmp_path):
    code, errors, folder = interrupt(stage, tmp_path, signal.SIGINT)
    assert code == 130
    assert errors.strip() == "hadpo: interrupted; the same command goes on from there"
    manifest = runs.read_manifest(folder)
    assert manifest is not None
    assert manifest.status == "interrupted"
    stage("run.finish()")
    assert run().was_done is False
    manifest = runs.read_manifest(folder)
    assert manifest is not None
    assert (manifest.status, manifest.starts) == ("done", 2)


def test_sigterm_is_passed_on_and_stops_with_130(stage, tmp_path):
    code, errors, folder = interrupt(stage, tmp_path, signal.SIGTERM)
    assert code == 130
    assert errors.strip().endswith(
        "hadpo: stage compare was stopped by SIGTERM; the same command goes on"
    )
    manifest = runs.read_manifest(folder)
    assert manifest is not None
    assert manifest.status == "interrupted"


def test_a_killed_process_leaves_an_interrupted_run(stage, tmp_path):
    code, _, folder = interrupt(stage, tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while (manifest := runs.read_manifest(folder)) and manifest.status == "running":
        assert time.monotonic() < deadline  # the kernel notices within seconds that it is alone
        time.sleep(0.2)
    assert manifest is not None
    assert manifest.status == "interrupted"
