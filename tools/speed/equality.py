"""Before any time is measured: everybody computes the same loss and the same gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hadpo.records import BadInput
from tools.speed import models, steps

LOSS, GRADIENT = 1e-12, 1e-10  # what ours must reach in float64; gradients relative
_PEERS = (steps.TRL, steps.TRL_COMPACTION, steps.LIGER)  # they compute in float32 inside
_PEER_LOSS, _PEER_GRADIENT = 1e-5, 1e-4


def measure(geometry: str = "tiny") -> dict[str, dict[str, float]]:
    """Each step against two rows with all logits, in float64, on ragged pairs of two images.

    Returns:
        step -> absolute difference of the loss, and the largest difference of a gradient, relative
        to the largest gradient of its weight.

    Raises:
        BadInput: one of them is not equal; its time would mean nothing.
    """
    sizes = models.GEOMETRIES[geometry]
    wanted = [name for name, reason in steps.available(sizes).items() if not reason]
    found: dict[str, dict[str, float]] = {}
    with float64_norm():
        backbone = models.build(sizes, dtype=torch.float64)
        examples = models.pairs(sizes, "desc", 4, images=2, is_ragged=True)
        pixels = models.draw_pixels(sizes, 2, dtype=torch.float64)
        ways = steps.Steps(backbone, sizes, examples, pixels, wanted)
        expected_loss = ways.step(steps.ORIGINAL)
        expected = {k: v.clone() for k, v in ways.gradients(steps.ORIGINAL).items()}
        for name in wanted:
            if name != steps.ORIGINAL:
                loss = abs(ways.step(name) - expected_loss)
                found[name] = {"loss": loss, "gradient": gap(ways.gradients(name), expected)}
    for name, gaps in found.items():
        limits = (_PEER_LOSS, _PEER_GRADIENT) if name in _PEERS else (LOSS, GRADIENT)
        if gaps["loss"] > limits[0] or gaps["gradient"] > limits[1]:
            raise BadInput(f"{name}: not equal to two rows with all logits: {gaps}")
    return found


def gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a gradient, relative to the largest of its weight.

    Raises:
        BadInput: they are of other weights.
    """
    if found.keys() != expected.keys():
        raise BadInput(f"gradients of other weights: {sorted(found.keys() ^ expected.keys())[:4]}")
    gaps = [(found[k] - v).abs().max() / v.abs().max() for k, v in expected.items()]
    return float(torch.stack(gaps).max())


@contextlib.contextmanager
def float64_norm() -> Iterator[None]:
    """RMSNorm in the numbers of its input; transformers' own rounds to float32 inside."""
    default = LlamaRMSNorm.forward

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))

    LlamaRMSNorm.forward = forward
    try:
        yield
    finally:
        LlamaRMSNorm.forward = default
