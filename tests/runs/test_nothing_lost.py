"""Power cuts, full disks, damaged files: what was saved is whole, and the message says what is."""

import errno
import os
import sqlite3
import sys
from pathlib import Path

import pytest
import torch

from hadpo import cli, runs
from hadpo.records import BadInput, replacing, write_text
from hadpo.runs import execute, lock
from hadpo.trainer import checkpoints
from tests.runs.test_execute import run, stage  # noqa: F401


def test_the_done_mark_is_the_last_that_reaches_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    opened = runs.open_run("prepare", "mini/llava", "a", {})
    write_text(opened.path("world", "deep", "a.txt"), "a")
    write_text(opened.path("pairs.jsonl"), "{}\n")
    seen, real = [], os.fsync

    def fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        manifest = runs.read_manifest(opened.folder)
        seen.append((os.path.relpath(path, opened.folder), manifest.status if manifest else ""))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    opened.finish()
    before = [path for path, status in seen if status == "running"]
    assert {"world/deep/a.txt", "pairs.jsonl", "manifest.json", "world", "."} <= {*before}
    assert before[-1] == "manifest.json.part"
    assert seen[len(before) :] == [(".", "done")]  # the new name


def test_a_file_that_must_last_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("hadpo.records.flush", lambda path, deep=True: seen.append(path.name))
    with replacing(tmp_path / "a", is_durable=True) as part:
        part.write_text("a")
    with replacing(tmp_path / "b") as part:
        part.write_text("b")
    assert seen == ["a.part", tmp_path.name]


def test_where_all_checkpoints_are_damaged_it_says_so(tmp_path):
    for name in ("step-000002.pt", "step-000004.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadInput, match=r"step-000004\.pt: damaged, and no older .*--force"):
        checkpoints.last_step(tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == 2  # nothing was renamed


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_by_every_command(error, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path))

    def fail(**_):
        try:
            raise error
        except type(error) as cause:
            raise RuntimeError("what the library made of it") from cause

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "_show_whole_lines", lambda app: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 3
    assert "is full (" in said and "MB free)" in said and "goes on from there" in said


def test_a_report_that_fails_hides_nothing_and_is_made_again(stage, monkeypatch, caplog):  # noqa: F811
    folder = stage("run.finish()")

    def fail(_):
        raise ValueError("Notebook does not appear to be JSON")

    with monkeypatch.context() as broken:
        broken.setattr(execute, "write_report", fail)
        assert run().was_done is False
    assert "no " in caplog.text and "the same command makes it again" in caplog.text
    assert not (folder / "report.html").exists()
    assert run().was_done is True
    assert "<html" in (folder / "report.html").read_text()
    folder = stage("raise ValueError('the cause')")
    with monkeypatch.context() as broken:
        broken.setattr(execute, "write_report", fail)
        with pytest.raises(execute.StageFailed, match="the cause"):
            execute.execute("compare", "reported", "a", {}, force=True)


@pytest.mark.parametrize("variable", ["JUPYTER_DATA_DIR", "JUPYTER_PATH", "HOME"])
def test_a_stage_runs_in_our_interpreter_whatever_kernels_there_are(
    stage,  # noqa: F811
    monkeypatch,
    tmp_path,
    variable,
):
    place = tmp_path / "jupyter"
    inner = place / ".local/share/jupyter" if variable == "HOME" else place
    spec = '{"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}'
    write = inner / "kernels" / "python3" / "kernel.json"
    write.parent.mkdir(parents=True)
    write.write_text(spec)
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv(variable, str(place))
    folder = stage('import sys\nrun.path("who.txt").write_text(sys.executable)', "run.finish()")
    run()
    assert (folder / "who.txt").read_text() == sys.executable


def test_a_finished_stage_that_another_process_redoes_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    runs.open_run("prepare", "mini/llava", "a", {}).finish()
    mark = tmp_path / "runs" / "a" / "prepare" / "manifest.json"
    before = mark.read_bytes()

    def busy(folder):
        raise BadInput("somebody works")

    with monkeypatch.context() as other:
        other.setattr(lock, "take", busy)
        assert runs.open_run("prepare", "mini/llava", "a", {}).is_done
    assert mark.read_bytes() == before
    runs.open_run("prepare", "mini/llava", "a", {})
    assert b'"reopened": true' in mark.read_bytes()


def test_a_deleted_stage_is_named_before_any_work_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    given = {"train": {"beta": "0.2"}}
    stages = ("prepare", "train", "merge")
    for name in stages:
        opened = runs.open_run(name, "mini/llava", "a", given.get(name, {}))
        for earlier in stages[: stages.index(name)]:
            opened.earlier(earlier)
        opened.finish()

    def check():
        for name in stages:
            resolved, _ = execute.check(name, "mini/llava", "a", given.get(name, {}))
            execute.refuse_other_run(name, resolved, "a", earlier="")

    check()
    execute.discard_all(["prepare"], "a")
    command = r"hadpo run mini/llava --name a -p beta=0\.2 --redo-from prepare \(or"
    with pytest.raises(BadInput, match=rf"train .* the prepare that was deleted in .*{command}"):
        check()
    runs.open_run("prepare", "mini/llava", "a", {}).finish()
    with pytest.raises(BadInput, match=r"another prepare than the one in .*--redo-from train \(or"):
        check()
    execute.discard_all(["train", "merge"], "a")
    check()
    assert not (tmp_path / "runs" / "a" / "train").exists()


def test_redo_from_redoes_the_stage(stage, monkeypatch, capsys):  # noqa: F811
    folder = stage("run.finish()")

    def hadpo(*arguments):
        monkeypatch.setattr(sys, "argv", ["hadpo", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        manifest = runs.read_manifest(folder)
        return ended.value.code, manifest.run_id if manifest else "", capsys.readouterr().err

    begun = ("run", "reported", "--name", "a")
    code, first, _ = hadpo(*begun)
    assert code == 0 and hadpo(*begun)[:2] == (0, first)
    code, second, _ = hadpo(*begun, "--redo-from", "compare")
    assert code == 0 and second != first
    code, _, said = hadpo(*begun, "--redo-from", "comprae")
    assert code == 2 and "--redo-from: no stage 'comprae'; did you mean 'compare'" in said
    code, _, said = hadpo(*begun, "--redo-from", "compare", "--force")
    assert code == 2 and "name one" in said


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", ".a", "-x", "a\n", "a\0b", "x" * 101])
def test_a_run_is_called_as_a_folder_can_be(name):
    with pytest.raises(BadInput, match="run name"):
        runs.open_run("prepare", "mini/llava", name, {})


def test_torch_checks_its_files(tmp_path):
    """The checksums that the fallback rests on are in what torch writes."""
    torch.save({"a": torch.arange(1000)}, tmp_path / "a.pt")
    assert checkpoints._damage(tmp_path / "a.pt") == ""
