"""Prints how far Liger's kernels lie from transformers' modules on mini, in Triton's interpreter.

Their own code runs, in Python on a CPU. The interpreter has two gaps, which are filled here:
numbers that a kernel calls `.to` on, and CUDA's library for the reciprocal square root.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from hadpo import adapter, backbones, config, trainer
from hadpo.generation import Decoding, generate
from hadpo.records import Pair, Question
from hadpo.vlm import kernels

torch.set_num_threads(1)
norms: Any = import_module("liger_kernel.ops.rms_norm")
tl: Any = import_module("triton.language")
interpreter: Any = import_module("triton.runtime.interpreter")
_converted = interpreter._implicit_cvt


def convert(value):
    if not isinstance(value, float):
        return _converted(value)
    handle = interpreter.TensorHandle(np.array([value], np.float32), tl.float32)
    return tl.tensor(handle, tl.float32)


interpreter._implicit_cvt = convert
norms.rsqrt = lambda x: tl.rsqrt(x)  # looked up in a kernel, where it runs

recipe, folder = config.load_recipe(sys.argv[1]), Path(sys.argv[2])
assert recipe.model is not None
backbone, files = recipe.model.backbone, backbones.files_of(recipe, config.resolve_path)
picture = str(folder / "picture.png")
Image.new("RGB", (96, 96), (90, 120, 30)).save(picture)
told = {"image_id": "0", "image": picture}
pair = Pair(
    pair_id="0",
    **told,
    instruction="Describe this image in detail.",
    chosen="There is a red circle.",
    rejected="A blue square is on the left.",
    kind="description",
    source="test",
)
question = Question(
    question_id="0", **told, benchmark="pope", split="random", text="Is there a red circle?"
)
ALL = "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj"
settings = config.TrainConfig(
    steps=2, batch_pairs=1, lora_rank=4, lora_targets=ALL, learning_rate=1e-3, max_length=512
)


launched = set()  # names of the kernels that ran
_run = interpreter.GridExecutor.__call__


def run(self, *args, **kwargs):
    launched.add(self.fn.__name__)
    return _run(self, *args, **kwargs)


interpreter.GridExecutor.__call__ = run


def measured(is_fused):
    model = backbones.load(backbone, files, dtype="float32", device="cpu")
    if is_fused:
        kernels.fuse(model.language_model)
    [answer] = generate(model, [question], Decoding(name="pope", max_new_tokens=6), model="base")
    losses = [step.metrics["loss"] for step in trainer.steps(model, [pair], settings)]
    trained = adapter.state(model)  # B alone: it starts at zero
    moved = [trained[name].flatten() for name in sorted(trained) if ".lora_B." in name]
    return answer.text, losses, torch.cat(moved)


def blocks() -> float:
    """The norm's kernel for many short rows, which a mini model has not: gradient and all."""
    torch.manual_seed(0)
    x, weight, back = torch.randn(4096 * 8, 8), torch.randn(8), torch.randn(4096 * 8, 8)
    found = []
    for norm in (
        lambda x: torch.nn.functional.rms_norm(x, (8,), weight, 1e-6),
        lambda x: kernels._norm(SimpleNamespace(weight=weight, variance_epsilon=1e-6), x),
    ):
        own = x.clone().requires_grad_()
        norm(own).backward(back)
        found.append(own.grad)
    return float((found[0] - found[1]).abs().max())


(text, losses, weights), (own_text, own_losses, own_weights) = measured(False), measured(True)
found = {
    "blocks": blocks(),
    "answers": [text, own_text],
    "losses": [losses, own_losses],
    "weights": float((weights - own_weights).norm() / weights.norm()),
    "launched": sorted(launched),
}
sys.stdout.write(json.dumps(found) + "\n")
