"""The five notebooks as a user runs them: mini at reduced size, and on real photos."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hadpo import config, runs
from hadpo.records import Answer, Metric, Pair, Question, Verdict, read_jsonl

STAGES = tuple(config.SECTIONS)
WATCH = """
import os, socket
_look_up = socket.getaddrinfo
def getaddrinfo(host, *rest, **named):
    with open(os.environ["NAME_LOOKUPS"], "a") as file:
        file.write(f"{host}\\n")
    return _look_up(host, *rest, **named)
socket.getaddrinfo = getaddrinfo
"""
LOOPBACK = {"localhost", "127.0.0.1", "::1", "None", "0.0.0.0"}


def surroundings(folder):
    """An environment with its own runs folder, in which every name look-up is written down."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(WATCH)
    return os.environ | {
        "HADPO_RUNS": str(folder / "runs"),
        "NAME_LOOKUPS": str(folder / "lookups.txt"),
        "PYTHONPATH": str(folder / "site"),
    }


def hadpo(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "hadpo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=surroundings(folder),
    )


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """A finished `mini/llava-smoke`, what it printed, and where it lies."""
    folder = tmp_path_factory.mktemp("mini")
    done = hadpo(folder, "run", "mini/llava-smoke", "--name", "a")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_ends_with_the_table_and_the_page(mini):
    folder, done = mini
    page = folder / "runs" / "a" / "index.html"
    assert done.stdout.rstrip().endswith(str(page))
    assert page.is_file() and (folder / "runs" / "a" / "compare" / "report.html").is_file()
    assert "it teaches, it is not a result" in done.stdout
    assert "adversarial" in done.stdout


def test_every_stage_is_done_and_says_so(mini):
    folder, _ = mini
    manifests = {m.stage: m for m in runs.list_manifests(folder / "runs")}
    assert set(manifests) == set(STAGES)
    for stage, manifest in manifests.items():
        assert manifest.status == "done", stage
        assert manifest.is_mini
        assert manifest.peak_memory_bytes > 0
        assert manifest.duration_seconds > 0
    assert manifests["train"].parents["prepare"] == manifests["prepare"].run_id


def test_no_name_was_looked_up(mini):
    folder, _ = mini
    path = folder / "lookups.txt"
    found = set(path.read_text().split()) if path.exists() else set()
    assert found <= LOOPBACK


def test_the_files_are_those_of_the_design(mini):
    root = mini[0] / "runs" / "a"
    pairs = list(read_jsonl(root / "prepare" / "pairs.jsonl", Pair))
    held_out = list(read_jsonl(root / "prepare" / "held_out.jsonl", Pair))
    assert {p.kind for p in pairs} == {"description", "pope"}
    assert not {p.image_id for p in pairs} & {p.image_id for p in held_out}
    prepared = read_jsonl(root / "prepare" / "questions.jsonl", Question)
    questions = [q for q in prepared if q.benchmark in ("pope", "shr")]  # those that are asked
    assert {q.split for q in questions if q.benchmark == "pope"} == {
        "random",
        "popular",
        "adversarial",
    }
    assert not {p.image_id for p in pairs} & {q.image_id for q in questions}
    answers = list(read_jsonl(root / "evaluate" / "samples.jsonl", Answer))
    asked = {(q.benchmark, q.split, q.question_id) for q in questions}
    for model in ("base", "merged", "sft"):
        mine = [(a.benchmark, a.split, a.question_id) for a in answers if a.model == model]
        assert len(mine) == len(set(mine))
        assert set(mine) == asked
    assert list(read_jsonl(root / "evaluate" / "verdicts.jsonl", Verdict))
    metrics = list(read_jsonl(root / "evaluate" / "metrics.jsonl", Metric))
    assert {m.model for m in metrics} >= {"base", "merged", "sft", "base_cut"}
    assert all(m.n > 0 or m.value is None for m in metrics)


def test_training_starts_at_ln_2_and_keeps_its_curves(mini):
    steps = lines(mini[0] / "runs" / "a" / "train" / "metrics.jsonl")
    dpo = [s for s in steps if s["objective"] == "dpo"]
    assert len(dpo) == 6
    assert dpo[0]["rewards/margins"] == 0.0
    assert dpo[0]["preference_loss"] == pytest.approx(0.6931472, abs=1e-7)
    assert [s["step"] for s in steps if s["objective"] == "sft"] == [s["step"] for s in dpo]


