"""Attention of packed rows, part by part: causal kernels instead of one dense mask.

What the dense mask of a row forbids is most of a square. Cut into parts, each of which sees some
earlier positions in full and its own causally, the same numbers take fewer products and no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


@dataclass(frozen=True)
class Part:
    """Positions [start, end) of a row; they see `earlier` in full, and their own causally."""

    start: int
    end: int
    earlier: tuple[tuple[int, int], ...] = ()  # spans [start, end), in order, before `start`


Parts = tuple[Part, ...]  # of one row, without a gap; what lies behind them is padding


def attend_parts(
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


# Attention of rows that share a prefix: its keys and values are kept, and read, once.


@dataclass(frozen=True)
class Prefix:
    """Keys and values that rows share, and which of the prefixes each row has."""

    keys: tuple[Float[Tensor, "prefixes heads slots size"], ...]  # one per layer
    values: tuple[Float[Tensor, "prefixes heads slots size"], ...]
    real: Bool[Tensor, "prefixes slots"] | None  # which slots hold a token; None: all
    of: tuple[int, ...]  # row -> prefix

    def select(self, rows: Sequence[int]) -> Prefix:
        """The same prefixes for other rows; those that no row has are left behind by and by."""
        of = tuple(self.of[row] for row in rows)
        used = sorted(set(of))
        if 2 * len(used) > len(self.keys[0]):
            return Prefix(self.keys, self.values, self.real, of)
        index = torch.tensor(used, device=self.keys[0].device)
        return Prefix(
            keys=tuple(k[index] for k in self.keys),
            values=tuple(v[index] for v in self.values),
            real=None if self.real is None else self.real[index],
            of=tuple(used.index(place) for place in of),
        )


def attend_with_prefix(
    query: Float[Tensor, "rows heads length size"],
    key: Float[Tensor, "rows few slots size"],
    value: Float[Tensor, "rows few slots size"],
    attention_mask: Tensor | None,
    prefix: Prefix,
    *,
    layer: int,
    scaling: float | None,
) -> Float[Tensor, "rows length heads size"]:
    """Each row sees its own slots as the mask says, and all of its prefix.

    One softmax over both. Rows of a prefix are read together: its keys and values are read once.
    """
    rows, heads, length, size = query.shape
    few = key.shape[1]  # heads of keys and values, each for several heads of queries
    query = query.reshape(rows, few, -1, size) * (size**-0.5 if scaling is None else scaling)
    query = query.contiguous()  # once, not in each product
    assert attention_mask is not None  # `decoder.grow` gives one
    keys, values = prefix.keys[layer], prefix.values[layer]
    layout = _layout(prefix.of, len(keys), str(query.device))
    own = (query @ key.transpose(-1, -2)).view(rows, few, heads // few, length, -1)
    own = own.masked_fill(~attention_mask[:, :, None], -torch.inf).flatten(2, 3)
    common = _by_prefix(query, layout) @ keys.transpose(-1, -2)
    if prefix.real is not None:
        common = common.masked_fill(~prefix.real[:, None, None, :], -torch.inf)
    shares = torch.cat([common, _by_prefix(own, layout)], dim=-1).softmax(dim=-1)
    seen = keys.shape[2]
    common = _apart(shares[..., :seen] @ values, layout)
    own = _apart(shares[..., seen:], layout).reshape(rows, few, -1, key.shape[2]) @ value
    joined = own.view(common.shape) + common  # a sum lies as its first term: row by row
    return joined.reshape(rows, heads, length, size).transpose(1, 2)


_Layout = tuple[Int[Tensor, "prefixes most"], Int[Tensor, "2 rows"] | None]


def _by_prefix(
    values: Float[Tensor, "rows few queries size"], layout: _Layout
) -> Float[Tensor, "prefixes few together size"]:
    """What rows of one prefix have, side by side."""
    table, place = layout
    own = values.view(*table.shape, *values.shape[1:]) if place is None else values[table]
    return own.transpose(1, 2).reshape(len(table), values.shape[1], -1, values.shape[3])


def _apart(values: Float[Tensor, "prefixes few together size"], layout: _Layout) -> Tensor:
    """The inverse, as a view: prefixes and rows on two axes, or rows that were moved on one."""
    table, place = layout
    apart = values.view(*values.shape[:2], table.shape[1], -1, values.shape[3]).transpose(1, 2)
    return apart if place is None else apart[place[0], place[1]]


@lru_cache(maxsize=64)
def _layout(of: tuple[int, ...], prefixes: int, device: str) -> _Layout:
    """Rows by prefix, filled up with row 0, and where in that table each row stands.

    None: in their order, so that no row needs to be moved.
    """
    groups: list[list[int]] = [[] for _ in range(prefixes)]
    place = []
    for row, prefix in enumerate(of):
        place.append((prefix, len(groups[prefix])))
        groups[prefix].append(row)
    most = max(map(len, groups))
    table = torch.tensor([group + [0] * (most - len(group)) for group in groups], device=device)
    is_in_order = [*chain(*groups)] == [*range(prefixes * most)]
    return table, None if is_in_order else torch.tensor(place, device=device).T


# The attention of our language models: SDPA, or what rows that share text make of it.

Attention = Literal["dense", "segments"]  # how packed rows are read
NAME = "sdpa_of_shared_text"  # among the attentions of transformers
# What models pass along that changes nothing here: windows lie in the masks.
_HARMLESS = {"is_causal", "logits_to_keep", "position_ids", "use_cache", "output_attentions"}
_HARMLESS |= {"return_dict"}


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
    """Attention as transformers calls it.

    Raises:
        TypeError: a keyword that this function does not know, and which may change the numbers.
    """
    if strange := sorted(k for k, v in rest.items() if v is not None and k not in _HARMLESS):
        raise TypeError(f"attention: unknown {', '.join(strange)}; known: prefix, parts, is_causal")
    if prefix is not None:
        layer = module.layer_idx
        found = attend_with_prefix(
            query, key, value, attention_mask, prefix, layer=layer, scaling=scaling
        )
        return found, None
    if parts is not None:
        return attend_parts(query, key, value, parts, scaling=scaling, dropout=dropout), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, **rest
    )


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
