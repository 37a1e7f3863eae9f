"""What one micro-batch contributes: losses per pair, and the numbers to report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hadpo import adapter, batch, loss
from hadpo.batch import Example, Packed
from hadpo.config import TrainConfig
from hadpo.vlm.backbone import Backbone

Objective = Literal["dpo", "sft"]
SIDES: dict[str, tuple[str, ...]] = {"dpo": ("chosen", "rejected"), "sft": ("chosen",)}


def weight(example: Example, objective: Objective, settings: TrainConfig) -> float:
    """How much an example counts in the loss of its update, beside the others.

    Pairs count alike. Of answers, each counts by its own weight; with `mean_over: tokens` each of
    its tokens does, as in the originals, where long answers weigh more.
    """
    if objective == "dpo":
        return 1.0
    return example.weight * (len(example.chosen) if settings.mean_over == "tokens" else 1)


class Policy(nn.Module):
    """The trained distribution as one module: several processes wrap it and sync its gradients."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(
        self, packed: Packed, embeds: Float[Tensor, "rows length width"]
    ) -> Float[Tensor, "answers pairs"]:
        """Log-probability of each answer."""
        return batch.answer_logps(self.backbone, packed, embeds)


def score(
    policy: nn.Module,
    backbone: Backbone,
    packed: Packed,
    pixels: Float[Tensor, "images 3 side side"],
    settings: TrainConfig,
    *,
    kept: Float[Tensor, "answers pairs"] | None = None,
    objective: Objective,
    is_training: bool,
) -> tuple[Float[Tensor, " pairs"], Mapping[str, Float[Tensor, " pairs"]]]:
    """Losses with gradient, and one detached number per pair of everything that is reported.

    The reference is `kept`, its log-probabilities from the cache; without, it is the same module
    with the adapter off, on the same packed rows, and runs first, without gradient. Train mode
    switches on the adapter's dropout and the recomputation of activations, so only the policy's own
    pass is in train mode.
    """
    embeds = batch.embed(backbone, packed, pixels)
    reference = kept
    if objective == "dpo" and reference is None:
        with torch.no_grad(), adapter.disabled(backbone):
            reference = batch.answer_logps(backbone, packed, embeds)
    backbone.language_model.train(is_training)
    try:
        logps = policy(packed, embeds)
    finally:
        backbone.language_model.eval()
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
