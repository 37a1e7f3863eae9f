"""Log-probabilities of answers: packed rows through a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hadpo import loss
from hadpo.batch.packing import Packed
from hadpo.images import read_image
from hadpo.vlm.backbone import Backbone


def read_pixels(backbone: Backbone, images: Sequence[str]) -> Float[Tensor, "images 3 side side"]:
    """Pixels of image files, on the CPU.

    Raises:
        BadInput: names the file that is missing or no image.
    """
    return torch.stack([backbone.preprocess(read_image(path)) for path in images])


def embed(
    backbone: Backbone, packed: Packed, pixels: Float[Tensor, "images 3 side side"]
) -> Float[Tensor, "rows length width"]:
    """Inputs of the language model, each distinct image encoded once."""
    image_tokens = backbone.image_tokens(pixels, packed.instructions, image_of=packed.image_of)
    return backbone.embed(packed.ids, image_tokens)


def answer_logps(
    backbone: Backbone, packed: Packed, embeds: Float[Tensor, "rows length width"]
) -> Float[Tensor, "answers pairs"]:
    """Log-probability of each answer, summed over its tokens, in nats."""
    return token_table(backbone, packed, embeds).sum(-1)


def token_table(
    backbone: Backbone, packed: Packed, embeds: Float[Tensor, "rows length width"]
) -> Float[Tensor, "answers pairs longest"]:
    """Log-probability of each answer token, 0 behind the end of an answer."""
    hidden = backbone.hidden_states(embeds, packed.mask, packed.positions, packed.parts)
    states = hidden.flatten(0, 1)[packed.sources]
    logps = loss.token_logps(states, backbone.lm_head_weight, packed.targets)
    table = logps.new_zeros(packed.lengths.numel() * packed.longest)
    return table.index_put((packed.slots,), logps).view(*packed.lengths.shape, packed.longest)