def test_merged_and_adapter_agree(mini):
    facts = json.loads((mini[0] / "runs" / "a" / "merge" / "metrics.json").read_text())
    found = [v for k, v in _flat(facts).items() if "adapter to" in k and "nats per token" in k]
    assert found
    assert max(found) < 1e-3


def _flat(values, prefix=""):
    found = {}
    for key, value in values.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_reports_hold_their_pictures_and_ask_no_host(mini, stage):
    text = (mini[0] / "runs" / "a" / stage / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"']https?://[^\"']+\.(?:js|css|png|jpg|svg)", text)
    assert not re.search(r"<script[^>]+src=[\"'](?!data:|[\"'])", text)
    assert "data:image/" in text or "<svg" in text
    assert "Traceback" not in text


def test_a_second_run_does_nothing_again(mini):
    folder, _ = mini
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}
    done = hadpo(folder, "run", "mini/llava-smoke", "--name", "a")
    assert done.returncode == 0
    assert done.stdout.count("done before") == len(STAGES)
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()} == before


def test_the_same_name_with_other_parameters_is_refused(mini):
    done = hadpo(mini[0], "stage", "train", "mini/llava-smoke", "--name", "a", "-p", "beta=0.3")
    assert done.returncode == 2
    assert "train.beta: 0.1 there, 0.3 asked" in done.stderr


@pytest.mark.slow  # fast: test_execute.py (--from), test_judged_run.py (a stage on another run)
def test_a_stage_of_another_run_can_be_trained_on(mini):
    arguments = ["--from", "a", "-p", "train_seed=1", "-p", "controls="]
    done = hadpo(mini[0], "stage", "train", "mini/llava-smoke", "--name", "b", *arguments)
    assert done.returncode == 0, done.stderr
    ours = mini[0] / "runs" / "b" / "train" / "metrics.jsonl"
    assert (
        lines(ours)[1]["loss"]
        != lines(mini[0] / "runs" / "a" / "train" / "metrics.jsonl")[1]["loss"]
    )


def kill_in_the_middle(folder, stage, seconds):
    """Run the pipeline and kill it, kernel and all, some time after `stage` has started."""
    command = [sys.executable, "-m", "hadpo", "run", "mini/llava-smoke", "--name", "b"]
    process = subprocess.Popen(command, env=surroundings(folder), stdout=subprocess.DEVNULL)
    manifest = folder / "runs" / "b" / stage / "manifest.json"
    deadline = time.monotonic() + 240
    while not manifest.is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(seconds)
    kernel = json.loads(manifest.read_text())["pid"]
    for pid in (process.pid, kernel):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    while runs.lock.is_alive(kernel):
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_the_same(mini, tmp_path):
    for stage, seconds in zip(STAGES, (4.0, 6.0, 2.0, 4.0, 1.0), strict=True):
        kill_in_the_middle(tmp_path, stage, seconds)
        found = runs.read_manifest(tmp_path / "runs" / "b" / stage)
        assert found is not None
        assert found.status in ("interrupted", "done")
    done = hadpo(tmp_path, "run", "mini/llava-smoke", "--name", "b")
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = tmp_path / "runs" / "b", mini[0] / "runs" / "a"
    for name in ("train/adapter/adapter_model.safetensors", "evaluate/metrics.jsonl"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert len(lines(ours / "train" / "metrics.jsonl")) == 12


@pytest.mark.slow  # fast: the notebooks above; photos prepared and judged in test_judged_run.py
def test_real_photos_go_through_all_five_notebooks(tmp_path):
    shared = Path(os.environ.get("HADPO_SHARED", config.ROOT.parent / "shared"))
    if not (shared / "data" / "photoset").is_dir():
        pytest.skip(f"no photoset below {shared}; set HADPO_SHARED")
    done = hadpo(tmp_path, "run", "photoset")
    assert done.returncode == 0, done.stdout + done.stderr
    root = tmp_path / "runs" / "photoset"
    assert len(lines(root / "train" / "metrics.jsonl")) == 5
    assert (root / "merge" / "merged" / "config.json").is_file()
    metrics = list(read_jsonl(root / "evaluate" / "metrics.jsonl", Metric))
    assert {m.benchmark for m in metrics} == {"pope", "shr", "chair"}
    assert all(m.n > 0 or m.value is None for m in metrics)
    assert "it teaches" not in done.stdout
