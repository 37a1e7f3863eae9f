"""Fused kernels: Liger's code equals the plain modules, changes one model, is refused in words."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hadpo
from hadpo import backbones, config
from hadpo.doctor import machine
from hadpo.records import BadInput
from hadpo.vlm import kernels, precision


def load(name: str, **more):
    recipe = config.load_recipe(name)
    assert recipe.model is not None
    files = backbones.files_of(recipe, config.resolve_path)
    return backbones.load(recipe.model.backbone, files, dtype="float32", device="cpu", **more)


@pytest.mark.extra
@pytest.mark.parametrize("recipe", ["mini/llava", "mini/hf"])
def test_ligers_kernels_answer_and_train_as_the_plain_modules(recipe: str, tmp_path: Path):
    """Their code itself, run by Triton's interpreter, in a process of its own."""
    pytest.importorskip("liger_kernel", reason="extra fused is absent: pip install -e '.[fused]'")
    program = [sys.executable, str(Path(__file__).with_name("interpreted.py")), recipe]
    done = subprocess.run(
        [*program, str(tmp_path)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    # Norm (row by row, and blocks of many short rows) and SwiGLU there and back, one of rotary.
    assert len(found["launched"]) == 7
    assert found["blocks"] < 1e-5
    plain, fused = found["answers"]
    assert fused == plain
    plain, fused = found["losses"]
    assert plain[-1] < 0.6  # it did learn
    assert fused == pytest.approx(plain, rel=1e-5)
    assert found["weights"] < 1e-3  # Adam magnifies what rounding does to the smallest gradients


def test_one_model_is_changed_and_no_other():
    from transformers.models.llama import modeling_llama

    rotate = modeling_llama.apply_rotary_pos_emb
    fused, plain = load("mini/llava"), load("mini/llava")
    kernels.fuse(fused.language_model)
    own = {type(m).__name__ for m in fused.modules() if "forward" in vars(m)}
    assert own == {"LlamaRMSNorm", "LlamaMLP", "LlamaAttention"}
    assert not [m for m in plain.modules() if "forward" in vars(m)]
    assert modeling_llama.apply_rotary_pos_emb is rotate


def test_a_decoder_that_they_do_not_equal_is_refused(monkeypatch):
    model = load("mini/llava").language_model
    monkeypatch.setattr(model.config, "hidden_act", "gelu")
    with pytest.raises(BadInput, match="silu, and this is LlamaModel with gelu"):
        kernels.fuse(model)
    silent = SimpleNamespace(config=SimpleNamespace())  # as Gemma's, which names it otherwise
    with pytest.raises(BadInput, match="SimpleNamespace with None; use kernels=plain"):
        kernels.fuse(SimpleNamespace(get_decoder=lambda: silent))
    monkeypatch.setattr(kernels, "_DECODERS", ("Qwen3VLTextModel",))
    with pytest.raises(BadInput, match="use kernels=plain"):
        kernels.fuse(model)


@pytest.mark.parametrize(
    ("capability", "is_there", "words"),
    [
        (None, True, "this is a CPU; use kernels=plain"),
        ((7, 0), True, "this is a GPU of 7.0; use kernels=plain"),
        ((8, 0), False, "pip install -e '.[fused]'"),
    ],
)
def test_where_they_cannot_run_they_are_refused(monkeypatch, capability, is_there, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_there else None)
    with pytest.raises(BadInput) as refused:
        precision.check_kernels(capability)
    assert str(refused.value).endswith(words)


def test_load_and_doctor_say_the_same():
    with pytest.raises(BadInput, match="Triton needs a GPU") as refused:
        load("mini/llava", kernels="fused")
    with pytest.raises(BadInput, match="Triton needs a GPU"):
        hadpo.load("mini/llava", kernels="fused")
    with pytest.raises(BadInput, match="found 'fast', expected plain or fused"):
        hadpo.load("mini/llava", kernels="fast")
    recipe = config.load_recipe("llava-1.5-7b", {"kernels": "fused"})
    [found] = [c for c in machine.memory_checks(recipe, None) if c.what == "kernels"]
    assert found.status == "broken"
    assert f"{found.found}; {found.fix}" == str(refused.value)
    assert "kernels" not in {
        c.what for c in machine.memory_checks(config.load_recipe("llava-1.5-7b"), None)
    }


def test_kept_numbers_of_fused_kernels_are_not_those_of_plain_modules(tmp_path: Path):
    from hadpo.trainer import reference

    model = load("mini/llava")
    plain = reference._facts(model)
    model.kernels = "fused"
    fused = reference._facts(model)
    assert (plain["kernels"], fused["kernels"]) == ("plain", "fused")
    with pytest.raises(BadInput, match="kernels: fused there, plain here"):
        reference.refuse_other(Path("cache"), "log-probabilities", fused, plain)
    older = {name: value for name, value in plain.items() if name != "kernels"}
    reference.refuse_other(Path("cache"), "log-probabilities", older, plain)
    with pytest.raises(BadInput, match="kernels: plain there, fused here"):
        reference.refuse_other(Path("cache"), "log-probabilities", older, fused)
    reference.FeatureCache(model, tmp_path, 0.0)  # features are those of either
    model.kernels = "plain"
    reference.FeatureCache(model, tmp_path, 0.0)
