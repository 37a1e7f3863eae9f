"""Processes that train together: what they learn, how they are followed, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hadpo import runs, trainer
from hadpo.records import BadInput
from hadpo.trainer import launch

pytestmark = pytest.mark.slow


def trained(folder):
    return load_file(folder / "train" / "adapter" / "adapter_model.safetensors")


def test_two_followed_processes_learn_what_one_learns(tiny_run):
    recipe, folder = tiny_run(controls="sft", eval_every=1)
    tiny_run("b", controls="sft", eval_every=1)
    alone = runs.open_run("train", recipe, "a", {})
    expected = list(trainer.train(alone))
    both = runs.open_run("train", recipe, "b", {"processes": 2})
    found = list(trainer.train(both))
    assert [(s.objective, s.step) for s in found] == [(s.objective, s.step) for s in expected]
    for a, b in zip(expected, found, strict=True):
        assert a.metrics.keys() == b.metrics.keys()
        for name in a.metrics.keys() - {"padding", "eval_padding"}:
            assert b.metrics[name] == pytest.approx(a.metrics[name], rel=1e-4, abs=1e-5), name
    for key, value in trained(folder).items():
        other = trained(folder.parent / "b")[key]
        assert (other - value).abs().max() <= 1e-5 * max(1.0, value.abs().max())
    both.finish()
    assert runs.read_manifest(both.folder).status == "done"
    assert list(trainer.train(both)) == found  # it is read again, nothing is started


@pytest.mark.parametrize("parallel", ["fsdp2", "zero2"])
def test_shared_out_weights_learn_what_whole_ones_learn(tiny_run, parallel):
    settings = {"reference": "cache", "batch_pairs": 5, "gamma": 0.5}  # ranks of unequal share
    recipe, folder = tiny_run(**settings)
    expected = list(trainer.train(runs.open_run("train", recipe, "a", {})))
    tiny_run("b", **settings)
    shared = {"processes": 2, "parallel": parallel}
    started = trainer.train(runs.open_run("train", recipe, "b", shared))
    for step in started:
        if step.step == 3:  # behind the checkpoint of two updates: a restart takes its parts over
            started.close()
    run = runs.open_run("train", recipe, "b", shared)
    found = list(trainer.train(run))
    assert [step.step for step in found] == [step.step for step in expected]
    for a, b in zip(expected, found, strict=True):
        for name in ("loss", "rewards/margins", "grad_norm", "lm_loss"):
            assert b.metrics[name] == pytest.approx(a.metrics[name], rel=1e-4, abs=1e-5), name
    for key, value in trained(folder).items():
        other = trained(folder.parent / "b")[key]
        assert (other - value).abs().max() <= 1e-5 * max(1.0, value.abs().max())


def begin(recipe, folder, **settings):
    """A training of two processes, followed in a process of its own."""
    code = (
        "import sys\n"
        "from hadpo import runs, trainer\n"
        f"run = runs.open_run('train', {recipe!r}, {folder.name!r}, {settings!r})\n"
        "try:\n"
        "    for step in trainer.train(run): print(step.step, flush=True)\n"
        "except BaseException as error:\n"
        "    run.fail(error); print(type(error).__name__, error, flush=True); sys.exit(1)\n"
        "run.finish()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def workers(folder):
    """Process numbers of those that train in a folder, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_text().split("\0")
            environment = (place / "environ").read_text().split("\0")
        except OSError:  # it has ended since
            continue
        ranks = [entry.removeprefix("RANK=") for entry in environment if entry.startswith("RANK=")]
        if "hadpo.worker" in words and str(folder) in words and ranks:
            found[int(ranks[0])] = int(place.name)
    return found


def test_one_that_dies_ends_the_others_with_one_message(tiny_run):
    recipe, folder = tiny_run(steps=100000)
    follower = begin(recipe, folder, processes=2)
    assert follower.stdout.readline() == "0\n"
    there = workers(folder)
    os.kill(there[1], signal.SIGKILL)
    said = follower.stdout.read().splitlines()[-1]
    assert follower.wait(timeout=120) == 1
    assert said.startswith("RuntimeError process 1 of 2 ended without a message")
    assert not workers(folder)


@pytest.mark.parametrize("whom", ["follower", "killed follower"])
def test_told_to_stop_they_save_their_state(tiny_run, whom):
    recipe, folder = tiny_run(steps=100000, checkpoint_every=100000)
    follower = begin(recipe, folder, processes=2)
    assert follower.stdout.readline() == "0\n"
    follower.send_signal(signal.SIGTERM if whom == "follower" else signal.SIGKILL)
    said = follower.stdout.read().splitlines()
    follower.wait(timeout=120)
    for _ in range(300):
        if not workers(folder):
            break
        time.sleep(0.1)
    saved = list((folder / "train" / "checkpoints" / "dpo").iterdir())
    assert [path.suffix for path in saved] == [".pt"]
    if whom == "follower":
        assert "Stopped stopped by SIGTERM after update" in said[-1] and str(saved[0]) in said[-1]
        assert runs.read_manifest(folder / "train").status == "interrupted"


def test_what_ends_one_is_told_as_it_was(tiny_run):
    recipe, folder = tiny_run()
    pairs = folder / "prepare" / "pairs.jsonl"
    pairs.write_text(pairs.read_text().replace("/0.png", "/gone.png"))
    run = runs.open_run("train", recipe, "a", {"processes": 2})
    with pytest.raises(BadInput, match=r"no image .*gone\.png"):
        list(trainer.train(run))


def test_a_cluster_starts_it_without_a_notebook(tiny_run):
    recipe, folder = tiny_run()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command += ["--multi_gpu", "--num_machines", "1", "--main_process_port", "0"]
    command += ["-m", "hadpo.worker", "--run", str(folder), "--recipe", recipe, "-p", "steps=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = runs.read_manifest(folder / "train")
    assert manifest.status == "done" and manifest.settings["train"]["steps"] == 3
    assert trained(folder)
    words = [json.loads(p.read_text()) for p in (folder / "train" / "workers").glob("*.json")]
    assert words == [{"kind": "", "message": ""}] * 2


def test_words(tmp_path):
    launch.write_end(tmp_path, BadInput("mend it"))
    found = launch._reason(tmp_path, 2)
    assert isinstance(found, BadInput) and str(found) == "mend it"
    launch.write_end(tmp_path, torch.OutOfMemoryError("much"))
    assert "process 1 of 2 ended" in str(launch._reason(tmp_path, 2))
    assert "a process failed: OutOfMemoryError: much" in str(launch._reason(tmp_path, 1))
