"""Which optimizer learns, and what is said where it cannot."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from hadpo import trainer
from hadpo.records import BadInput
from hadpo.trainer import update


def build(named, settings):
    return update.build_optimizer(
        update.parameter_groups(named.items(), settings), settings, device="cpu"
    )


def test_the_two_matrices_of_lora_may_learn_at_different_rates(
    fast, learn, equal, tiny_llava, tiny_pairs
):
    names = ("q_proj.lora_A.default.weight", "q_proj.lora_B.default.weight")
    named = {name: torch.nn.Parameter(torch.zeros(2, 2)) for name in names}
    groups = build(named, replace(fast, lora_b_rate_ratio=16.0)).param_groups
    assert [(g["params"], g["rate_ratio"]) for g in groups] == [
        ([named[names[0]]], 1.0),
        ([named[names[1]]], 16.0),
    ]
    _, plain = learn(tiny_llava(), tiny_pairs, replace(fast, steps=1))
    _, faster = learn(tiny_llava(), tiny_pairs, replace(fast, steps=1, lora_b_rate_ratio=3.0))
    for key, value in plain.items():
        ratio = 3.0 if ".lora_B." in key else 1.0
        assert torch.allclose(faster[key], ratio * value) == (ratio == 3.0 or value.any())


def test_adamw_is_torchs(fast):
    weight, bias = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2,)))
    found = build({"weight": weight, "bias": bias}, replace(fast, weight_decay=0.1))
    assert type(found) is torch.optim.AdamW
    decays = [(group["params"], group["weight_decay"]) for group in found.param_groups]
    assert decays == [([weight], 0.1), ([bias], 0.0)]  # MiniGPT-4's rule: matrices only
    assert {group["lr"] for group in found.param_groups} == {fast.learning_rate}
    (only,) = build({"weight": weight}, fast).param_groups
    assert only["params"] == [weight]


@pytest.mark.parametrize("name", ["paged_adamw_32bit", "adamw_8bit"])
def test_the_others_need_a_gpu(fast, tiny_llava, tiny_pairs, name):
    with pytest.raises(BadInput, match=rf"found {name}, which needs a CUDA device, .* is on cpu"):
        list(trainer.steps(tiny_llava(), tiny_pairs, replace(fast, optimizer=name)))


def test_the_others_need_bitsandbytes(fast, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BadInput, match=r"needs bitsandbytes; install it with .*hadpo\[qlora\]"):
        update.build_optimizer([], replace(fast, optimizer="adamw_8bit"), device="cuda")


@pytest.mark.parametrize(
    ("name", "theirs"), [("paged_adamw_32bit", "PagedAdamW32bit"), ("adamw_8bit", "AdamW8bit")]
)
def test_the_class_of_bitsandbytes(fast, monkeypatch, name, theirs):
    fake = ModuleType("bitsandbytes")
    made = []
    fake.optim = SimpleNamespace(**{theirs: lambda *a, **k: made.append((a, k))})
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    update.build_optimizer([], replace(fast, optimizer=name, weight_decay=0.2), device="cuda")
    assert made == [(([],), {"lr": fast.learning_rate, "weight_decay": 0.2})]
