"""The cost model: operations as spec'd, on a shape whose numbers are known."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hadpo import batch, runs, trainer
from hadpo.trainer import planning
from hadpo.trainer.objective import SIDES


def row(prefix, chosen, rejected, k=1):
    """`k` pairs of one image; their prefixes share all but ten positions."""
    return [
        batch.Example(
            pair_id=str(i),
            kind="pope",
            image="a.png",
            instruction="",
            prefix=(*[-1] * (prefix - 10), *[i] * 10),
            chosen=tuple(range(chosen)),
            rejected=tuple(range(rejected)),
            cut=0,
        )
        for i in range(k)
    ]


@pytest.fixture
def llava_7b(fast):
    """LLaMA-7B with LLaVA's vision: 12.95 GFLOP a position, 0.40 TFLOP an image."""
    settings = replace(fast, pairs_per_row=4, micro_batch_pairs=4)
    width, inner, depth, vocabulary = 4096, 11008, 32, 32000
    return lambda **changes: planning._Cost(
        linear=2 * (4 * width**2 + 3 * width * inner) * depth,
        attention=4 * width * depth,
        head=2 * width * vocabulary,
        lora=0.0,
        vision=0.40e12,
        settings=replace(settings, **changes),
    )


@pytest.mark.parametrize(
    ("pair", "reference", "expected"),  # 10^12 operations of a pair
    [
        ((616, 100, 100), "adapter_off", 33.0),
        ((616, 12, 12), "adapter_off", 25.8),
        ((616, 100, 100), "cache", 22.2),  # before the trim of the last layer
        ((616, 12, 12), "cache", 17.3),
    ],
)
def test_operations_of_llava_7b(llava_7b, pair, reference, expected):
    found = llava_7b(reference=reference).micro_batch([row(*pair)], "dpo") / 1e12
    assert found == pytest.approx(expected, rel=0.02)


def test_recomputing_is_one_more_pass(llava_7b):
    with_it = llava_7b(activation_checkpointing=True).micro_batch([row(616, 100, 100)], "dpo")
    assert with_it / 1e12 == pytest.approx(43.8, rel=0.02)


def test_four_pairs_of_one_image_share_its_tokens(llava_7b):
    found = llava_7b().micro_batch([row(616, 12, 12, k=4)], "dpo") / 4e12
    assert found == pytest.approx(7.8, rel=0.1)
    one = batch.pack_rows([row(30, 3, 2, k=3)])
    positions, looks, answers = planning._sizes(row(30, 3, 2, k=3), SIDES["dpo"])
    assert (positions, answers) == (one.num_tokens, 15)
    real = torch.zeros(one.ids.shape[1], dtype=torch.bool)
    real[: one.num_tokens] = True
    assert looks == int((one.mask[0, 0] & real[:, None] & real[None]).sum())


def test_rates(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    rate, said = planning._rate(SimpleNamespace(type="cuda"))
    assert rate == pytest.approx(162, rel=0.01) and "52 % of 312" in said
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Something new")
    assert planning._rate(SimpleNamespace(type="cuda")) == (0.0, "Something new")


def test_a_plan_says_time_and_memory(tiny_run):
    recipe, _ = tiny_run(reference="cache", vision_cache_gb=0.5)
    found = trainer.plan(runs.open_run("train", recipe, "a", {}))
    assert found["tera_operations"] >= 0 and found["memory_gb"] > 0
    assert found["hours"] < 1 and "GFLOP/s" in found["rate"]
    assert found["vision_cache"] == "0 images, 0 of 0.5 GB" and found["processes"] == "1 (ddp)"
