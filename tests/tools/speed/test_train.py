"""The benchmark itself: equality with the peers, the cost model, the report, and its command."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hadpo import records
from tools.speed import __main__ as cli
from tools.speed import cost, equality, machine, measure, models, report, results, steps, train

ROOT = Path(__file__).parents[3]
TRL_IS_HERE = bool(machine.version("trl"))


def ways(geometry, kind, wanted, *, dtype=torch.float32, pairs=4, images=2):
    sizes = models.GEOMETRIES[geometry]
    backbone = models.build(sizes, dtype=dtype)
    examples = models.pairs(sizes, kind, pairs, images=images, is_ragged=True)
    pixels = models.draw_pixels(sizes, images, dtype=dtype)
    return steps.Steps(backbone, sizes, examples, pixels, wanted)


@pytest.mark.parametrize("geometry", ["tiny", "tiny-minigpt4"])
def test_ours_are_equal_to_two_rows_in_float64(geometry):
    found = equality.measure(geometry)
    for name in (steps.FUSED_ROWS, steps.OURS, steps.SEGMENTS, steps.CACHED, steps.GROUPED):
        assert found[name]["loss"] < 1e-12 and found[name]["gradient"] < 1e-10


@pytest.mark.skipif(not TRL_IS_HERE, reason="trl is not installed: pip install hadpo[bench]")
@pytest.mark.parametrize("kind", ["desc", "pope"])
@pytest.mark.parametrize("name", [steps.TRL, steps.TRL_COMPACTION])
def test_equal_to_trl_in_float32(kind, name):
    """`trl.DPOTrainer` on transformers' LLaVA with our weights: ragged pairs, two images."""
    both = ways("tiny", kind, [name, steps.OURS])
    theirs, ours = both.step(name), both.step(steps.OURS)
    assert abs(theirs - math.log(2)) > 1e-4  # no fresh adapter, and no copy of it as reference
    assert ours == pytest.approx(theirs, abs=1e-5)
    expected, found = both.gradients(name), both.gradients(steps.OURS)
    assert len(found) == 18 and found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= 1e-5 * value.abs().max()


def test_something_unequal_is_not_timed(monkeypatch):
    loss = steps.Steps.loss
    monkeypatch.setattr(
        steps.Steps, "loss", lambda self, n: loss(self, n) * (1.1 if n == steps.SEGMENTS else 1)
    )
    with pytest.raises(records.BadInput, match="ours_segments: not equal to two rows"):
        equality.measure("tiny-minigpt4")


@pytest.mark.parametrize(
    ("geometry", "kind", "step", "expected"),
    [  # TFLOP per pair as counted by hand, without the share of the adapter's matrices
        ("llava-7b", "desc", steps.ORIGINAL, 59.6),
        ("llava-7b", "desc", steps.TRL_COMPACTION, 58.7),
        ("llava-7b", "desc", steps.OURS, 33.0),
        ("llava-7b", "desc", steps.GROUPED, 14.9),
        ("llava-7b", "pope", steps.ORIGINAL, 52.3),
        ("llava-7b", "pope", steps.OURS, 25.8),
        ("llava-7b", "pope", steps.GROUPED, 7.8),
        ("minigpt4-7b", "desc", steps.ORIGINAL, 16.5),
        ("minigpt4-7b", "desc", steps.OURS, 11.6),
        ("minigpt4-7b", "pope", steps.OURS, 4.6),
    ],
)
def test_cost_of_a_pair(geometry, kind, step, expected):
    found = cost.pair_flops(models.GEOMETRIES[geometry], kind, step) / 1e12
    assert found == pytest.approx(expected, rel=0.03)


def test_a_report_has_the_figures_that_scripts_read(tmp_path):
    measured = train.run("tiny-minigpt4", device="cpu", rounds=1, memory=False)
    found = measured.values
    assert measured.is_mini and measured.name == "train-cpu-tiny-minigpt4"
    assert list(found)[:3] == ["equal", "time", "memory"]
    wanted = {"vs_trl", "vs_trl_compaction", "vs_liger", "vs_original", "cached_vs_trl"}
    for kind in ("desc", "pope"):
        assert found["time"][kind].keys() >= wanted | {"grouped4_vs_trl"}
        assert found["time"][kind]["vs_original"] > 0
        assert found["time"][kind]["vs_trl"] is None  # transformers has no MiniGPT-4
        assert found["tflop"][kind][steps.OURS] > 0 and found["mfu"][kind] == {}
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert "minigpt4" in found["absent"][steps.TRL]
    paths = train.save(measured, tmp_path)
    assert {p.suffix for p in paths} == {".md", ".json", ".png", ".svg", ".csv"}
    assert json.loads(paths[1].read_text()) == json.loads(json.dumps(found))
    text = paths[0].read_text()
    assert "TRL as installed: transformers has no minigpt4" in text and "absent" in text


