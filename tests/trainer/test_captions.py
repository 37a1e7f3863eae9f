"""The auxiliary term on captions of their own: weight, order, and where they come from."""

from dataclasses import replace

import pytest
import torch

from hadpo import runs, trainer
from hadpo.records import BadInput, Instruction, write_jsonl
from hadpo.trainer import order
from hadpo.trainer.update import Training, Window


@pytest.fixture
def captions(tiny_pairs):
    words = ["A", "red", "cup", "stands", "at", "the", "top", "left", "of", "a", "grey", "table."]
    return [
        Instruction(
            instruction_id=f"caption-{k}",
            image_id=str(k),
            image=tiny_pairs[k].image,
            instruction="",
            answer=" ".join(words[: 3 + 2 * k]),
            kind="caption",
            source="cc_sbu_align",
        )
        for k in range(3)
    ]


def test_the_loss_is_the_preference_and_gamma_times_the_mean_over_captions(
    fast, learn, equal, tiny_llava, tiny_pairs, captions
):
    config = replace(fast, steps=1, gamma=0.5, gamma_on="instructions", lora_rank=2)
    (both,), apart = learn(tiny_llava(), tiny_pairs, config, captions=captions)
    (alone,), plain = learn(tiny_llava(), tiny_pairs, replace(config, gamma=0.0))
    assert both.metrics["preference_loss"] == alone.metrics["loss"]
    expected = alone.metrics["loss"] + 0.5 * both.metrics["auxiliary_loss"]
    assert both.metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert both.metrics["lm_loss"] == alone.metrics["lm_loss"]  # of the chosen answers, as ever
    assert not equal(apart, plain)
    visited = [captions[i] for i in order.captions(3, [range(4)], config)[0]]
    sft = replace(config, objective="sft", batch_pairs=4)
    training = Training(tiny_llava(), visited, sft, None, "sft")
    window = Window()
    training.update(0, training.prepare(range(4)), 0.0, window)
    mean = window.read(training.accelerator)["loss"]
    assert both.metrics["auxiliary_loss"] == pytest.approx(mean, rel=1e-5)


def test_gradients_do_not_depend_on_the_micro_batches(
    fast, tiny_llava, tiny_pairs, captions, float64_norm
):
    gradients = []
    for size in (1, 3, 7):
        config = replace(fast, micro_batch_pairs=size, batch_pairs=7, gamma=0.5, max_grad_norm=0)
        config = replace(config, gamma_on="instructions")
        training = Training(
            tiny_llava("float64"), tiny_pairs, config, None, "dpo", captions=captions
        )
        training.update(0, training.prepare(range(7), [0, 1, 2, 2, 1, 0, 0]), 0.0, Window())
        gradients.append(torch.cat([p.grad.flatten() for p in training.parameters]))
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() < 1e-12 * gradients[0].abs().max()


def test_as_many_captions_as_pairs_in_shuffled_passes(fast):
    plan = [range(4), range(4), range(1)]
    found = order.captions(3, plan, fast)
    assert [len(part) for part in found] == [4, 4, 1]
    stream = [i for part in found for i in part]
    assert sorted(stream[:3]) == sorted(stream[3:6]) == sorted(stream[6:9]) == [0, 1, 2]
    assert found == order.captions(3, plan, fast)


def test_a_restart_learns_from_the_same_captions(
    fast, learn, equal, tiny_llava, tiny_pairs, captions, tmp_path
):
    config = replace(fast, steps=4, checkpoint_every=2, gamma=0.5, gamma_on="instructions")
    _, expected = learn(tiny_llava(), tiny_pairs, config, captions=captions)
    steps = trainer.steps(tiny_llava(), tiny_pairs, config, folder=tmp_path, captions=captions)
    for step in steps:
        if step.step == 2:
            break
    del steps
    given = {"folder": tmp_path, "captions": captions}
    rest, found = learn(tiny_llava(), tiny_pairs, config, **given)
    assert [step.step for step in rest] == [2, 3] and equal(found, expected)
    with pytest.raises(BadInput, match="a training with other pairs"):
        learn(tiny_llava(), tiny_pairs, config, folder=tmp_path, captions=captions[:2])


def test_they_come_from_the_stage_prepare(tiny_run, captions):
    recipe, folder = tiny_run(gamma=0.5, gamma_on="instructions", steps=1)
    run = runs.open_run("train", recipe, "a", {})
    with pytest.raises(BadInput, match=r"gamma_on: instructions, but there is no .*instructions\."):
        list(trainer.train(run))
    write_jsonl(folder / "prepare" / "instructions.jsonl", captions)
    assert trainer.plan(run)["captions"] == 3
    (step,) = trainer.train(run)
    assert step.metrics["auxiliary_loss"] > 0
    assert "prepare/instructions.jsonl" in run.manifest.facts["inputs"]
