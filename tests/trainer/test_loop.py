"""The loop: what an update does, accumulation, and that every setting reaches it."""

import json
import math
from dataclasses import replace

import pytest
import torch

from hadpo import adapter
from hadpo.trainer import loop
from hadpo.trainer.objective import Policy, score
from hadpo.trainer.update import Training, Window
from hadpo.vlm.precision import tf32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_step_0_is_exactly_ln_2(fast, learn, tiny_llava, tiny_pairs, dtype, recompute):
    config = replace(fast, activation_checkpointing=recompute, steps=1)
    (first,), _ = learn(tiny_llava(dtype), tiny_pairs, config)
    assert first.step == 0
    assert first.metrics["loss"] == torch.tensor(2.0).log().item()
    zero = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    assert all(first.metrics[name] == 0 for name in zero)
    assert first.metrics["grad_norm"] > 0


def test_tf32_is_allowed_as_set_while_it_trains(fast, tiny_llava, tiny_pairs):
    matmul = torch.backends.cuda.matmul
    for before, is_set in ((False, True), (True, False)):
        config = replace(fast, steps=1, allow_tf32=is_set)
        with tf32(before):
            seen = [matmul.allow_tf32 for _ in loop.steps(tiny_llava(), tiny_pairs, config)]
            assert (seen, matmul.allow_tf32) == ([is_set], before)
    assert not matmul.allow_tf32


def test_it_learns_and_reports_with_trls_names(fast, learn, tiny_llava, tiny_pairs):
    found, _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=20), held_out=tiny_pairs[:3])
    first, last = found[0].metrics, found[-1].metrics
    assert last["loss"] < 0.5 < first["loss"] and last["rewards/accuracies"] == 1
    names = {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"}
    names |= {"rewards/accuracies", "logps/rejected", "grad_norm", "learning_rate", "lm_loss"}
    assert names | {"preference_loss", "padding", "skipped_updates"} == set(first)
    assert first["skipped_updates"] == last["skipped_updates"] == 0
    assert last["eval_rewards/accuracies"] == 1 and last["eval_loss"] < 0.5
    assert found[-1].epoch == pytest.approx(8)


def test_only_the_adapter_moves(fast, learn, equal, tiny_llava, tiny_pairs):
    before, backbone = tiny_llava().state_dict(), tiny_llava()
    _, trained = learn(backbone, tiny_pairs, replace(fast, activation_checkpointing=True))
    assert all(value.any() for value in trained.values())
    adapter.detach(backbone)
    assert equal(before, backbone.state_dict())
    assert not backbone.training


def test_recomputed_activations_change_nothing(fast, learn, equal, tiny_llava, tiny_pairs):
    _, kept = learn(tiny_llava(), tiny_pairs, fast)
    _, recomputed = learn(tiny_llava(), tiny_pairs, replace(fast, activation_checkpointing=True))
    assert equal(kept, recomputed)


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_micro_batches_change_nothing_in_float64(fast, tiny_llava, tiny_pairs, float64_norm, gamma):
    gradients = []
    for size in (1, 3, 4, 7):  # seven pairs: the last micro-batch is smaller
        config = replace(fast, micro_batch_pairs=size, batch_pairs=7, gamma=gamma, max_grad_norm=0)
        training = Training(tiny_llava("float64"), tiny_pairs, config, None, "dpo")
        window = Window()
        training.update(0, training.prepare(range(7)), 0.0, window)
        gradients.append(torch.cat([p.grad.flatten() for p in training.parameters]))
        assert window.pairs == 7
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() < 1e-12 * gradients[0].abs().max()


def test_gamma_weighs_the_mean_cross_entropy_of_the_chosen_text(
    fast, learn, tiny_llava, tiny_pairs
):
    (plain,), _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=1))
    (found,), _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=1, gamma=0.5))
    expected = plain.metrics["loss"] + 0.5 * plain.metrics["lm_loss"]
    assert found.metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert found.metrics["preference_loss"] == plain.metrics["loss"]


def test_sft_uses_the_same_batches_and_only_the_chosen_texts(fast, learn, tiny_llava, tiny_pairs):
    dpo, _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=1))
    sft, _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=8), objective="sft")
    assert sft[0].metrics["loss"] == pytest.approx(dpo[0].metrics["lm_loss"], rel=1e-5)
    assert sft[-1].metrics["loss"] < sft[0].metrics["loss"]
    assert not any(name.startswith("rewards") for name in sft[0].metrics)
    changed = [replace(pair, rejected="other words") for pair in tiny_pairs]
    again, _ = learn(tiny_llava(), changed, replace(fast, steps=1), objective="sft")
    # the rejected text only decides which pairs share a micro-batch
    assert again[0].metrics["loss"] == pytest.approx(sft[0].metrics["loss"], rel=1e-5)


