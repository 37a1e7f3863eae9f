"""The stage around the loop: controls, replay, kills, the plan, what the loss sees, merging."""

import json
import shutil
from dataclasses import replace

import pytest

from hadpo import adapter, batch, trainer
from hadpo.config import ModelConfig, Recipe
from hadpo.records import write_jsonl


class FakeRun:
    """What the stage needs of a run, in a folder."""

    def __init__(self, folder, files, config, **merge):
        parts = {part: str(path) for part, path in files.items()}
        model = ModelConfig(backbone="llava/mini", files=parts, device="cpu")
        self.recipe = Recipe(name="test", title="", model=model, train=config, merge=merge or {})
        self.folder, self.facts = folder, {}

    def path(self, *parts):
        path = self.folder.joinpath("train", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def earlier(self, stage, *parts):
        return self.folder.joinpath(stage, *parts)

    def resolve(self, text):
        return text

    def log(self, values):
        with self.path("metrics.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def note(self, **facts):
        self.facts |= facts


@pytest.fixture
def stage(fast, tmp_path, tiny_files, tiny_pairs):
    write_jsonl(tmp_path / "prepare" / "pairs.jsonl", tiny_pairs[:8])
    write_jsonl(tmp_path / "prepare" / "held_out.jsonl", tiny_pairs[8:])
    config = replace(fast, steps=5, checkpoint_every=2, controls="sft")
    return lambda **changes: FakeRun(tmp_path, tiny_files, replace(config, **changes))


def lines(run):
    return [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]


def test_stage_trains_the_run_and_its_control(stage):
    run = stage()
    found = list(trainer.train(run))
    assert [(s.objective, s.step) for s in found] == [
        (objective, k) for objective in ("dpo", "sft") for k in range(5)
    ]
    assert [(line["objective"], line["step"]) for line in lines(run)] == [
        (s.objective, s.step) for s in found
    ]
    assert (run.path("adapter") / "adapter_model.safetensors").is_file()
    assert (run.path("controls", "sft", "adapter") / "adapter_config.json").is_file()
    assert "eval_loss" in found[-1].metrics
    replayed = list(trainer.train(stage()))
    assert replayed == found and len(lines(run)) == 10


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 9])
def test_stage_goes_on_after_a_kill(stage, stop, tmp_path):
    first = stage()
    for count, _ in enumerate(trainer.train(first)):
        if count == stop:
            break
    with first.path("metrics.jsonl").open("a") as file:
        file.write('{"objective": "dpo", "st')  # torn by the kill
    run = stage()
    found = list(trainer.train(run))
    assert [(s.objective, s.step) for s in found] == [
        (objective, k) for objective in ("dpo", "sft") for k in range(5)
    ]
    assert [(line["objective"], line["step"]) for line in lines(run)] == [
        (s.objective, s.step) for s in found
    ]


def test_a_cell_that_was_interrupted_is_run_again(stage, tmp_path):
    whole = stage()
    list(trainer.train(whole))
    expected = (whole.path("adapter") / "adapter_model.safetensors").read_bytes()
    for path in ("adapter", "checkpoints", "controls"):
        shutil.rmtree(whole.path(path))
    run = stage()
    for _ in trainer.train(run):
        break  # before the first checkpoint
    assert not list(run.path("checkpoints").rglob("*.pt"))
    list(trainer.train(run))
    assert (run.path("adapter") / "adapter_model.safetensors").read_bytes() == expected


def test_plan_and_what_the_loss_sees(stage, tiny_llava, tiny_pairs):
    examples = [batch.tokenize(tiny_llava(), pair, max_length=512) for pair in tiny_pairs]
    run = stage(max_length=max(len(e.prefix) for e in examples) + 10)
    facts = trainer.plan(run)
    assert facts["updates"] == 5 and facts["pairs"] == 8 and facts["held_out_pairs"] == 2
    assert facts["pairs_seen"] == 20 and facts["answers_cut"] > 0
    assert 0 < facts["padding"] < 0.5 and facts["memory_gb"] > 0
    assert run.facts["plan"] == facts
    rows = trainer.decode_batch(run, 3)
    assert len(rows) == 3
    for row in rows:
        assert row["prompt_pieces"][0] == "<s>" and "<image x 4>" in row["prompt_pieces"]
        assert row["chosen_pieces"][-1] == row["rejected_pieces"][-1] == "</s>"
        assert row["chosen"] and row["rejected"] != row["chosen"]


def test_plan_tells_rows_and_reference(stage):
    alone = trainer.plan(stage())
    assert alone["packed_rows"] == 20 and alone["reference"] == "adapter_off"
    run = stage(pairs_per_row=2, reference="cache")
    plan = trainer.plan(run)
    assert plan["packed_rows"] < 20 and plan["tokens"] < alone["tokens"]
    assert plan["reference"] == "cache: 0 of 10 pairs are there"
    list(trainer.train(run))
    assert (run.earlier("prepare") / "reference" / "llava-mini" / "manifest.json").is_file()
    assert trainer.plan(run)["reference"] == "cache: 10 of 10 pairs are there"


def test_merge_stage_proves_what_it_wrote(stage, tiny_files):
    run = stage()
    list(trainer.train(run))
    results = adapter.merge_run(run)
    assert set(results) == {"dpo", "sft"}
    for name, found in results.items():
        assert found["pairs"] == 3
        assert found["max_difference_merged"] < 1e-3 and found["max_difference_files"] < 0.3
        assert set(run.facts[f"merged_{name}"]["files"]) == {"language_model", "vision"}
    assert (run.path("merged") / "model.safetensors").is_file()
    assert (run.path("controls", "sft", "merged") / "config.json").is_file()
    assert json.loads(run.path("metrics.json").read_text()) == results
