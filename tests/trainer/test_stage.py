"""The stage around the loop: controls, replay, kills, the plan, what the loss sees, merging."""

import hashlib
import json
import shutil
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from hadpo import adapter, batch, loss, runs, trainer
from hadpo.adapter import proof
from hadpo.config import ModelConfig, Recipe
from hadpo.records import BadInput, write_jsonl
from hadpo.trainer import checkpoints, order


class FakeRun:
    """What the stage needs of a run, in a folder."""

    def __init__(self, folder, files, config, **merge):
        parts = {part: str(path) for part, path in files.items()}
        model = ModelConfig(backbone="llava/mini", files=parts, device="cpu")
        self.recipe = Recipe(name="test", title="", model=model, train=config, merge=merge or {})
        self.home, self.folder, self.facts = folder, folder / "train", {}

    def path(self, *parts):
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def earlier(self, stage, *parts):
        return self.home.joinpath(stage, *parts)

    def resolve(self, text):
        return text

    def log(self, values):
        with self.path("metrics.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def note(self, **facts):
        self.facts |= facts


def stage_in(folder, fast, tiny_files, tiny_pairs):
    write_jsonl(folder / "prepare" / "pairs.jsonl", tiny_pairs[:8])
    write_jsonl(folder / "prepare" / "held_out.jsonl", tiny_pairs[8:])
    config = replace(fast, steps=5, checkpoint_every=2, controls="sft")
    return lambda **changes: FakeRun(folder, tiny_files, replace(config, **changes))


@pytest.fixture
def stage(fast, tmp_path, tiny_files, tiny_pairs):
    return stage_in(tmp_path, fast, tiny_files, tiny_pairs)


@pytest.fixture(scope="module")
def whole(fast, tmp_path_factory, tiny_files, tiny_pairs):
    """What a training that nothing ended gives: its steps, its log, its weights."""
    run = stage_in(tmp_path_factory.mktemp("whole"), fast, tiny_files, tiny_pairs)(controls="")
    return list(trainer.train(run)), lines(run), weights_of(run)


@pytest.fixture(scope="module")
def trained(fast, tmp_path_factory, tiny_files, tiny_pairs):
    """A folder in which the stage and its control are trained; to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    list(trainer.train(stage_in(folder, fast, tiny_files, tiny_pairs)()))
    return folder


@pytest.fixture
def finished(stage, trained, tmp_path):
    """The stage in a folder in which it is trained."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return stage


def lines(run):
    return [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]


def weights_of(run):
    return (run.path("adapter") / "adapter_model.safetensors").read_bytes()


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
    assert run.facts["skipped_updates"] == {"dpo": 0, "sft": 0}
    files = ("prepare/pairs.jsonl", "prepare/held_out.jsonl", "llava-tiny/model.safetensors")
    assert {*files, "clip-tiny/pytorch_model.bin"} <= run.facts["inputs"].keys()
    pairs = run.earlier("prepare", "pairs.jsonl").read_bytes()
    assert run.facts["inputs"]["prepare/pairs.jsonl"] == hashlib.sha256(pairs).hexdigest()
    replayed = list(trainer.train(stage()))
    assert replayed == found and len(lines(run)) == 10


def test_at_most_five_calls_lie_between_train_and_the_loss(stage, monkeypatch):
    """A reader who follows `trainer.train(run)` to the formula visits few functions."""
    package, real, stacks = str(Path(trainer.__file__).parents[1]), loss.preference_loss, []

    def watched(*logps, **settings):
        stack = traceback.extract_stack()
        stacks.append([frame.name for frame in stack if frame.filename.startswith(package)])
        return real(*logps, **settings)

    monkeypatch.setattr(loss, "preference_loss", watched)
    list(trainer.train(stage(steps=1, controls="")))
    assert stacks and all(names[0] == "train" for names in stacks)
    assert max(map(len, stacks)) <= 5, stacks[0]


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


@pytest.mark.parametrize(
    ("place", "is_before"),
    [("checkpoint", True), ("checkpoint", False), ("adapter", True), ("adapter", False)],
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_kill_around_a_write_loses_no_line(stage, whole, monkeypatch, place, is_before, count):
    expected, expected_lines, weights = whole
    run = stage(controls="")
    module, calls = (checkpoints if place == "checkpoint" else adapter.trained), []
    real = module.save

    def killed(*given):
        calls.append(given)
        if len(calls) == (count if place == "checkpoint" else 1):
            if not is_before:
                real(*given)
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            list(trainer.train(stage(controls="")))
    logged = [line["step"] for line in lines(run)]
    assert logged == list(range(len(logged)))
    assert checkpoints.last_step(run.path("checkpoints", "dpo")) <= len(logged)
    assert list(trainer.train(stage(controls=""))) == expected
    assert lines(run) == expected_lines and weights_of(run) == weights
    assert [k for k, line in enumerate(lines(run)) if "eval_loss" in line] == [1, 3, 4]


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_stopped_right_after_a_yield_ends_the_same(stage, whole, stop):
    expected, expected_lines, weights = whole
    run = stage(controls="")
    for step in trainer.train(stage(controls="")):
        if step.step == stop:  # its line is written, its checkpoint is not
            break
    assert checkpoints.last_step(run.path("checkpoints", "dpo")) < len(lines(run)) == stop + 1
    assert list(trainer.train(stage(controls=""))) == expected
    assert lines(run) == expected_lines and weights_of(run) == weights


def test_a_cell_that_was_interrupted_is_run_again(finished):
    run = finished()
    expected = weights_of(run)
    for path in ("adapter", "checkpoints", "controls"):
        shutil.rmtree(run.path(path))
    for _ in trainer.train(run):
        break  # before the first checkpoint
    assert not list(run.path("checkpoints").rglob("*.pt"))
    list(trainer.train(run))
    assert weights_of(run) == expected


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


def test_a_plan_says_time_and_memory(tiny_run):
    recipe, _ = tiny_run(reference="cache", vision_cache_gb=0.5)
    found = trainer.plan(runs.open_run("train", recipe, "a", {}))
    assert found["tera_operations"] >= 0 and found["memory_gb"] > 0
    assert found["hours"] < 1 and "GFLOP/s" in found["rate"]
    assert found["vision_cache"] == "0 images, 0 of 0.5 GB" and found["processes"] == "1 (ddp)"


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


def test_merge_stage_proves_what_it_wrote(finished):
    run = finished()
    results = adapter.merge_run(run)
    assert set(results) == {"merged", "sft"}
    for name, found in results.items():
        assert found["pairs compared"] == 3
        assert found["adapter to merge in memory, nats per token"] < 1e-3
        assert found["adapter to merged files, nats per token"] < 0.3
        fact = "merged" if name == "merged" else f"merged_{name}"
        assert set(run.facts[fact]["files"]) == {"language_model", "vision"}
        assert run.facts[fact]["projector"] == "adapter"
    assert results["merged"]["adapter to transformers folder, nats per token"] < 0.3
    assert (run.path("merged_transformers") / "model.safetensors").is_file()
    adapters = ("adapter", "controls/sft/adapter")
    assert {f"train/{place}/adapter_model.safetensors" for place in adapters} <= {
        *run.facts["inputs"]
    }
    assert {"prepare/pairs.jsonl", "llava-tiny/model.safetensors"} <= {*run.facts["inputs"]}
    assert (run.path("merged") / "model.safetensors").is_file()
    assert (run.path("controls", "sft", "merged") / "config.json").is_file()
    assert json.loads(run.path("metrics.json").read_text()) == results


def test_the_pairs_that_are_checked_are_the_ones_that_are_shown(finished, tiny_pairs, monkeypatch):
    run = finished()
    shown, seen = adapter.pairs_to_check(run), []
    assert shown == tiny_pairs[:3] and len(shown) == run.recipe.merge.check_pairs
    real = proof._logps
    monkeypatch.setattr(proof, "_logps", lambda b, pairs: seen.append(pairs) or real(b, pairs))
    adapter.merge_run(run)
    # Two adapters; without, by peft, merged, and from the files; the first also for transformers.
    assert seen == [shown] * 9


def test_an_adapter_is_described_without_a_model(finished, fast):
    run = finished()
    facts = adapter.describe(run.path("adapter"))
    targets = len(fast.lora_targets.split(","))
    assert facts["rank"] == 4 and facts["scale"] == 2
    assert facts["LoRA modules"] == 2 * targets  # of two layers
    assert facts["largest norm of B"] > 0


def test_what_was_trained_at_each_checkpoint_stays_where_it_is_asked_for(stage):
    run = stage(keep_steps=True)
    list(trainer.train(run))
    kept = sorted(path.name for path in run.path("steps").iterdir())
    assert kept == ["step-2", "step-4"]  # of the run itself, not of its control
    hashes = {
        hashlib.sha256(
            (run.path("steps", name, "adapter") / "adapter_model.safetensors").read_bytes()
        ).hexdigest()
        for name in kept
    }
    assert len(hashes | {hashlib.sha256(weights_of(run)).hexdigest()}) == 3
    config = replace(run.recipe.train, parallel="fsdp2", processes=2, reference="cache")
    with pytest.raises(BadInput, match="keep_steps: with parallel: fsdp2"):
        order.check(config)


def by_method(run):
    found = {}
    for step in trainer.train(run):
        found.setdefault(step.objective, []).append(step.metrics)
    return found


def test_every_control_has_its_own_rate_and_length_and_loss(stage):
    run = stage(
        controls="sft,dpo_alone",
        control_learning_rate="sft=0.004, dpo_alone=0.0005",
        control_steps="dpo_alone=3",
        schedule="constant",
        warmup_steps=0,
        gamma=1.0,
    )
    found = by_method(run)
    rates = {name: {m["learning_rate"] for m in each} for name, each in found.items()}
    assert rates == {"dpo": {1e-3}, "sft": {0.004}, "dpo_alone": {0.0005}}
    assert {name: len(each) for name, each in found.items()} == {"dpo": 5, "sft": 5, "dpo_alone": 3}
    first = {name: each[0] for name, each in found.items()}  # of the untrained policy
    preference, text = first["dpo"]["preference_loss"], first["dpo"]["lm_loss"]
    assert first["dpo"]["loss"] == pytest.approx(preference + text)
    assert first["dpo_alone"]["loss"] == pytest.approx(preference)
    assert first["sft"]["loss"] == pytest.approx(text)
    for name in ("sft", "dpo_alone"):
        assert (run.path("controls", name, "adapter") / "adapter_config.json").is_file()
    one = stage(controls="sft", control_learning_rate="0.004", schedule="constant")
    assert trainer.stage.settings_of(one.recipe.train, "sft")[1].learning_rate == 0.004


def test_a_control_with_texts_of_its_own_learns_them_in_place_of_the_descriptions(
    stage, tmp_path, tiny_pairs
):
    kinds = {pair.kind for pair in tiny_pairs[:8]}
    assert kinds == {"description", "pope"}
    away = {pair.image_id for pair in tiny_pairs[8:]}
    texts = [
        replace(pair, pair_id=f"true-{n}", chosen=f"Only {n}.", kind="description")
        for n, pair in enumerate(tiny_pairs)
    ]
    write_jsonl(tmp_path / "prepare" / "controls" / "sft_true.jsonl", texts)
    run = stage(controls="sft_true")
    train, held_out = trainer.stage.read_records(run, "sft_true")
    expected = [pair for pair in texts if pair.image_id not in away]
    expected += [pair for pair in tiny_pairs[:8] if pair.kind == "pope"]
    assert train == expected and held_out == tiny_pairs[8:]
    assert trainer.stage.read_records(run, "dpo")[0] == tiny_pairs[:8]
    assert set(by_method(run)) == {"dpo", "sft_true"}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_control_without_texts_is_refused_before_anything_is_trained(stage, tmp_path, is_there):
    if is_there:
        write_jsonl(tmp_path / "prepare" / "controls" / "sft_flawless.jsonl", [])
    run = stage(controls="sft_flawless")
    with pytest.raises(BadInput, match=r"controls: sft_flawless: .*take it out of controls"):
        list(trainer.train(run))
    assert not run.path("metrics.jsonl").is_file()
