"""Killed at any point, told to stop, out of memory, out of disk: nothing that was done is lost."""

import contextlib
import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hadpo import runs, trainer
from hadpo.runs import BadEnvironment, Stopped
from hadpo.trainer import checkpoints, launch, order


def adapter_bytes(folder):
    return (folder / "train" / "adapter" / "adapter_model.safetensors").read_bytes()


def in_a_child(work):
    """Start `work` in a process of its own; its number."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it starts 21 trainings
def test_ten_kills_at_random_points_give_ten_equal_adapters(tiny_run):
    settings = {"steps": 12, "checkpoint_every": 3, "lora_dropout": 0.1}

    def train(recipe, name):
        run = runs.open_run("train", recipe, name, {})
        list(trainer.train(run))
        run.finish()

    recipe, whole = tiny_run("whole", **settings)
    assert exit_code(in_a_child(lambda: train(recipe, "whole"))) == 0
    expected = adapter_bytes(whole)
    draw, points = random.Random(0), []
    while len(points) < 10:
        name = f"killed-{len(points)}"
        recipe, folder = tiny_run(name, **settings)
        work = functools.partial(train, recipe, name)
        child = in_a_child(work)
        steps = draw.randrange(12)  # that it has reported; 0: while it starts
        while steps and len(launch.read_steps(folder / "train" / "metrics.jsonl")) < steps:
            assert not os.waitpid(child, os.WNOHANG)[0], "it ended before it was killed"
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.02 if steps else 1))
        os.kill(child, signal.SIGKILL)
        if exit_code(child) == 0:  # it was faster this time
            continue
        manifest = runs.read_manifest(folder / "train")
        assert manifest is None or manifest.status == "interrupted"
        points.append(checkpoints.last_step(folder / "train" / "checkpoints" / "dpo"))
        assert exit_code(in_a_child(work)) == 0
        assert adapter_bytes(folder) == expected
    assert len(set(points)) > 2  # behind several checkpoints, and before the first


def test_sigterm_saves_the_update_and_the_rest_is_the_same(
    fast, learn, equal, tiny_llava, tiny_pairs, tmp_path
):
    config = replace(fast, steps=6, checkpoint_every=100)
    whole, expected = learn(tiny_llava(), tiny_pairs, config)
    before, steps = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(Stopped, match=r"SIGTERM after update 2; .* in .*step-000003\.pt; the same"):
        for step in trainer.steps(tiny_llava(), tiny_pairs, config, folder=tmp_path):
            steps.append(step)
            if step.step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    rest, found = learn(tiny_llava(), tiny_pairs, config, folder=tmp_path)
    assert steps + rest == whole and equal(found, expected)


def test_no_memory_left_for_an_update(fast, tiny_llava, tiny_pairs, tmp_path):
    """The process may not grow, and one pair is a thousand times as large as the others."""
    config = replace(fast, batch_pairs=1, micro_batch_pairs=2, max_length=9000, epochs=1.0)
    updates = order.batches([pair.kind for pair in tiny_pairs], config)
    (large,) = updates[4]
    long = " ".join(tiny_pairs[0].chosen for _ in range(1500))
    pairs = [replace(p, chosen=long) if i == large else p for i, p in enumerate(tiny_pairs)]

    def starve():
        for step in trainer.steps(tiny_llava(), pairs, config, folder=tmp_path):
            if step.step == 3:
                time.sleep(3)  # the next pair is being read
                size = int(Path("/proc/self/statm").read_text().split()[0])
                limit = size * resource.getpagesize() + 30_000_000
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                ballast = []  # what earlier tests freed is no room: 30 MB in all are left
                with contextlib.suppress(RuntimeError):
                    while True:
                        ballast.append(torch.empty(1_000_000, dtype=torch.uint8))
                del ballast[-30:]

    def tell():
        try:
            starve()
        except BadEnvironment as error:
            (tmp_path / "said").write_text(str(error))

    assert exit_code(in_a_child(tell)) == 0
    said = (tmp_path / "said").read_text()
    assert said == (
        f"update 4: out of memory on the pairs {tiny_pairs[large].pair_id}; the state before it is "
        f"saved in {tmp_path / 'step-000004.pt'}; the same command with -p micro_batch_pairs=1 "
        "(now 2) or -p activation_checkpointing=true goes on from there"
    )
    smaller = replace(config, micro_batch_pairs=1, activation_checkpointing=True)
    rest = list(trainer.steps(tiny_llava(), pairs, smaller, folder=tmp_path))
    assert [step.step for step in rest] == [4, 5, 6, 7, 8, 9]


def test_what_is_out_of_memory():
    assert checkpoints.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert checkpoints.is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert checkpoints.is_out_of_memory(error.value)
    assert not checkpoints.is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB for the runs."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield folder
    # Lazily: this process still holds the lock of the run that is open there.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("room", [0.5, 1.5])  # checkpoints that fit, of two
def test_a_full_disk(tiny_run, small_disk, monkeypatch, room):
    recipe, folder = tiny_run(steps=4, lora_rank=32)
    whole = runs.open_run("train", recipe, "a", {})
    list(trainer.train(whole))
    expected = adapter_bytes(folder)
    size = whole.path("checkpoints", "dpo", "step-000002.pt").stat().st_size
    monkeypatch.setenv("HADPO_RUNS", str(small_disk))
    shutil.copytree(folder / "prepare", small_disk / "a" / "prepare")
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - int(room * size) - 50_000))
    run = runs.open_run("train", recipe, "a", {})
    with pytest.raises(BadEnvironment, match=r"disk of .*train is full \(\d\.\d MB free\)"):
        list(trainer.train(run))
    saved = [path.name for path in run.path("checkpoints", "dpo").iterdir()]
    assert saved == ["step-000002.pt"][: int(room)]
    (small_disk / "filler").unlink()
    list(trainer.train(runs.open_run("train", recipe, "a", {})))
    assert adapter_bytes(small_disk / "a") == expected