def test_clipping(fast, tiny_llava, tiny_pairs):
    training = Training(tiny_llava(), tiny_pairs, replace(fast, max_grad_norm=1e-3), None, "dpo")
    window = Window()
    training.update(0, training.prepare(range(4)), 0.0, window)
    norm = torch.cat([p.grad.flatten() for p in training.parameters]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert float(window.latest["grad_norm"]) > 0.01


@pytest.mark.parametrize("log_every", [1, 4])
def test_updates_that_overflow_are_counted_and_change_nothing(
    fast, equal, weights, monkeypatch, tiny_llava, tiny_pairs, log_every
):
    """The scaler of float16; the gradients of updates 0 and 1 are made to overflow."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *given, **rest: scaler)
    backbone, calls = tiny_llava(), []

    def overflow(gradient):
        calls.append(1)
        return gradient * torch.inf if len(calls) <= 4 else gradient  # two micro-batches an update

    parameters = adapter.attach(
        backbone, rank=4, alpha=8.0, targets=fast.lora_targets, seed=fast.train_seed
    )
    parameters[0].register_hook(overflow)
    start, found, states = weights(backbone), [], []
    for step in loop.steps(backbone, tiny_pairs, replace(fast, steps=5, log_every=log_every)):
        found.append(step.metrics)
        states.append(weights(backbone))
    assert found[0]["skipped_updates"] == 1 and found[0]["grad_norm"] is None
    assert equal(start, states[0]) and not equal(start, states[-1])
    assert sum(metrics["skipped_updates"] for metrics in found) == 2
    assert found[-1]["grad_norm"] > 0 and scaler.get_scale() == 256
    json.dumps(found, allow_nan=False)


def test_weight_decay_and_rate_reach_the_optimizer(
    fast, learn, equal, weights, tiny_llava, tiny_pairs
):
    _, plain = learn(tiny_llava(), tiny_pairs, replace(fast, steps=2))
    _, decayed = learn(tiny_llava(), tiny_pairs, replace(fast, steps=2, weight_decay=10.0))
    assert not equal(plain, decayed)
    _, still = learn(tiny_llava(), tiny_pairs, replace(fast, steps=1, warmup_steps=5))
    start = tiny_llava()
    adapter.attach(start, rank=4, alpha=8.0, targets=fast.lora_targets, seed=fast.train_seed)
    assert equal(still, weights(start))  # the first rate of a warm-up is 0


def test_log_every_gives_means_and_always_the_first_and_last(fast, learn, tiny_llava, tiny_pairs):
    every, _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=6))
    some, _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=6, log_every=2))
    assert [step.step for step in some] == [0, 2, 4, 5]
    mean = (every[1].metrics["loss"] + every[2].metrics["loss"]) / 2
    assert some[1].metrics["loss"] == pytest.approx(mean, rel=1e-6)
    assert some[1].metrics["grad_norm"] == every[2].metrics["grad_norm"]


def test_ipo_and_label_smoothing_reach_the_loss(fast, learn, tiny_llava, tiny_pairs):
    (ipo,), _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=1, loss="ipo", beta=0.25))
    assert ipo.metrics["loss"] == 4.0
    (smooth,), _ = learn(tiny_llava(), tiny_pairs, replace(fast, steps=1, label_smoothing=0.2))
    assert smooth.metrics["loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_the_policy_alone_is_in_train_mode(fast, tiny_llava, tiny_pairs):
    seen = []
    training = Training(tiny_llava(), tiny_pairs, fast, None, "dpo")
    backbone = training.backbone

    class Watched(Policy):
        def forward(self, packed, embeds):
            seen.append(backbone.decoder.training)
            return super().forward(packed, embeds)

    micro = training.prepare(range(2))[0]
    for is_training in (True, False):
        score(Watched(backbone), backbone, micro, fast, is_training=is_training)
    assert seen == [True, False] and not backbone.decoder.training


def test_prefetch_keeps_order_and_raises():
    assert list(loop.prefetch(lambda x: x * 2, [1, 2, 3])) == [2, 4, 6]
    assert list(loop.prefetch(str, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(loop.prefetch(lambda x: 1 / x, [1, 0]))
