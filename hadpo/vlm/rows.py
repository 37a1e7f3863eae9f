"""Prompts as a class reads them, and answers behind them, as rows for its decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadpo.vlm import decoder
from hadpo.vlm.decoder import FULL, Packed, Span
from hadpo.vlm.reading import Reading


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the decoder reads, and where in it the states lie that predict the answers."""

    embeds: Float[Tensor, "rows length width"]
    masks: Mapping[str, Tensor]  # by kind of layer
    positions: Int[Tensor, "axes rows length"]
    extras: Mapping[str, Any]
    sources: Int[Tensor, " tokens"]


@torch.no_grad()
def packed(
    layout: Packed,
    readings: Sequence[Reading],
    embedding: Callable[[Tensor], Tensor],
    kinds: Mapping[str, int],
    extras: Mapping[str, Any],
) -> Rows:
    """Rows of prompt and answers: the prompt as it was read, each answer right behind it.

    On every axis, token j of either answer stands at the prompt's next position + j. It sees the
    prompt, and its own answer causally; in a layer with a window, what is near by position.
    `kinds` are those of layers -> window; `embedding` is the layer: some scale what they look up.
    """
    device = readings[0].embeds.device
    ids = layout.ids.to(device)
    embeds = embedding(ids.clamp(min=0)).clone()
    positions = ids.new_zeros(len(readings[0].positions), *ids.shape)
    masks = {kind: layout.mask.to(device).clone() for kind in kinds}
    is_answer = torch.zeros_like(ids, dtype=torch.bool)
    pictures = Pictures(is_answer)
    for span in layout.spans:
        reading, row, at = readings[span.pair], span.row, slice(span.start, span.end)
        count = span.end - span.start
        if span.first < 0:
            steps = torch.arange(count, device=device)
            positions[:, row, at] = reading.next_position + steps
            is_answer[row, at] = True
        elif count:
            part = slice(span.first, span.first + count)
            embeds[row, at] = reading.embeds[part]
            positions[:, row, at] = reading.positions[:, part]
            for kind, mask in masks.items():
                mask[row, 0, at, at] = reading.masks[kind][part, part]
                mask[row, 0, at, : span.first] = reading.masks[kind][part, : span.first]
            pictures.add(reading, span, part)
    for kind, window in kinds.items():
        if window:
            near = decoder.is_near(positions[0], positions[0], window)
            masks[kind] &= near | ~is_answer[:, None, :, None]
    return Rows(
        embeds=embeds,
        masks=masks,
        positions=positions,
        extras={**extras, **pictures.extras()},
        sources=layout.sources.to(device),
    )


@torch.no_grad()
def apart(
    readings: Sequence[Reading],
    answers: Sequence[tuple[int, Tensor]],
    embedding: Callable[[Tensor], Tensor],
    kinds: Mapping[str, int],
    *,
    is_hybrid: bool,
) -> Rows:
    """One row per answer (pair, ids), filled up on the right; without any, the first prompt alone.

    The decoder of a hybrid makes its own masks of which positions are real.
    """
    device = readings[0].embeds.device
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    texts = [(readings[pair], ids.to(device)) for pair, ids in answers or [(0, nothing)]]
    length = max(reading.embeds.shape[0] + len(ids) for reading, ids in texts)
    embeds = texts[0][0].embeds.new_zeros(len(texts), length, texts[0][0].embeds.shape[1])
    positions = nothing.new_zeros(len(texts[0][0].positions), len(texts), length)
    real = torch.zeros(len(texts), length, dtype=torch.long, device=device)
    pictures, sources = Pictures(real.bool()), []
    for row, (reading, ids) in enumerate(texts):
        start = reading.embeds.shape[0]
        end = start + len(ids)
        embeds[row, :start] = reading.embeds
        embeds[row, start:end] = embedding(ids)
        positions[:, row, :start] = reading.positions
        steps = torch.arange(len(ids), device=device)
        positions[:, row, start:end] = reading.next_position + steps
        real[row, :end] = 1
        pictures.add(reading, Span(row=row, start=0, end=start, pair=row), slice(0, start))
        sources.append(row * length + start - 1 + steps)
    masks: dict[str, Tensor] = {FULL: real}
    if not is_hybrid:
        masks = {
            kind: torch.stack([reading.masks[kind][None] for reading, _ in texts]) for kind in kinds
        }
    return Rows(
        embeds=embeds,
        masks=masks,
        positions=positions,
        extras=pictures.extras(),
        sources=torch.cat(sources),
    )


class Pictures:
    """Where in the rows an image stands whose features are added inside the decoder, too."""

    def __init__(self, like: Tensor) -> None:
        self._where = torch.zeros_like(like, dtype=torch.bool)
        self._layers: list[list[Tensor]] = []

    def add(self, reading: Reading, span: Span, part: slice) -> None:
        """Positions `part` of a reading stand at those of the span."""
        if reading.visual is None:
            return
        before, inside = reading.visual[: part.start], reading.visual[part]
        first, count = int(before.sum()), int(inside.sum())
        self._where[span.row, span.start : span.end] = inside
        self._layers = self._layers or [[] for _ in reading.deepstack]
        for layer, values in zip(self._layers, reading.deepstack, strict=True):
            layer.append(values[first : first + count])

    def extras(self) -> dict[str, Any]:
        """What the decoder is given of it, in the order of the rows."""
        if not self._layers or not self._where.any():
            return {}
        stacks = [torch.cat(layer) for layer in self._layers]
        return {"visual_pos_masks": self._where, "deepstack_visual_embeds": stacks}
