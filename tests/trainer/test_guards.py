"""Lines on which numbers rest that no other test would miss: scales, weights, masks."""

import os
import socket
from dataclasses import replace

import pytest
import torch

from hadpo import trainer
from hadpo.records import Instruction
from hadpo.trainer.update import Training, Window


def gradient(training, rows, captions=(), *, step=0):
    """Of one update that changes nothing, as one row."""
    training.update(step, training.prepare(rows, captions), 0.0, Window())
    return torch.cat([p.grad.flatten() for p in training.parameters]).clone()


def caption(pair, k):
    return Instruction(
        instruction_id=f"c{k}",
        image_id=pair.image_id,
        image=pair.image,
        instruction="",
        answer="A red cup stands at the left."[: 9 + 5 * k],
        kind="caption",
        source="cc_sbu_align",
    )


def test_gamma_weighs_the_gradient_of_the_captions(fast, tiny_llava, tiny_pairs, float64_norm):
    """gamma times the gradient of the mean loss over the captions, whatever gamma is."""
    captions = [caption(pair, k) for k, pair in enumerate(tiny_pairs[:3])]
    config = replace(fast, max_grad_norm=0, gamma_on="instructions", lora_rank=2)

    def of(gamma):
        settings = replace(config, gamma=gamma)
        model = tiny_llava("float64")
        return Training(model, tiny_pairs, settings, None, "dpo", captions=captions)

    rows, visited = range(4), [0, 1, 2, 1]
    base = gradient(of(0.0), rows)
    sft = replace(config, objective="sft", gamma=0.0, batch_pairs=4)
    asked = [captions[i] for i in visited]
    alone = gradient(Training(tiny_llava("float64"), asked, sft, None, "sft"), range(4))
    assert alone.abs().max() > 1e-4
    for gamma in (0.5, 2.0):
        far = (gradient(of(gamma), rows, visited) - base - gamma * alone).abs().max()
        assert far <= 1e-9 * alone.abs().max(), gamma


def test_the_dropout_of_an_update_is_drawn_from_the_seed_and_its_number(
    fast, tiny_llava, tiny_pairs, monkeypatch
):
    config = replace(fast, lora_dropout=0.5, max_grad_norm=0)

    def of(seed):
        settings = replace(config, train_seed=seed)
        return Training(tiny_llava(), tiny_pairs, settings, None, "dpo")

    training, seeds = of(1), []
    real = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed) or real(seed))
    masks = [gradient(training, range(4), step=step) for step in (0, 1, 0, 2)]
    assert seeds == [(1_000_003 + step) * 1_003 for step in (0, 1, 0, 2)]
    assert torch.equal(masks[0], masks[2])
    far = [(masks[a] - masks[b]).norm() / masks[a].norm() for a, b in ((0, 1), (0, 3), (1, 3))]
    assert min(far) > 0.1  # other elements are dropped, not other digits rounded


def test_each_process_draws_a_dropout_of_its_own(fast, tiny_llava, tiny_pairs, monkeypatch):
    config = replace(fast, lora_dropout=0.5, max_grad_norm=0, train_seed=1)
    training, seeds, masks = Training(tiny_llava(), tiny_pairs, config, None, "dpo"), [], []
    real = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed) or real(seed))
    for rank in (0, 1, 0, 2):
        monkeypatch.setattr(type(training.accelerator), "process_index", rank)
        masks.append(gradient(training, range(4), step=5))
    assert seeds == [(1_000_003 + 5) * 1_003 + rank for rank in (0, 1, 0, 2)]
    assert torch.equal(masks[0], masks[2])
    far = [(masks[a] - masks[b]).norm() / masks[a].norm() for a, b in ((0, 1), (0, 3), (1, 3))]
    assert min(far) > 0.1


PORT_SETTINGS = {"batch_pairs": 3, "micro_batch_pairs": 1, "gamma": 0.5, "max_grad_norm": 0.0}


@pytest.mark.parametrize("gamma_on", ["chosen", "instructions"])
def test_two_processes_average_to_the_gradient_of_one(
    fast, tiny_llava, tiny_pairs, tmp_path, float64_norm, gamma_on
):
    """Three pairs, or captions: one process has two of them, the other one; one gradient."""
    config = replace(fast, steps=1, gamma_on=gamma_on, **PORT_SETTINGS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in "01":
        if not (child := os.fork()):
            code = 1
            try:
                one_of_two(rank, port, config, tiny_llava, tiny_pairs, tmp_path)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0]
    expected, norm = step_of(config, tiny_llava, tiny_pairs)
    for rank in "01":
        found, own_norm = torch.load(tmp_path / rank)
        assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
        assert own_norm == pytest.approx(norm, rel=1e-9)


def one_of_two(rank, port, config, tiny_llava, tiny_pairs, folder):
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):  # of the parent's trainings
        state._reset_state()
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    torch.save(step_of(config, tiny_llava, tiny_pairs), folder / rank)


def step_of(config, tiny_llava, tiny_pairs):
    """The gradient of the first update, and its norm as the log has it."""
    backbone = tiny_llava("float64")
    captions = [caption(pair, k) for k, pair in enumerate(tiny_pairs[:3])]
    captions = captions if config.gamma_on == "instructions" else []
    for step in trainer.steps(backbone, tiny_pairs, config, captions=captions):
        parts = [p.grad.flatten() for p in backbone.parameters() if p.grad is not None]
        return torch.cat(parts).clone(), step.metrics["grad_norm"]
    raise AssertionError("no update")
