"""A quantised language model trains and answers; what a device cannot do is refused."""

import subprocess
import sys

import pytest
import torch

from hadpo import adapter, backbones, config, generation, trainer
from hadpo.backbones import choose_precision
from hadpo.generation import Decoding
from hadpo.records import BadInput, Question

pytestmark = pytest.mark.extra
MINI = config.PACKAGE / "mini" / "weights" / "llava"
FILES = {"language_model": MINI / "llava-v1.5-mini", "vision": MINI / "clip-vit-mini"}


def load(quantization, dtype="float32"):
    pytest.importorskip(
        "bitsandbytes", reason="the extra qlora is absent: pip install -e '.[qlora]'"
    )
    return backbones.load("llava/mini", FILES, dtype=dtype, device="cpu", quantization=quantization)


def states(backbone):
    ids = torch.tensor([[1, 5, 9, 13, 40]])
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    with torch.no_grad():
        return backbone.hidden_states(backbone.embed(ids), mask, torch.arange(5)[None]).float()


def test_nf4_trains_and_answers_and_the_vision_tower_stays(tiny_pairs):
    backbone = load("nf4")
    before = {key: value.clone() for key, value in backbone.named_parameters()}
    settings = config.TrainConfig(
        learning_rate=1e-2, batch_pairs=4, micro_batch_pairs=2, lora_rank=4, steps=2
    )
    metrics = [step.metrics for step in trainer.steps(backbone, tiny_pairs, settings)]
    assert metrics[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # policy is reference
    assert metrics[1]["loss"] != metrics[0]["loss"]
    lora = adapter.state(backbone)
    assert any(value.abs().max() > 0 for key, value in lora.items() if "lora_B" in key)
    after = {k.replace(".base_layer.", "."): v for k, v in backbone.named_parameters()}
    for key, value in before.items():
        assert torch.equal(after[key], value), key  # vision, connector and all other frozen weights
    question = Question(
        question_id="a",
        benchmark="pope",
        split="random",
        image_id="0",
        image=tiny_pairs[0].image,
        text="Is there a dog in the image?",
    )
    decoding = Decoding(name="short", max_new_tokens=5)
    answers = list(generation.generate(backbone, [question], decoding, model="tuned"))
    assert len(answers) == 1 and answers[0].tokens > 0
    # On AVX512-BF16 CPUs bitsandbytes would have repacked the weights while it answered.
    assert [step.metrics["loss"] for step in trainer.steps(load("nf4"), tiny_pairs, settings)] == [
        m["loss"] for m in metrics
    ]


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_quantised_states_are_near_the_exact_ones(quantization, dtype):
    exact, found = states(load("none", dtype)), states(load(quantization, dtype))
    error = float((found - exact).norm() / exact.norm())
    assert 0 < error < {"nf4": 0.3, "fp4": 0.4, "int8": 0.06}[quantization]


def test_training_goes_on_after_an_answer(tiny_pairs):
    """A forward without gradient, in evaluation mode, must leave the weights as they are."""
    backbone = load("nf4", "bfloat16")
    states(backbone)
    adapter.attach(backbone, rank=2, alpha=4, targets="q_proj,down_proj")
    ids = torch.tensor([[1, 5, 9]])
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    backbone.hidden_states(backbone.embed(ids), mask, torch.arange(3)[None]).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_a_quantised_model_is_not_merged():
    backbone = load("nf4")
    adapter.attach(backbone, rank=2, alpha=4, targets="q_proj")
    with pytest.raises(ValueError, match="quantization='none'"):
        adapter.merge(backbone)
    adapter.detach(backbone)
    assert torch.equal(states(backbone), states(load("nf4")))


@pytest.mark.parametrize(
    ("dtype", "quantization", "capability", "expected"),
    [
        ("auto", "none", None, "float32"),
        ("auto", "none", (7, 0), "float16"),  # V100
        ("auto", "nf4", (7, 0), "float16"),
        ("auto", "none", (7, 5), "float16"),
        ("auto", "int8", (7, 5), "float16"),
        ("auto", "none", (8, 0), "bfloat16"),  # A100
        ("auto", "int8", (8, 0), "bfloat16"),
        ("auto", "nf4", (9, 0), "bfloat16"),  # H100
        ("float32", "none", (7, 0), "float32"),
        ("float16", "fp4", (8, 0), "float16"),
        ("bfloat16", "none", None, "bfloat16"),
    ],
)
def test_the_rule(dtype, quantization, capability, expected):
    chosen = choose_precision(dtype, quantization, capability)
    assert (chosen.dtype, chosen.quantization) == (expected, quantization)
    assert expected in chosen.why
    assert (quantization in chosen.why) == (quantization != "none")


@pytest.mark.parametrize(
    ("dtype", "quantization", "message"),
    [
        ("bfloat16", "none", "dtype: found 'bfloat16', .* 7.0 .* use float16"),
        ("auto", "int8", "quantization: found 'int8', .* 7.0 .* use nf4"),
    ],
)
def test_what_a_v100_cannot_do(dtype, quantization, message):
    with pytest.raises(BadInput, match=message):
        choose_precision(dtype, quantization, (7, 0))


def test_nothing_is_printed_when_it_is_imported():
    """On some CPUs it warns: "No module named 'kernels'", the first thing that a notebook shows."""
    pytest.importorskip("bitsandbytes", reason="the extra qlora is absent")
    command = [sys.executable, "-c", "import hadpo.adapter, bitsandbytes"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install -e '\.\[qlora\]'"):
        backbones.load("llava/mini", FILES, device="cpu", quantization="nf4")
