"""Language models in 4 or 8 bits, by bitsandbytes: the linear layers between embedding and head.

The layers are found by where they are, below `language_model.model.layers`, and never by a list of
names to skip: names of vision towers have changed, and a list that misses them quantises them too.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from hadpo.records import BadInput

_OUTLIERS = 6.0  # LLM.int8(): input columns with a larger value stay in 16 bits


def replace(model: LlamaForCausalLM, quantization: str, *, dtype: torch.dtype) -> None:
    """Put quantised layers, still empty, in place of the linear ones; `placed` fills them.

    Args:
        model: on the meta device.
        quantization: "none" leaves it as it is; or "nf4", "fp4", "int8".
        dtype: that the layers compute in.

    Raises:
        BadInput: bitsandbytes is not installed.
    """
    if quantization == "none":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput(
            f"quantization: {quantization} needs bitsandbytes; pip install -e '.[qlora]'"
        )
    for name, layer in list(model.model.layers.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(
                model.model.layers.get_submodule(parent), last, _empty(layer, quantization, dtype)
            )
    # How peft learns which kind of layer it wraps.
    setattr(model, "is_loaded_in_8bit" if quantization == "int8" else "is_loaded_in_4bit", True)


def is_quantised(model: nn.Module) -> bool:
    """Whether `replace` has changed it."""
    flags = ("is_loaded_in_4bit", "is_loaded_in_8bit")
    return any(getattr(model, flag, False) for flag in flags)


def placed(
    wanted: nn.Parameter, value: Tensor, *, dtype: torch.dtype, device: torch.device
) -> nn.Parameter:
    """The frozen parameter that takes the place of the empty `wanted`; quantised where that is."""
    if type(wanted) is nn.Parameter:
        copied = value.to(device=device, dtype=dtype, copy=True)
        return nn.Parameter(copied, requires_grad=False)
    kind: Any = type(wanted)  # of bitsandbytes: it quantises when it is moved to its device
    if hasattr(wanted, "quant_type"):
        names = ("quant_type", "compress_statistics", "module")
        fields = {name: getattr(wanted, name) for name in names}
    else:
        fields = {"has_fp16_weights": False}
    return kind(value.to(dtype), requires_grad=False, **fields).to(device)


def _empty(layer: nn.Linear, quantization: str, dtype: torch.dtype) -> nn.Module:
    # Imported here: most models are not quantised, and its import takes a while.
    from bitsandbytes.nn import modules

    sizes = (layer.in_features, layer.out_features, layer.bias is not None)
    if quantization == "int8":
        return modules.Linear8bitLt(
            *sizes, has_fp16_weights=False, threshold=_OUTLIERS, device="meta"
        )
    made = modules.Linear4bit(*sizes, compute_dtype=dtype, quant_type=quantization, device="meta")
    # On some CPUs a forward without gradient would repack the weights, and training fails after it.
    made.support_avx512bf16_for_cpu = False
    return made
