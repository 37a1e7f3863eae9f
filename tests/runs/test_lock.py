"""One worker a stage, with real processes: a second start is told who works, changes nothing."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hadpo.records import BadInput
from hadpo.runs import lock
from hadpo.runs.execute import execute
from hadpo.runs.run import open_run

HOLD = """
import sys, time
from pathlib import Path
from hadpo.runs import lock
lock.take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs" / "a" / "train"


@pytest.fixture
def holder(folder: Path):
    """Another process that has begun to work on the stage and has written no manifest yet."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_start_is_told_who_works_and_changes_nothing(folder: Path, holder):
    said = rf"process {holder.pid} on host {re.escape(lock.host())} since 20\d\d-.*; wait for it"
    before = sorted(folder.parent.rglob("*"))
    for start in (
        lambda: open_run("train", "mini/llava", "a", {}),
        lambda: lock.take(folder),
    ):
        with pytest.raises(BadInput, match=said):
            start()
    assert sorted(folder.parent.rglob("*")) == before
    assert open_run("prepare", "mini/llava", "a", {}).stage == "prepare"  # another stage is free


def test_the_command_that_runs_a_stage_is_told_too(folder: Path, holder):
    other = folder.parent / "compare"
    holder.kill()
    holder.wait()
    second = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(other)], stdout=subprocess.PIPE, text=True
    )
    assert second.stdout is not None and second.stdout.readline() == "held\n"
    with pytest.raises(BadInput, match=f"worked on by process {second.pid} on host"):
        execute("compare", "reported", "a", {})
    assert not other.exists()
    second.kill()
    second.wait()


def test_what_a_killed_process_held_is_free(folder: Path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert lock.take(folder)
    assert not lock.take(folder)  # this process has it already
    lock.give_back(folder)


def test_a_child_works_for_the_process_that_holds_the_lock(folder: Path):
    open_here = "from hadpo.runs.run import open_run; open_run('train', 'mini/llava', 'a', {})"
    with lock.alone(folder):
        done = subprocess.run([sys.executable, "-c", open_here], check=False)
        assert done.returncode == 0
    assert lock.take(folder)
    lock.give_back(folder)


def test_a_stage_that_has_ended_is_free(folder: Path):
    run = open_run("train", "mini/llava", "a", {})
    assert not lock.take(folder)
    run.fail(ValueError("x"))
    code = (
        f"from pathlib import Path; from hadpo.runs import lock; lock.take(Path({str(folder)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0
