"""Attention of packed rows, part by part: causal kernels instead of one dense mask.

What the dense mask of a row forbids is most of a square. Cut into parts, each of which sees some
earlier positions in full and its own causally, the same numbers take fewer products and no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from transformers.integrations.sdpa_attention import repeat_kv


@dataclass(frozen=True)
class Part:
    """Positions [start, end) of a row; they see `earlier` in full, and their own causally."""

    start: int
    end: int
    earlier: tuple[tuple[int, int], ...] = ()  # spans [start, end), in order, before `start`


Parts = tuple[Part, ...]  # of one row, without a gap; what lies behind them is padding


def attend(
    query: Float[Tensor, "rows heads length size"],
    key: Float[Tensor, "rows few length size"],
    value: Float[Tensor, "rows few length size"],
    parts: Sequence[Parts],
    *,
    scaling: float | None,
    dropout: float,
) -> Float[Tensor, "rows length heads size"]:
    """SDPA without a mask; `parts` has a tuple per row, and `few` heads serve all."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if len(set(parts)) == 1:  # rows of one layout are read together
        return _in_parts(query, key, value, parts[0], dropout, scaling)
    rows = [
        _in_parts(query[r : r + 1], key[r : r + 1], value[r : r + 1], mine, dropout, scaling)
        for r, mine in enumerate(parts)
    ]
    return torch.cat(rows)


def _in_parts(
    query: Tensor, key: Tensor, value: Tensor, parts: Parts, dropout: float, scaling: float | None
) -> Tensor:
    found = []
    for part in parts:
        mine = query[:, :, part.start : part.end]
        spans = [*part.earlier, (part.start, part.end)]
        seen = key[:, :, part.start : part.end], value[:, :, part.start : part.end]
        bias = None
        if part.earlier:
            seen = [torch.cat([x[:, :, a:b] for a, b in spans], dim=2) for x in (key, value)]
            bias = causal_lower_right(mine.shape[2], seen[0].shape[2])
        output = F.scaled_dot_product_attention(
            mine,
            *seen,
            attn_mask=bias,  # pyright: ignore[reportArgumentType]
            dropout_p=dropout,
            is_causal=bias is None,
            scale=scaling,
        )
        found.append(output.transpose(1, 2))
    length, end = query.shape[2], parts[-1].end
    if end < length:  # nothing looks at padding
        rows, heads, _, size = query.shape
        found.append(query.new_zeros(rows, length - end, heads, size))
    return torch.cat(found, dim=1)
