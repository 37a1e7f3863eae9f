"""The device and the precision of a model: the rule, and why it says so.

Importing this file needs no torch: the doctor and the judges ask it where there is none.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hadpo.cost import BITS
from hadpo.records import BadInput

if TYPE_CHECKING:
    import torch

_AMPERE = (8, 0)  # the first with tensor cores for bfloat16 (A100)
_TURING = (7, 5)  # the first that LLM.int8() runs on; V100 is 7.0


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The weights' `dtype`, the format of the language model's linear layers, and the reason."""

    dtype: str
    quantization: str
    why: str


def choose_precision(
    dtype: str, quantization: str, capability: tuple[int, int] | None
) -> Precision:
    """What the settings come to on a GPU of a capability, for example (7, 0), or on a CPU: None.

    Raises:
        BadInput: the device cannot do it; says what it can.
    """
    where = (
        "a CPU" if capability is None else f"a GPU of capability {'.'.join(map(str, capability))}"
    )
    is_early = capability is not None and capability < _AMPERE
    if dtype == "auto":
        chosen = "float32" if capability is None else "float16" if is_early else "bfloat16"
        why = {
            "float32": "exact, and as fast as 16 bits there",
            "float16": "no bfloat16 before 8.0 (A100)",
            "bfloat16": "the range of float32 at half the memory",
        }[chosen]
        why = f"auto: {chosen} on {where}: {why}"
    elif dtype == "bfloat16" and is_early:
        raise BadInput(
            f"dtype: found 'bfloat16', but {where} has no bfloat16 (8.0, an A100, is the first "
            "that has); use float16, or the recipe's -v100 twin"
        )
    else:
        chosen, why = dtype, f"{dtype}: as set"
    if quantization == "int8" and capability is not None and capability < _TURING:
        raise BadInput(
            f"quantization: found 'int8', but {where} has no int8 tensor cores (7.5 is the first "
            "that has); use nf4"
        )
    if quantization != "none":
        why += f"; {quantization}: {BITS[quantization]:.3g} bits a weight of the language model"
    return Precision(dtype=chosen, quantization=quantization, why=why)


def choose_dtype(dtype: str, device: torch.device, quantization: str = "none") -> torch.dtype:
    """The dtype of a model's weights on a device, as `choose_precision` says; BadInput as there."""
    import torch

    return getattr(torch, choose_precision(dtype, quantization, capability(device)).dtype)


def capability(device: torch.device) -> tuple[int, int] | None:
    """Of a GPU, for example (8, 0); None for a CPU."""
    import torch

    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def check_kernels(capability: tuple[int, int] | None) -> None:
    """Refuse fused kernels where Triton does not run, or where liger-kernel is not installed.

    Raises:
        BadInput: a CPU, a GPU before 8.0 (which Triton does not support), or no such package.
    """
    if capability is None or capability < _AMPERE:
        where = "a CPU" if capability is None else f"a GPU of {'.'.join(map(str, capability))}"
        raise BadInput(
            f"kernels: found 'fused', but Triton needs a GPU of capability 8.0 (A100) or later, "
            f"and this is {where}; use kernels=plain"
        )
    if importlib.util.find_spec("liger_kernel") is None:
        raise BadInput("kernels: fused needs liger-kernel; pip install -e '.[fused]'")


def choose_device(device: str) -> torch.device:
    """The device that a setting names: "cpu", "cuda", or "auto", which is cuda if torch sees one.

    Raises:
        BadInput: this machine has no such device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(
            f"device: found {device!r}, but torch sees no CUDA device here; use auto or cpu"
        )
    if device == "cuda":  # of several processes on one machine, each has its own
        return torch.device(device, int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(device)


@contextmanager
def tf32(is_allowed: bool) -> Iterator[None]:
    """A GPU's float32 products may round their inputs to TF32, or not; then as it was before."""
    import torch

    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, is_allowed
    try:
        yield
    finally:
        matmul.allow_tf32 = before
