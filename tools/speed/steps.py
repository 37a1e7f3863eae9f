"""One training step on the same pairs, by us and by the peers: forward, reference and backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hadpo import adapter, batch
from hadpo.backbones.llava import Llava
from hadpo.batch import Example
from hadpo.config import TrainConfig
from hadpo.trainer import objective
from hadpo.vlm.backbone import Backbone
from tools.speed import machine, peers
from tools.speed.models import Geometry

ORIGINAL, FUSED_ROWS = "original", "two_rows_fused"
TRL, TRL_COMPACTION, LIGER = "trl", "trl_compaction", "liger"
OURS, SEGMENTS, CACHED, GROUPED = "ours", "ours_segments", "cached", "grouped"
NAMES = {  # of a step -> how a table calls it
    ORIGINAL: "original style: two rows, all logits",
    FUSED_ROWS: "two rows, our output layer",
    TRL: "TRL as installed",
    TRL_COMPACTION: "TRL with token compaction",
    LIGER: "Liger",
    OURS: "ours",
    SEGMENTS: "ours, attention in segments",
    CACHED: "ours, reference cached",
    GROUPED: "ours, pairs of one image per row",
}


def available(geometry: Geometry) -> dict[str, str]:
    """Every step -> why it cannot be taken here; empty where it can."""
    reasons = dict.fromkeys(NAMES, "")
    if geometry.family != "llava":
        reasons[TRL] = reasons[TRL_COMPACTION] = f"transformers has no {geometry.family} to train"
    elif not machine.version("trl"):
        reasons[TRL] = reasons[TRL_COMPACTION] = "trl is not installed"
    if not machine.version("liger-kernel"):
        reasons[LIGER] = "liger-kernel is not installed"
    return reasons


class Steps:
    """All ways to the loss of some pairs, on one model.

    Args:
        backbone: from `models.build`, with its adapter.
        geometry: of the backbone.
        examples: the pairs.
        pixels: of their distinct images, in order of appearance.
        wanted: steps to prepare; those that `available` refuses must not be among them.
    """

    def __init__(
        self,
        backbone: Backbone,
        geometry: Geometry,
        examples: Sequence[Example],
        pixels: Float[Tensor, "images 3 side side"],
        wanted: Sequence[str],
    ) -> None:
        self.backbone, self.pixels = backbone, pixels
        device = backbone.device
        self.rows = peers.TwoRows(examples, device)
        one_row = batch.grouped(examples, len(examples))
        self.packed = batch.pack(examples, used_on=device.type).to(device)
        self.grouped = batch.pack_rows(one_row, used_on=device.type).to(device)
        self.policy = objective.Policy(backbone)
        self.settings = TrainConfig(beta=peers.BETA)
        self.parameters = adapter.state(backbone)
        self.kept: Tensor | None = None
        self.trl: peers.Trl | None = None
        if {TRL, TRL_COMPACTION} & set(wanted):
            assert isinstance(backbone, Llava)
            self.trl = peers.Trl(backbone, geometry)
        if CACHED in wanted:
            with torch.no_grad(), adapter.disabled(backbone):
                embeds = batch.embed(backbone, self.packed, pixels)
                self.kept = batch.answer_logps(backbone, self.packed, embeds)

    def loss(self, name: str) -> Float[Tensor, ""]:
        """Mean DPO loss, with its graph."""
        backbone, rows, pixels = self.backbone, self.rows, self.pixels
        if name == ORIGINAL:
            return peers.original_loss(backbone, rows, pixels, logps_of=peers.full_logps)
        if name == FUSED_ROWS:
            return peers.original_loss(backbone, rows, pixels, logps_of=peers.fused_logps)
        if name == LIGER:
            is_compiled = backbone.device.type == "cuda"
            return peers.liger_loss(backbone, rows, pixels, is_compiled=is_compiled)
        if name in (TRL, TRL_COMPACTION):
            assert self.trl is not None
            with peers.compaction(is_on=name == TRL_COMPACTION):
                return self.trl.loss(rows, pixels)
        backbone.attention = "segments" if name == SEGMENTS else "dense"
        packed = self.grouped if name == GROUPED else self.packed
        micro = objective.MicroBatch(
            packed=packed,
            pixels=pixels,
            objective="dpo",
            reference=self.kept if name == CACHED else None,
            example_weights=torch.ones(packed.lengths.shape[1]),
        )
        losses, _ = objective.score(
            self.policy, self.backbone, micro, self.settings, is_training=True
        )
        return losses.mean()

    def recompute_activations(self, is_on: bool) -> None:
        """Keep only the inputs of layers, for everybody."""
        self.backbone.recompute_activations(is_on)
        if self.trl is not None and is_on:
            self.trl.model.gradient_checkpointing_enable({"use_reentrant": False})

    def step(self, name: str) -> float:
        """Loss and gradients; the gradients of the step before are forgotten first."""
        for parameter in self.trainable(name).values():
            parameter.grad = None
        loss = self.loss(name)
        loss.backward()
        return float(loss.detach())

    def gradients(self, name: str) -> dict[str, Tensor]:
        """Gradient of each adapter weight after `step`."""
        return {k: p.grad for k, p in self.trainable(name).items() if p.grad is not None}

    def trainable(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's weights that a step differentiates, by the same names for everybody."""
        if name in (TRL, TRL_COMPACTION):
            assert self.trl is not None
            return self.trl.lora
        named = self.backbone.language_model.named_parameters()
        return {
            k.removeprefix("model.").replace(".default.", "."): p
            for k, p in named
            if p.requires_grad
        }
