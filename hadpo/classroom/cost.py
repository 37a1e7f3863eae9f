"""What a pair costs: one packed row, against the same two answers in rows of their own."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hadpo import adapter, batch
from hadpo.batch import Example
from hadpo.figures import Figure, cost_bars
from hadpo.vlm.backbone import Backbone


@dataclass(frozen=True)
class Cost:
    """Of some pairs, forward and backward."""

    way: str
    tokens: int  # positions that are read
    seconds: float  # the median of the repetitions
    activation_bytes: int  # kept for the backward pass

    @staticmethod
    def figure(costs: "Sequence[Cost]", *, is_mini: bool) -> Figure:
        """Both ways beside each other."""
        return cost_bars([asdict(cost) for cost in costs], is_mini=is_mini)


def cost_of(model: Backbone, examples: Sequence[Example], *, repeats: int = 5) -> list[Cost]:
    """Measured here and now, with an adapter that is taken out again afterwards."""
    adapter.attach(model, rank=8, alpha=16, targets="q_proj,v_proj")
    try:
        both = [("chosen",), ("rejected",)]
        return [
            _measured("two rows a pair", model, examples, both, repeats),
            _measured("one packed row", model, examples, [("chosen", "rejected")], repeats),
        ]
    finally:
        adapter.detach(model)


def _measured(
    way: str, model: Backbone, examples: Sequence[Example], rows: Sequence[Any], repeats: int
) -> Cost:
    packs = [batch.pack(examples, sides=sides) for sides in rows]
    seconds = []
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for _ in range(repeats):
        kept.clear()
        started = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logps = [_logps(model, packed) for packed in packs]
            torch.stack([each.sum() for each in logps]).sum().backward()
        seconds.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    tokens = sum(int((packed.mask.diagonal(dim1=-2, dim2=-1)).sum()) for packed in packs)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(size for place, size in kept.items() if place not in own)
    return Cost(way, tokens, statistics.median(seconds), activations)


def _logps(model: Backbone, packed: batch.Packed) -> torch.Tensor:
    embeds = batch.embed(model, packed, batch.read_pixels(model, packed.images))
    return batch.answer_logps(model, packed, embeds)
