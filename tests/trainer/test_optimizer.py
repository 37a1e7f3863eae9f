"""Which optimizer learns, and what is said where it cannot."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from hadpo import trainer
from hadpo.records import BadInput
from hadpo.trainer import optimizer


def test_adamw_is_torchs(fast):
    weight, bias = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2,)))
    found = optimizer.build([weight, bias], replace(fast, weight_decay=0.1), device="cpu")
    assert type(found) is torch.optim.AdamW
    decays = [(group["params"], group["weight_decay"]) for group in found.param_groups]
    assert decays == [([weight], 0.1), ([bias], 0.0)]  # MiniGPT-4's rule: matrices only
    assert {group["lr"] for group in found.param_groups} == {fast.learning_rate}
    (only,) = optimizer.build([weight], fast, device="cpu").param_groups
    assert only["params"] == [weight]


@pytest.mark.parametrize("name", ["paged_adamw_32bit", "adamw_8bit"])
def test_the_others_need_a_gpu(fast, tiny_llava, tiny_pairs, name):
    with pytest.raises(BadInput, match=rf"found {name}, which needs a CUDA device, .* is on cpu"):
        list(trainer.steps(tiny_llava(), tiny_pairs, replace(fast, optimizer=name)))


def test_the_others_need_bitsandbytes(fast, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BadInput, match=r"needs bitsandbytes; install it with .*hadpo\[qlora\]"):
        optimizer.build([], replace(fast, optimizer="adamw_8bit"), device="cuda")


@pytest.mark.parametrize(
    ("name", "theirs"), [("paged_adamw_32bit", "PagedAdamW32bit"), ("adamw_8bit", "AdamW8bit")]
)
def test_the_class_of_bitsandbytes(fast, monkeypatch, name, theirs):
    fake = ModuleType("bitsandbytes")
    made = []
    fake.optim = SimpleNamespace(**{theirs: lambda *a, **k: made.append((a, k))})
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    optimizer.build([], replace(fast, optimizer=name, weight_decay=0.2), device="cuda")
    assert made == [(([],), {"lr": fast.learning_rate, "weight_decay": 0.2})]
