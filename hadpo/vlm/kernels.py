"""Norm, rotary embedding and SwiGLU of a language model as one kernel each: liger-kernel's.

transformers' own modules are the reference, and what runs where no Triton is. A model is changed,
not its classes, so that others of the same process stay as they are.
"""

import functools
import importlib
import inspect
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from hadpo.records import BadInput

# transformers' decoders whose arithmetic these kernels have: float32 inside the norm alone, the
# whole head rotated, SiLU in the gate. Some others round elsewhere (Gemma) or rotate by section
# (Qwen2-VL), the rest was not tested.
_DECODERS = ("LlamaModel", "Qwen3VLTextModel")


def fuse(model: Any) -> None:
    """Let the decoder of a model run Liger's kernels instead of transformers' modules, in place.

    A graph can be walked back once: rotary embedding and SwiGLU overwrite what they have saved.

    Args:
        model: a LLaMA, or a whole model of transformers; an adapter is attached later.

    Raises:
        BadInput: its decoder is none that the kernels are known to equal.
    """
    decoder = model.get_decoder()
    kind, activation = type(decoder).__name__, getattr(decoder.config, "hidden_act", None)
    if kind not in _DECODERS or activation != "silu":
        raise BadInput(
            f"kernels: fused is known to equal {' and '.join(_DECODERS)} with silu, and this is "
            f"{kind} with {activation}; use kernels=plain"
        )
    for module in decoder.modules():
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            module.forward = MethodType(_norm, module)
        elif name.endswith("MLP"):
            module.forward = MethodType(_swiglu, module)
        elif name.endswith("Attention"):
            module.forward = MethodType(_rotating(type(module).forward), module)


@functools.cache
def _liger() -> Any:
    return importlib.import_module("liger_kernel.transformers.functional")


def _norm(self: Any, states: Tensor) -> Tensor:
    # Not in place: others read the gradient that comes in, too, that of the residual.
    return _liger().liger_rms_norm(states, self.weight, self.variance_epsilon, in_place=False)


def _swiglu(self: Any, x: Tensor) -> Tensor:
    return self.down_proj(_liger().liger_swiglu(self.gate_proj(x), self.up_proj(x)))


def _rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    with torch.cuda.device_of(q):  # of the three it is the one that takes the current device
        return _liger().liger_rope(q, k, cos, sin)


def _rotating(forward: Any) -> FunctionType:
    """An attention's `forward` that finds our function under the name of transformers' own."""
    found = inspect.getclosurevars(forward).globals
    if "apply_rotary_pos_emb" not in found:
        raise BadInput(
            f"kernels: {forward.__qualname__} of this version of transformers calls no "
            "apply_rotary_pos_emb; use kernels=plain"
        )
    own = {**forward.__globals__, "apply_rotary_pos_emb": _rotate}
    copied = FunctionType(forward.__code__, own, forward.__name__, forward.__defaults__)
    copied.__kwdefaults__ = forward.__kwdefaults__
    return copied
