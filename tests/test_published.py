"""`hadpo run RECIPE --adapter ...`: a published adapter beside its base, without a training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hadpo import adapter, backbones, config, runs
from hadpo.adapter.dump import from_dump
from hadpo.cli import app
from hadpo.cli.fetching import find_adapter
from hadpo.records import Answer, BadInput, read_jsonl
from hadpo.vlm import checkpoint

QKV = "q_proj,k_proj,v_proj"
ALL = f"{QKV},o_proj,gate_proj,up_proj,down_proj"
# Recipe of a small model -> targets of the adapter that its authors published for the real one.
LAYOUTS = {
    "mini/llava": ALL,
    "mini/minigpt4": QKV,
    "mini/instructblip": QKV,
    "mini/mplug-owl": "q_proj,v_proj",
}
SMALL = (
    *("mini_train_images=6", "mini_test_images=3", "benchmark_names=pope", "cut_control=false"),
    *("questions_limit=4", "bootstrap_samples=50", "check_pairs=2"),
)


def write_published(recipe_name: str, folder):
    """An adapter of a recipe's small model, in the files that the authors of the real one left."""
    recipe = config.load_recipe(recipe_name)
    files = backbones.files_of(recipe, config.resolve_path)
    backbone = backbones.load_for(recipe, files)
    adapter.attach(backbone, rank=4, alpha=8, targets=LAYOUTS[recipe_name], seed=1)
    torch.manual_seed(2)
    weights = {k: torch.randn_like(v) * 0.05 for k, v in adapter.state(backbone).items()}
    folder.mkdir()
    if recipe_name == "mini/mplug-owl":  # LRV V2: the whole model, its LoRA inside
        whole = {}
        for path in checkpoint.weight_files(Path(files["language_model"]), what="base"):
            whole |= {f"base_model.model.{key}": t for key, t in checkpoint.read_tensors(path)}
        start = "base_model.model."
        lora = {f"{start}language_model.{k.removeprefix(start)}": t for k, t in weights.items()}
        torch.save(whole | lora, folder / "pytorch_model.bin")
        return backbone, weights
    settings = {
        "base_model_name_or_path": "base",
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": LAYOUTS[recipe_name].split(","),
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    torch.save(weights, folder / "adapter_model.bin")
    if recipe_name == "mini/llava":
        own = {f"base_model.model.model.mm_projector.{k}": v + 0.01 for k, v in projector(backbone)}
        torch.save(own, folder / "non_lora_trainables.bin")
        (folder / "config.json").write_text(json.dumps({"model_type": "llava"}))
    else:
        (folder / "training_args.yaml").write_text("!!python/object:transformers.X {}\n")
    return backbone, weights


def projector(backbone):
    return [(k, v.detach().clone()) for k, v in backbone.connector.named_parameters()]


def in_a_process(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "hadpo", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HADPO_RUNS": str(folder / "runs")},
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", LAYOUTS)
def test_base_and_published_adapter_side_by_side(recipe, tmp_path):
    write_published(recipe, tmp_path / "published")
    settings = [word for setting in SMALL for word in ("-p", setting)]
    done = in_a_process(
        tmp_path, "run", recipe, "--adapter", str(tmp_path / "published"), "--name", "a", *settings
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "POPE random: accuracy (%)" in done.stdout
    [header] = [line for line in done.stdout.splitlines() if line.startswith("Measure ")]
    assert {"Base", "Tuned"} <= {*header.split()}
    run = tmp_path / "runs" / "a"
    stages = {path.name for path in run.iterdir() if path.is_dir()}
    assert stages == {"prepare", "merge", "evaluate", "compare"}
    assert (run / "prepare" / "pairs.jsonl").read_text() == ""
    answers = list(read_jsonl(run / "evaluate" / "samples.jsonl", Answer))
    by_model = {m: sum(a.model == m for a in answers) for m in ("base", "merged")}
    assert by_model == {"base": 12, "merged": 12}
    proof = json.loads((run / "merge" / "metrics.json").read_text())["merged"]
    assert proof["pairs compared"] == 2
    assert proof["adapter to merge in memory, nats per token"] < 1e-4
    manifest = runs.read_manifest(run / "merge")
    assert manifest is not None
    assert manifest.parents == {}  # it rests on the adapter and the base alone
    taken = manifest.facts["merged"]["adapter"]
    own = run / "merge" / "adapter"
    assert taken == str(own if recipe == "mini/mplug-owl" else tmp_path / "published")
    again = in_a_process(
        tmp_path, "run", recipe, "--adapter", str(tmp_path / "published"), "--name", "a", *settings
    )
    assert again.stdout.count("done before") == 4, again.stdout + again.stderr


def test_a_dump_gives_the_adapter_that_is_inside(tmp_path):
    backbone, weights = write_published("mini/mplug-owl", tmp_path / "published")
    base = backbone.files["language_model"]
    report = from_dump(tmp_path / "published", base, tmp_path / "taken", alpha=8)
    assert report.adapter_is_all
    adapter.detach(backbone)
    adapter.load(backbone, tmp_path / "taken")
    taken = adapter.state(backbone)
    assert taken.keys() == weights.keys()
    assert all(torch.equal(taken[key], weights[key]) for key in weights)


REAL = {
    "llava-1.5-7b": "juliozhao/hadpo-llava-1.5",
    "instructblip-13b": "juliozhao/hadpo-instructblip",
    "minigpt4-llama2-7b": "juliozhao/hadpo-minigpt4",
}


@pytest.mark.parametrize("recipe", REAL)
def test_a_hub_id_that_is_not_here_names_the_command(hadpo, recipe, tmp_path):
    places = {"HADPO_MODELS": str(tmp_path), "HADPO_RUNS": str(tmp_path / "runs")}
    done = hadpo("run", recipe, "--adapter", REAL[recipe], **places)
    assert done.returncode == 3
    name = REAL[recipe].partition("/")[2].removesuffix("-1.5")
    assert done.stderr.strip().endswith(f"yet: hadpo fetch adapters/{name}")
    assert not (tmp_path / "runs").exists()


def test_where_an_adapter_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path / "models"))
    assert find_adapter(str(tmp_path)) == str(tmp_path)
    fetched = tmp_path / "models" / "hadpo-minigpt4"
    fetched.mkdir(parents=True)
    (fetched / "adapter_config.json").write_text('{"r": 64}')
    (fetched / "adapter_model.bin").write_bytes(b"PK" + bytes(2000))
    for name in ("juliozhao/hadpo-minigpt4", "adapters/hadpo-minigpt4"):
        assert find_adapter(name) == "${HADPO_MODELS}/hadpo-minigpt4"
    with pytest.raises(runs.BadEnvironment, match=r"hf download some/other --local-dir .*other"):
        find_adapter("some/other")
    (tmp_path / "models" / "other").mkdir()
    (tmp_path / "models" / "other" / "adapter_config.json").write_text("{}")
    assert find_adapter("some/other") == "${HADPO_MODELS}/other"
    with pytest.raises(BadInput, match="no such folder, and no hub id"):
        find_adapter("no such thing")


def test_what_the_option_sets_itself_is_refused(tmp_path):
    for setting, said in (
        ("pair_source=mined", "--adapter sets pair_source itself; leave out -p pair_source=mined"),
        ("beta=0.2", "unknown parameter 'beta' for stages prepare, merge, evaluate, compare"),
    ):
        done = CliRunner().invoke(
            app, ["run", "llava-1.5-7b", "--adapter", str(tmp_path), "-p", setting, "--dry-run"]
        )
        assert said in str(done.exception)
    done = CliRunner().invoke(app, ["run", "reported", "--adapter", str(tmp_path), "--dry-run"])
    assert "--adapter: recipe reported has the stages compare" in str(done.exception)
