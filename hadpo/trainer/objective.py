"""What one micro-batch contributes: losses per pair, and the numbers to report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hadpo import adapter, batch, loss
from hadpo.batch import Example, Packed
from hadpo.config import TrainConfig
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.decoder import on_device

Objective = Literal["dpo", "sft"]
SIDES: dict[str, tuple[str, ...]] = {"dpo": ("chosen", "rejected"), "sft": ("chosen",)}


def example_weight(example: Example, objective: Objective, settings: TrainConfig) -> float:
    """How much an example counts in the loss of its update, beside the others.

    Pairs count alike. An instruction's answer counts by its own weight; with `mean_over: tokens`
    each of its tokens does, as in the originals, so that long answers weigh more.
    """
    if objective == "dpo":
        return 1.0
    return example.weight * (len(example.chosen) if settings.mean_over == "tokens" else 1)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The pairs, or captions, of one backward pass."""

    packed: Packed
    pixels: Any  # of the distinct images, as the backbone stacks them
    objective: Objective
    reference: Float[Tensor, "sides pairs"] | None  # log-probabilities from the cache
    example_weights: Float[Tensor, " pairs"]  # how much each counts beside the others
    weight_sum: float = 0.0  # of `example_weights`
    # Factor from example weight to gradient; 0 for a filler batch that keeps processes in step.
    gradient_scale: float = 1.0
    pair_ids: tuple[str, ...] = ()
    is_auxiliary: bool = False  # captions of the term gamma, beside pairs

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device: one copy of all tensors, pixels included if they are one."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = on_device(vars(self.packed) | own, device)
        packed = replace(self.packed, **{k: v for k, v in moved.items() if k not in own})
        return replace(self, packed=packed, **{name: moved[name] for name in own})


class Policy(nn.Module):
    """The trained distribution as one module: several processes wrap it and sync its gradients."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, packed: Packed, inputs: Any) -> Float[Tensor, "sides pairs"]:
        """Log-probability of each answer, summed over its tokens, in nats."""
        return batch.answer_logps(self.backbone, packed, inputs)


def score(
    policy: nn.Module,
    backbone: Backbone,
    micro: MicroBatch,
    settings: TrainConfig,
    *,
    is_training: bool,
) -> tuple[Float[Tensor, " pairs"], Mapping[str, Float[Tensor, " pairs"]]]:
    """Losses with gradient, and one detached number per pair of everything that is reported.

    "dpo" is the preference loss, "sft" the mean cross-entropy of the chosen answers. Images are
    encoded once for policy and reference. The reference is `micro.reference`; without, the same
    module with the adapter off reads the same rows first, without gradient. Train mode switches on
    the adapter's dropout and the recomputation of activations: only the policy's own pass is in it.
    `micro` is on the backbone's device.
    """
    packed, reference = micro.packed, micro.reference
    inputs = batch.embed(backbone, packed, micro.pixels)
    if micro.objective == "dpo" and reference is None:
        with torch.no_grad(), adapter.disabled(backbone):
            reference = batch.answer_logps(backbone, packed, inputs)
    backbone.decoder.train(is_training)
    try:
        logps = policy(packed, inputs)
    finally:
        backbone.decoder.eval()
    lm_losses = loss.language_model_loss(logps[0], packed.lengths[0])
    reported = {"logps/chosen": logps[0], "lm_loss": lm_losses}
    if reference is None:
        losses = lm_losses
    else:
        preference = loss.preference_loss(
            *logps,
            *reference,
            beta=settings.beta,
            kind=settings.loss,
            label_smoothing=settings.label_smoothing,
        )
        losses = preference.losses
        if settings.gamma and settings.gamma_on == "chosen":
            losses = losses + settings.gamma * lm_losses
        margins = preference.chosen_rewards - preference.rejected_rewards
        reported |= {
            "preference_loss": preference.losses,
            "rewards/chosen": preference.chosen_rewards,
            "rewards/rejected": preference.rejected_rewards,
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).to(margins.dtype),
            "logps/rejected": logps[1],
        }
    reported["loss"] = losses
    return losses, {name: values.detach() for name, values in reported.items()}
