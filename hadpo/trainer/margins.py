"""Reward margins of pairs that training never saw, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hadpo import adapter, batch
from hadpo.records import Pair
from hadpo.trainer.stage import adapter_folder, loaded, read_records

if TYPE_CHECKING:
    from hadpo.runs import Run


@torch.no_grad()
def held_out_margins(run: Run, *, most: int = 64) -> list[tuple[Pair, float]]:
    """The first `most` held-out pairs with their reward margins, largest first.

    The margin is beta times how much further the trained policy prefers chosen to rejected than the
    reference does; below zero, the pair is still the wrong way round. Instructions have none.
    """
    settings = run.recipe.train
    _, records = read_records(run)
    held_out = [record for record in records if isinstance(record, Pair)][:most]
    if not held_out:
        return []
    backbone = loaded(run)
    adapter.load(backbone, adapter_folder(run, "dpo"))
    try:
        margins: list[float] = []
        for i in range(0, len(held_out), settings.micro_batch_pairs):
            part = held_out[i : i + settings.micro_batch_pairs]
            length = settings.max_length
            rows = [batch.tokenize(backbone, pair, max_length=length) for pair in part]
            packed = batch.pack(rows)
            pixels = batch.read_pixels(backbone, packed.images).to(backbone.device, backbone.dtype)
            embeds = batch.embed(backbone, packed.to(backbone.device), pixels)
            with adapter.disabled(backbone):
                reference = batch.answer_logps(backbone, packed.to(backbone.device), embeds)
            gain = batch.answer_logps(backbone, packed.to(backbone.device), embeds) - reference
            margins += (settings.beta * (gain[0] - gain[1])).tolist()
    finally:
        adapter.detach(backbone)
    return sorted(zip(held_out, margins, strict=True), key=lambda pair: -pair[1])
