"""The command line as a user types it: exit codes and one message each."""

import json
import subprocess
import sys

import pytest

from hadpo import __version__, config
from hadpo.data import fetch
from hadpo.runs.run import open_run

COMMANDS = (
    "run",
    "stage",
    "list",
    "show",
    "settings",
    "compare",
    "audit",
    "report",
    "export",
    "doctor",
    "fetch",
    "convert-dump",
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "mini/lava"], "no recipe 'mini/lava'"),
        (["run", "mini/llava", "-p", "bata=1"], "did you mean 'beta'"),
        (["run", "mini/llava", "-p", "beta=abc"], "train.beta"),
        (["run", "mini/llava", "-p", "beta"], "expected KEY=VALUE"),
        (["stage", "trian", "mini/llava"], "did you mean 'train'"),
        (["stage", "train", "mini/llava"], "needs stage prepare"),
        (
            ["stage", "merge", "mini/llava", "-p", "beta=1"],
            "unknown parameter 'beta' for stage merge",
        ),
        (["show", "nothing"], "no run 'nothing'"),
        (["rnu"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "mini/llava", "-p", "lerning_rate=1"], "did you mean 'learning_rate', '"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(hadpo, arguments, message):
    done = hadpo(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("hadpo: ")


def test_a_misspelt_parameter_names_three_and_not_all(hadpo):
    done = hadpo("run", "mini/llava", "-p", "lerning_rate=1")
    assert done.stderr.count("'") == 2 * (1 + 3)  # what was given, and three names
    assert len(done.stderr) < 300


def test_extend_is_told_from_extends(hadpo, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("extend: mini/llava\ntitle: own\n")
    done = hadpo("run", str(path), "--dry-run")
    assert done.returncode == 2
    assert "extend: unknown setting; did you mean 'extends'?" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["instructions"]])
def test_help_is_no_error_and_no_line_of_it_is_cut(hadpo, arguments):
    done = hadpo(*arguments, COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    assert "..." not in done.stdout.replace("[ARGS]...", "")


def test_the_version_has_an_option_too(hadpo):
    assert hadpo("--version").stdout == hadpo("version").stdout == f"{__version__}\n"


def test_what_is_missing_is_listed_before_anything_is_run(hadpo, folder, tmp_path):
    empty = {"HADPO_MODELS": str(tmp_path / "m"), "HADPO_DATA": str(tmp_path / "d")}
    for more in ([], ["--dry-run"]):
        done = hadpo("run", "llava-1.5-7b", *more, **empty)
        assert done.returncode == 3, done.stderr
        said = done.stdout + done.stderr
        assert f"missing  llava/1.5-7b: language_model {tmp_path / 'm'}" in said
        assert f"{tmp_path / 'd'}/VG/image_data.json" in said
        assert "hadpo fetch --recipe llava-1.5-7b" in said
        assert "Traceback" not in said
        assert ("memory: total" in said) == ("disk  " in said) == ("time  " in said) == bool(more)
    assert not folder.exists()


def test_a_recipe_whose_weights_are_nowhere_is_not_started(hadpo, folder, tmp_path):
    path = tmp_path / "own.yaml"
    files = f"{{language_model: {tmp_path}/nowhere, vision: {tmp_path}}}"
    path.write_text(f"extends: mini/llava\nmodel: {{files: {files}}}\n")
    done = hadpo("run", str(path))
    assert done.returncode == 3
    assert f"{tmp_path}/nowhere" in done.stderr and "fetch" not in done.stderr
    assert not folder.exists()


def test_a_judge_without_a_name_is_missed_before_anything_is_run(hadpo, folder):
    done = hadpo("run", "mini/llava", "-p", "judge=llm", OPENAI_API_KEY="any text")
    assert done.returncode == 3
    assert "missing  judge                    llm, and no judge_model" in done.stderr
    assert not folder.exists()


def test_what_is_done_needs_nothing_any_more(hadpo, folder, monkeypatch, tmp_path):
    run = open_run("prepare", "llava-1.5-7b", "a", {})
    run.finish()
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path / "none"))
    done = hadpo("stage", "prepare", "llava-1.5-7b", "--name", "a")
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout


def test_small_downloads_have_a_size_and_the_columns_are_aligned(hadpo):
    done = hadpo("fetch")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[0] for line in lines} == set(fetch.sources())
    assert next(line for line in lines if line.startswith("hf/auto ")).split()[1] == "-"
    assert not [line for line in lines if " 0.0 " in line]
    assert {"MB", "GB"} <= {word for line in lines for word in line.split()}
    assert len({line.index(" of ") for line in lines}) == 1


def test_photoset_without_its_folder_is_one_message(hadpo, tmp_path):
    done = hadpo("doctor", "photoset", HADPO_SHARED=str(tmp_path / "nowhere"))
    assert done.returncode == 3
    assert "set HADPO_SHARED" in done.stdout


def test_a_dry_run_prints_the_papermill_commands_and_runs_nothing(hadpo, folder):
    done = hadpo("run", "mini/llava", "-p", "beta=0.2", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("papermill")]
    assert [line.split()[1] for line in lines] == [
        f"notebooks/0{i}_{stage}.ipynb" for i, stage in enumerate(config.SECTIONS, start=1)
    ]
    assert "-p beta 0.2" in lines[1]
    assert not [line for line in lines if "beta" in line and "train" not in line]
    assert not folder.exists()


def test_a_dry_run_prints_empty_values_too(hadpo):
    done = hadpo("stage", "train", "mini/llava", "-p", "controls=", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "-p controls ''" in done.stdout
    assert "from_run" not in done.stdout


def test_an_unreadable_manifest_is_listed_with_the_reason(hadpo, folder):
    open_run("train", "mini/llava", "a", {}).finish()
    open_run("train", "mini/llava", "b", {})
    (folder / "b" / "train" / "manifest.json").write_text("{")
    listed = hadpo("list")
    assert listed.returncode == 0, listed.stderr
    assert "| a " in listed.stdout
    assert "unreadable" in listed.stdout
    shown = hadpo("show", "b")
    assert shown.returncode == 0, shown.stderr
    assert "unreadable" in shown.stdout
    assert "not JSON" in shown.stdout


def test_runs_are_listed_and_shown(hadpo, folder):
    open_run("train", "mini/llava", "a", {"beta": 0.2}).finish()
    found = json.loads(hadpo("list", "--json").stdout)
    assert [(m["name"], m["stage"], m["status"]) for m in found] == [("a", "train", "done")]
    shown = hadpo("show", "a").stdout
    assert "train     done" in shown
    assert "beta = 0.2" in shown
    assert json.loads(hadpo("show", "a", "--json").stdout)[0]["overrides"] == {"beta": 0.2}
    assert "| a " in hadpo("list").stdout


def test_settings_are_listed_with_type_default_and_help(hadpo):
    shown = hadpo("settings", "train")
    assert shown.returncode == 0, shown.stderr
    assert "  beta: float = 0.1   (read with objective=dpo)\n      How strongly" in shown.stdout
    assert "shr_beams" not in shown.stdout
    rows = {row["name"]: row for row in json.loads(hadpo("settings", "--json").stdout)}
    assert {name for stage in config.SECTIONS for name in config.settings(stage)} == rows.keys()
    assert rows["shr_beams"] == {
        "stage": "evaluate",
        "section": "evaluate",
        "name": "shr_beams",
        "type": "int",
        "default": 5,
        "read_if": "benchmark_names with shr",
        "help": "the papers' setting",
    }
    wrong = hadpo("settings", "trian")
    assert (wrong.returncode, "did you mean 'train'" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(hadpo, command):
    done = hadpo(command, "--help")
    assert done.returncode == 0
    assert f"Example: hadpo {command}" in done.stdout


def in_a_process(*arguments):
    command = [sys.executable, "-m", "hadpo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_process_ends_as_the_call_does(hadpo):
    for words in (["rnu"], ["--version"]):
        process, call = in_a_process(*words), hadpo(*words)
        found = [(done.returncode, done.stdout, done.stderr) for done in (process, call)]
        assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_starts_in_a_process(command):
    done = in_a_process(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: hadpo {command}" in done.stdout


def test_a_pasted_table_is_audited(hadpo, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("model,acc,prec,recall,f1,yes\nbase,51.46,50.74,99.53,67.72,98.06\n")
    done = hadpo("audit", str(path))
    assert done.returncode == 0, done.stderr
    assert "F1 67.72, the other cells give 67.22" in done.stdout
    assert hadpo("audit", str(tmp_path / "no.csv")).returncode == 2