def test_steps_are_taken_as_the_options_say(monkeypatch):
    """Every linear layer, recomputed, LoRA as peft has it: what a GPU's first run compares."""
    left = []
    leave = models.leave_lora_to_peft
    monkeypatch.setattr(models, "leave_lora_to_peft", lambda b: (left.append(b), leave(b)))
    way = train.Way(targets="all", recompute=True, lora="peft")
    found = train.run("tiny-minigpt4", rounds=1, memory=False, way=way).values
    assert found["geometry"]["targets"] == models.ALL_LINEAR
    [backbone] = left
    layers = [m for m in backbone.language_model.modules() if hasattr(m, "lora_A")]
    assert len(layers) == 7 * found["geometry"]["depth"]
    assert not any("forward" in layer.__dict__ for layer in layers)


def test_peers_that_are_absent_are_said_to_be(monkeypatch):
    monkeypatch.setattr(machine, "version", lambda package: "")
    reasons = steps.available(models.GEOMETRIES["tiny"])
    assert reasons[steps.TRL] == "trl is not installed"
    assert reasons[steps.LIGER] == "liger-kernel is not installed"
    assert not any(v for k, v in reasons.items() if "trl" not in k and k != steps.LIGER)
    assert report.memory_ratios({steps.OURS: 2.0, steps.ORIGINAL: 8.0}) == {
        "vs_trl": None,
        "vs_liger": None,
        "vs_original": 0.25,
    }


def test_the_committed_table_is_made_of_the_committed_numbers():
    values = json.loads((results.PUBLISHED / "train-cpu-toy.json").read_text())
    assert report.Report(values).table() == (results.PUBLISHED / "train-cpu-toy.md").read_text()


def test_only_what_is_to_be_published_is_written_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path))
    assert results.folder_for() == tmp_path / "speed"
    assert results.folder_for(tmp_path / "x") == tmp_path / "x"
    assert results.folder_for(publish=True).relative_to(ROOT) == Path("papers_results/speed")
    with pytest.raises(records.BadInput, match="not both"):
        results.folder_for(tmp_path, publish=True)
    for name in ("train", "sft", "scale", "prepare"):
        shown = CliRunner().invoke(cli.app(), [name, "--help"]).output
        assert "--publish" in shown and "default: runs/speed" in " ".join(shown.split())


def test_ratios_are_of_rounds():
    assert measure.ratio([4.0, 9.0, 2.0], [2.0, 3.0, 2.0]) == {
        "median": 2.0,
        "least": 1.0,
        "greatest": 3.0,
    }


@pytest.mark.parametrize(
    ("value", "sign", "expected"),
    [
        (1.5, 1, "BELOW THE FLOOR"),
        (1.7, 1, "reaches the floor"),
        (2.0, 1, "reaches the aim"),
        (None, 1, "absent"),
    ],
)
def test_verdicts(value, sign, expected):
    assert report._verdict(value, 1.6, 1.9, sign=sign) == expected


def test_commands_are_found_by_their_files(tmp_path, monkeypatch):
    assert {"train", "memory"} <= set(cli.names())
    (tmp_path / "later.py").write_text("def command() -> None: ...\n")
    (tmp_path / "shared.py").write_text("def measure() -> None: ...\n")
    monkeypatch.setattr(cli, "_HERE", tmp_path)
    assert cli.names() == ["later"]


def test_a_wrong_name_is_one_message(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools.speed", "memory", "our"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "no step 'our'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(tmp_path):
    """Everything at the smallest size, memory in processes of their own among it."""
    command = [sys.executable, "-m", "tools.speed", "train", "--geometry", "tiny"]
    command += ["--rounds", "1", "--folder", str(tmp_path), "--json", str(tmp_path / "x.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["memory"]["desc"]["vs_original"] > 0
    assert found["memory"]["desc"].keys() == {"vs_trl", "vs_liger", "vs_original"}
    assert "Equality" in done.stdout and "MFU" in done.stdout
