"""A linear layer with LoRA as one function, in the numbers of the frozen weights.

peft computes the adapter in float32 and adds it in float32, whatever the base is: on a GPU slow
products, and twice the traffic. Here x W^T + s (x A^T) B^T is computed in the base's numbers. A and
B stay float32 parameters, as the optimizer needs them; their copies in the base's numbers are made
once per update. Of the activations x alone is kept; the backward pass computes x A^T again.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import layer as peft_layer
from torch import Tensor, nn


class LoraLinear(torch.autograd.Function):
    """y = x W^T + bias + scale (x A^T) B^T; gradients of x, A and B, the latter in their dtype."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        copies: tuple[Tensor, Tensor],
        scale: float,
    ) -> Tensor:
        """The layer's output; `copies` are `a` and `b` in the dtype of x."""
        rows = x.reshape(-1, x.shape[-1])
        y = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        y.addmm_(rows @ copies[0].T, copies[1].T, alpha=scale)
        ctx.save_for_backward(x, weight, *copies)
        ctx.scale, ctx.exact = scale, a.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B; the frozen weight and bias have none."""
        x, weight, a, b = ctx.saved_tensors
        rows, out = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        inner = out @ b
        of_a = _product(inner.T, rows, ctx.scale).to(ctx.exact)
        of_b = _product(out.T, rows @ a.T, ctx.scale).to(ctx.exact)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (out @ weight).addmm_(inner, a, alpha=ctx.scale).view_as(x)
        return of_x, None, None, of_a, of_b, None, None


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Scale (a b), scaled before it is written; `beta` 0 reads nothing of the first matrix."""
    return torch.addmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def install(model: nn.Module) -> None:
    """Compute the LoRA layers of a model as `LoraLinear`, of those that it can compute.

    peft keeps those with dropout, on quantised weights, and the output layer's, which is no layer
    here but a weight.
    """
    for name, module in model.named_modules():
        if type(module) is not peft_layer.Linear or name.endswith("lm_head"):
            continue
        (adapter,) = module.lora_A
        is_plain = type(module.get_base_layer()) is nn.Linear
        if is_plain and not isinstance(module.lora_dropout[adapter], nn.Dropout):
            module.forward = MethodType(_forward, module)


def cast_each_time(model: nn.Module) -> None:
    """Keep no copies between two passes: sharded parameters are whole within one pass only."""
    for module in model.modules():
        module.__dict__.pop("kept_copies", None)
        module.__dict__["keeps_copies"] = False


def _forward(self: Any, x: Tensor) -> Tensor:
    base = self.get_base_layer()
    if self.disable_adapters:
        return base(x)
    (name,) = self.lora_A
    a, b = self.lora_A[name].weight, self.lora_B[name].weight
    copies = _copies(self, a, b, x.dtype)
    return LoraLinear.apply(x, base.weight, base.bias, a, b, copies, self.scaling[name])  # pyright: ignore[reportReturnType]


def _copies(layer: Any, a: Tensor, b: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A and B in another dtype; made anew when one of them was written to, or put elsewhere."""
    if a.dtype == dtype:
        return a.detach(), b.detach()
    places = (0, 0) if a.device.type == "meta" else (a.data_ptr(), b.data_ptr())
    key = (a._version, b._version, *places, dtype)
    key_then, copies = layer.__dict__.get("kept_copies", (None, None))
    if key_then == key and copies is not None:
        return copies
    with torch.no_grad():
        copies = a.to(dtype), b.to(dtype)
    if layer.__dict__.get("keeps_copies", True):
        layer.__dict__["kept_copies"] = (key, copies)
    return copies
