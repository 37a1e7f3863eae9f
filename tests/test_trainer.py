"""The loop: order, schedule, accumulation, resuming, failing; and the stage around it."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo import adapter, batch, trainer
from hadpo.config import ModelConfig, Recipe, TrainConfig
from hadpo.records import BadInput, write_jsonl
from hadpo.trainer import checkpoints, loop, order
from hadpo.trainer.objective import Policy, score
from hadpo.trainer.update import Training, Window

FAST = TrainConfig(
    learning_rate=1e-3,
    batch_pairs=4,
    micro_batch_pairs=2,
    lora_rank=4,
    lora_alpha=8.0,
    max_length=512,
    epochs=1.0,
)
KINDS = ["description", "pope", "pope", "description", "pope"]


def weights(backbone):
    return {key: value.clone() for key, value in adapter.state(backbone).items()}


def run(backbone, pairs, config, **arguments):
    """Metrics of all updates, and the adapter that they made."""
    found = list(trainer.steps(backbone, pairs, config, **arguments))
    return found, weights(backbone)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- order and schedule


def test_an_epoch_visits_every_copy_once():
    config = replace(FAST, repeat_description=2, repeat_pope=1)
    batches = order.batches(KINDS, config)
    assert [len(b) for b in batches] == [4, 3]
    visits = sorted(i for b in batches for i in b)
    assert visits == [0, 0, 1, 2, 3, 3, 4]
    assert batches == order.batches(KINDS, config)
    assert batches != order.batches(KINDS, replace(config, train_seed=1))


@given(st.floats(0.1, 4), st.integers(1, 7), st.integers(0, 9))
@settings(max_examples=30)
def test_epochs_and_steps(epochs, size, steps):
    config = replace(FAST, epochs=epochs, batch_pairs=size, steps=steps)
    batches = order.batches(KINDS, config)
    total = steps * size or round(epochs * 5)
    assert sum(map(len, batches)) == total and all(len(b) == size for b in batches[:-1])
    stream = [i for b in batches for i in b]
    for start in range(0, total - 4, 5):
        assert sorted(stream[start : start + 5]) == [0, 1, 2, 3, 4]


def test_description_share_of_every_batch():
    config = replace(FAST, description_share=0.25, steps=6)
    for rows in order.batches(KINDS, config):
        assert sorted(KINDS[i] for i in rows) == ["description", "pope", "pope", "pope"]
    with pytest.raises(BadInput, match="asks for 1 description pairs"):
        order.batches(["pope"], config)
    assert order.batches(["pope"], replace(config, description_share=0.0))[0] == [0] * 4


def test_no_pairs():
    with pytest.raises(BadInput, match="no pairs to train on"):
        order.batches([], FAST)
    with pytest.raises(BadInput, match="no pairs to train on"):
        order.batches(["pope"], replace(FAST, repeat_pope=0))


def test_schedules_by_hand():
    config = replace(FAST, warmup_steps=4)
    rates = [order.learning_rate(k, 12, config) / 1e-3 for k in range(12)]
    assert rates[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert rates[8] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.0380602)
    flat = replace(config, schedule="constant")
    assert [order.learning_rate(k, 12, flat) / 1e-3 for k in (2, 4, 11)] == [0.5, 1, 1]
    assert order.learning_rate(0, 12, replace(FAST, warmup_steps=0)) == 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_pairs": 0}, "batch_pairs: found 0"),
        ({"micro_batch_pairs": -1}, "micro_batch_pairs: found -1"),
        ({"steps": 0, "epochs": 0.0}, "both 0"),
        ({"description_share": 1.5}, "description_share: found 1.5"),
        ({"label_smoothing": 0.7}, "label_smoothing: found 0.7"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing works with loss: sigmoid"),
        ({"loss": "ipo", "beta": 0.0}, "ipo divides"),
        ({"lora_dropout": 1.0}, "lora_dropout: found 1.0"),
        ({"controls": "stf"}, "unknown control 'stf'; known: sft"),
        ({"learning_rate": -1.0}, "learning_rate: found -1.0"),
    ],
)
def test_settings_without_a_meaning(change, message):
    with pytest.raises(BadInput, match=message):
        order.check(replace(FAST, **change))


def test_all_problems_at_once():
    with pytest.raises(BadInput) as error:
        order.check(replace(FAST, batch_pairs=0, beta=-1.0, controls="x"))
    assert str(error.value).count("\n") == 3


# --- the loop


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_step_0_is_exactly_ln_2(tiny_llava, tiny_pairs, dtype, recompute):
    config = replace(FAST, activation_checkpointing=recompute, steps=1)
    (first,), _ = run(tiny_llava(dtype), tiny_pairs, config)
    assert first.step == 0
    assert first.metrics["loss"] == torch.tensor(2.0).log().item()
    zero = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    assert all(first.metrics[name] == 0 for name in zero)
    assert first.metrics["grad_norm"] > 0


def test_it_learns_and_reports_with_trls_names(tiny_llava, tiny_pairs):
    found, _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=20), held_out=tiny_pairs[:3])
    first, last = found[0].metrics, found[-1].metrics
    assert last["loss"] < 0.5 < first["loss"] and last["rewards/accuracies"] == 1
    names = {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"}
    names |= {"rewards/accuracies", "logps/rejected", "grad_norm", "learning_rate", "lm_loss"}
    assert names | {"preference_loss", "padding"} == set(first)
    assert last["eval_rewards/accuracies"] == 1 and last["eval_loss"] < 0.5
    assert found[-1].epoch == pytest.approx(8)


def test_only_the_adapter_moves(tiny_llava, tiny_pairs):
    before, backbone = tiny_llava().state_dict(), tiny_llava()
    _, trained = run(backbone, tiny_pairs, replace(FAST, activation_checkpointing=True))
    assert all(value.any() for value in trained.values())
    adapter.detach(backbone)
    assert equal(before, backbone.state_dict())
    assert not backbone.training


def test_recomputed_activations_change_nothing(tiny_llava, tiny_pairs):
    _, kept = run(tiny_llava(), tiny_pairs, FAST)
    _, recomputed = run(tiny_llava(), tiny_pairs, replace(FAST, activation_checkpointing=True))
    assert equal(kept, recomputed)


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_micro_batches_change_nothing_in_float64(tiny_llava, tiny_pairs, float64_norm, gamma):
    gradients = []
    for size in (1, 3, 4, 7):  # seven pairs: the last micro-batch is smaller
        config = replace(FAST, micro_batch_pairs=size, batch_pairs=7, gamma=gamma, max_grad_norm=0)
        training = Training(tiny_llava("float64"), tiny_pairs, config, None, "dpo")
        window = Window()
        training.update(0, training.prepare(range(7)), 0.0, window)
        gradients.append(torch.cat([p.grad.flatten() for p in training.parameters]))
        assert window.pairs == 7
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() < 1e-12 * gradients[0].abs().max()


def test_gamma_weighs_the_mean_cross_entropy_of_the_chosen_text(tiny_llava, tiny_pairs):
    (plain,), _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=1))
    (found,), _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=1, gamma=0.5))
    expected = plain.metrics["loss"] + 0.5 * plain.metrics["lm_loss"]
    assert found.metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert found.metrics["preference_loss"] == plain.metrics["loss"]


def test_sft_uses_the_same_batches_and_only_the_chosen_texts(tiny_llava, tiny_pairs):
    dpo, _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=1))
    sft, _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=8), objective="sft")
    assert sft[0].metrics["loss"] == pytest.approx(dpo[0].metrics["lm_loss"], rel=1e-5)
    assert sft[-1].metrics["loss"] < sft[0].metrics["loss"]
    assert not any(name.startswith("rewards") for name in sft[0].metrics)
    changed = [replace(pair, rejected="other words") for pair in tiny_pairs]
    again, _ = run(tiny_llava(), changed, replace(FAST, steps=1), objective="sft")
    # the rejected text only decides which pairs share a micro-batch
    assert again[0].metrics["loss"] == pytest.approx(sft[0].metrics["loss"], rel=1e-5)


def test_clipping(tiny_llava, tiny_pairs):
    training = Training(tiny_llava(), tiny_pairs, replace(FAST, max_grad_norm=1e-3), None, "dpo")
    window = Window()
    training.update(0, training.prepare(range(4)), 0.0, window)
    norm = torch.cat([p.grad.flatten() for p in training.parameters]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert float(window.latest["grad_norm"]) > 0.01


def test_weight_decay_and_rate_reach_the_optimizer(tiny_llava, tiny_pairs):
    _, plain = run(tiny_llava(), tiny_pairs, replace(FAST, steps=2))
    _, decayed = run(tiny_llava(), tiny_pairs, replace(FAST, steps=2, weight_decay=10.0))
    assert not equal(plain, decayed)
    _, still = run(tiny_llava(), tiny_pairs, replace(FAST, steps=1, warmup_steps=5))
    start = tiny_llava()
    adapter.attach(start, rank=4, alpha=8.0, targets=FAST.lora_targets, seed=FAST.train_seed)
    assert equal(still, weights(start))  # the first rate of a warm-up is 0


def test_log_every_gives_means_and_always_the_first_and_last(tiny_llava, tiny_pairs):
    every, _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=6))
    some, _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=6, log_every=2))
    assert [step.step for step in some] == [0, 2, 4, 5]
    mean = (every[1].metrics["loss"] + every[2].metrics["loss"]) / 2
    assert some[1].metrics["loss"] == pytest.approx(mean, rel=1e-6)
    assert some[1].metrics["grad_norm"] == every[2].metrics["grad_norm"]


@pytest.mark.parametrize("change", [{}, {"lora_dropout": 0.3}, {"description_share": 0.5}])
def test_killed_and_resumed_ends_bitwise_equal(tiny_llava, tiny_pairs, tmp_path, change):
    config = replace(FAST, steps=7, checkpoint_every=3, log_every=2, gamma=0.3, **change)
    whole, expected = run(tiny_llava(), tiny_pairs, config)
    killed = []
    for step in trainer.steps(tiny_llava(), tiny_pairs, config, folder=tmp_path):
        killed.append(step)
        if step.step == 4:
            break  # updates 3 and 4 are done, and lost
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003.pt"]
    torch.manual_seed(99)  # another process
    rest, found = run(tiny_llava(), tiny_pairs, config, folder=tmp_path)
    assert equal(found, expected)
    assert rest == [step for step in whole if step.step > 2]
    assert killed == [step for step in whole if step.step <= 4]
    nothing, again = run(tiny_llava(), tiny_pairs, config, folder=tmp_path)
    assert nothing == [] and equal(again, expected)


def test_dropout_is_real_and_only_in_the_policy(tiny_llava, tiny_pairs):
    config = replace(FAST, steps=3, lora_dropout=0.5)
    dropped, a = run(tiny_llava(), tiny_pairs, config)
    _, b = run(tiny_llava(), tiny_pairs, replace(config, lora_dropout=0.0))
    _, c = run(tiny_llava(), tiny_pairs, config)
    assert equal(a, c) and not equal(a, b)
    assert dropped[0].metrics["loss"] == torch.tensor(2.0).log().item()


def test_dropout_leaves_the_callers_random_numbers_alone(tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(backbone, tiny_pairs, replace(FAST, steps=2, lora_dropout=0.5))
    assert torch.equal(torch.rand(3), expected)


def test_old_checkpoints_go_and_others_are_refused(tiny_llava, tiny_pairs, tmp_path):
    config = replace(FAST, steps=5, checkpoint_every=1)
    run(tiny_llava(), tiny_pairs, config, folder=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004.pt", "step-000005.pt"]
    assert checkpoints.last_step(tmp_path) == 5
    for change in ({"beta": 0.2}, {"train_seed": 7}, {"steps": 6}):
        with pytest.raises(BadInput, match="other settings, pairs or another backbone"):
            run(tiny_llava(), tiny_pairs, replace(config, **change), folder=tmp_path)
    with pytest.raises(BadInput, match="other settings"):
        run(tiny_llava(), tiny_pairs[:-1], config, folder=tmp_path)
    run(tiny_llava(), tiny_pairs, replace(config, log_every=3), folder=tmp_path)


def test_a_loss_that_is_no_number(tiny_llava, tiny_pairs, tmp_path):
    backbone = tiny_llava()
    steps = trainer.steps(backbone, tiny_pairs, replace(FAST, steps=9), folder=tmp_path)
    next(steps)
    good = weights(backbone)
    head = backbone.language_model.lm_head.weight
    head.data[5] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"update 1: .* pairs pair-\d.* saved in .*step-000001"
    ):
        list(steps)
    assert equal(good, weights(backbone))
    assert equal(torch.load(tmp_path / "step-000001.pt", weights_only=True)["adapter"], good)


def test_broken_images_stop_it_with_their_name(tiny_llava, tiny_pairs):
    pairs = [*tiny_pairs[:3], replace(tiny_pairs[3], image="gone.png")]
    with pytest.raises(BadInput, match=r"no image gone\.png"):
        run(tiny_llava(), pairs, FAST)


def test_anything_open_beside_the_adapter_is_refused(tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    backbone.vision.requires_grad_()
    with pytest.raises(ValueError, match="only the language model's LoRA may be trained"):
        run(backbone, tiny_pairs, FAST)


def test_ipo_and_label_smoothing_reach_the_loss(tiny_llava, tiny_pairs):
    (ipo,), _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=1, loss="ipo", beta=0.25))
    assert ipo.metrics["loss"] == 4.0
    (smooth,), _ = run(tiny_llava(), tiny_pairs, replace(FAST, steps=1, label_smoothing=0.2))
    assert smooth.metrics["loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_the_policy_alone_is_in_train_mode(tiny_llava, tiny_pairs):
    seen = []
    training = Training(tiny_llava(), tiny_pairs, FAST, None, "dpo")
    backbone = training.backbone

    class Watched(Policy):
        def forward(self, packed, embeds):
            seen.append(backbone.language_model.training)
            return super().forward(packed, embeds)

    micro = training.prepare(range(2))[0]
    for is_training in (True, False):
        score(
            Watched(backbone),
            backbone,
            micro.packed,
            micro.pixels,
            FAST,
            objective="dpo",
            is_training=is_training,
        )
    assert seen == [True, False] and not backbone.language_model.training


def test_one_ahead_keeps_order_and_raises():
    assert list(loop.one_ahead(lambda x: x * 2, [1, 2, 3])) == [2, 4, 6]
    assert list(loop.one_ahead(str, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(loop.one_ahead(lambda x: 1 / x, [1, 0]))


# --- the stage


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
def stage(tmp_path, tiny_files, tiny_pairs):
    write_jsonl(tmp_path / "prepare" / "pairs.jsonl", tiny_pairs[:8])
    write_jsonl(tmp_path / "prepare" / "held_out.jsonl", tiny_pairs[8:])
    config = replace(FAST, steps=5, checkpoint_every=2, controls="sft")
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
