"""The attention of our language models: SDPA, or what rows that share text make of it.

Registered with transformers under one name; what the caller of the model passes beside the mask
chooses. `prefix`: rows share remembered tokens; `parts`: a packed row, read part by part.
"""

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hadpo.backbones import _segments, _shared_prefix
from hadpo.backbones._segments import Parts
from hadpo.backbones._shared_prefix import Prefix

Attention = Literal["dense", "segments"]  # how packed rows are read
NAME = "sdpa_of_shared_text"  # among the attentions of transformers


def attend(
    module: Any,
    query: Float[Tensor, "rows heads length size"],
    key: Float[Tensor, "rows few seen size"],
    value: Float[Tensor, "rows few seen size"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix: Prefix | None = None,
    parts: Sequence[Parts] | None = None,
    **rest: Any,
) -> tuple[Float[Tensor, "rows length heads size"], None]:
    """Attention as transformers calls it."""
    if prefix is not None:
        layer = module.layer_idx
        found = _shared_prefix.attend(
            query, key, value, attention_mask, prefix, layer=layer, scaling=scaling
        )
        return found, None
    if parts is not None:
        return _segments.attend(query, key, value, parts, scaling=scaling, dropout=dropout), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, **rest
    )


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
