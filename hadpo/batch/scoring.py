"""Log-probabilities of answers: packed rows through a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hadpo import loss
from hadpo.batch.packing import Packed
from hadpo.vlm.backbone import Backbone


def read_pixels(backbone: Backbone, images: Sequence[str]) -> Any:
    """Pixels of image files, on the CPU, as the backbone holds those of several images.

    Raises:
        BadInput: names the file that is missing or no image.
    """
    return backbone.read_pixels(images)


def embed(backbone: Backbone, packed: Packed, pixels: Any) -> Any:
    """Inputs of the language model, each distinct image encoded once."""
    return backbone.inputs(packed, pixels)


def answer_logps(backbone: Backbone, packed: Packed, inputs: Any) -> Float[Tensor, "sides pairs"]:
    """Log-probability of each answer, summed over its tokens, in nats."""
    return token_table(backbone, packed, inputs).sum(-1)


def token_table(
    backbone: Backbone, packed: Packed, inputs: Any
) -> Float[Tensor, "sides pairs longest"]:
    """Log-probability of each answer token, 0 behind the end of an answer."""
    logps = loss.token_logps(
        backbone.states(packed, inputs),
        backbone.lm_head_weight,
        packed.targets,
        scale=backbone.logit_scale,
        softcap=backbone.logit_softcap,
    )
    table = logps.new_zeros(packed.lengths.numel() * packed.longest)
    return table.index_put((packed.slots,), logps).view(*packed.lengths.shape, packed.longest)
