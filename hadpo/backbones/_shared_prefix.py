"""Attention of rows that share a prefix: its keys and values are kept, and read, once.

All questions about an image, and all beams of a question, begin with the same hundreds of tokens.
The queries of the rows that share a prefix are laid side by side and meet it in one product; what a
row has read since is its own. The two parts are joined by their softmax sums, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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


def attend(
    query: Float[Tensor, "rows heads length size"],
    key: Float[Tensor, "rows few slots size"],
    value: Float[Tensor, "rows few slots size"],
    attention_mask: Tensor | None,
    prefix: Prefix,
    *,
    layer: int,
    scaling: float | None,
) -> Float[Tensor, "rows length heads size"]:
    """Each row sees its own slots as the mask says, and all of its prefix."""
    rows, heads, length, size = query.shape
    few = key.shape[1]  # heads of keys and values, each for several heads of queries
    query = query.reshape(rows, few, -1, size) * (size**-0.5 if scaling is None else scaling)
    assert attention_mask is not None  # `_kv.grow` gives one
    mask = attention_mask.expand(rows, 1, length, -1).repeat(1, 1, heads // few, 1)
    own = _part(query, key, value, mask)
    keys, values = prefix.keys[layer], prefix.values[layer]
    table, place = _layout(prefix.of, len(keys), str(query.device))
    together = query[table].transpose(1, 2).reshape(len(keys), few, -1, size)
    real = None if prefix.real is None else prefix.real[:, None, None, :]
    shared = [
        part.view(len(keys), few, table.shape[1], -1, part.shape[-1])[place[0], :, place[1]]
        for part in _part(together, keys, values, real)
    ]
    highest = torch.maximum(own[1], shared[1])
    weights = [(top - highest).exp() for _, top, _ in (own, shared)]
    total = own[2] * weights[0] + shared[2] * weights[1]
    joined = (own[0] * weights[0] + shared[0] * weights[1]) / total
    return joined.view(rows, heads, length, size).transpose(1, 2).to(query.dtype)


def _part(
    query: Float[Tensor, "rows heads queries size"],
    key: Float[Tensor, "rows heads slots size"],
    value: Float[Tensor, "rows heads slots size"],
    mask: Bool[Tensor, "rows 1 #queries slots"] | None,
) -> tuple[
    Float[Tensor, "rows heads queries size"],
    Float[Tensor, "rows heads queries 1"],
    Float[Tensor, "rows heads queries 1"],
]:
    """Weighted values before the division, the highest score, and the sum to divide by."""
    scores = (query @ key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    highest = scores.amax(dim=-1, keepdim=True)
    shares = scores.sub_(highest).exp_()
    return (shares.to(value.dtype) @ value).float(), highest, shares.sum(dim=-1, keepdim=True)


@lru_cache(maxsize=64)
def _layout(
    of: tuple[int, ...], prefixes: int, device: str
) -> tuple[Int[Tensor, "prefixes most"], Int[Tensor, "2 rows"]]:
    """Rows by prefix, filled up with row 0, and where in that table each row stands."""
    groups: list[list[int]] = [[] for _ in range(prefixes)]
    place = []
    for row, prefix in enumerate(of):
        place.append((prefix, len(groups[prefix])))
        groups[prefix].append(row)
    most = max(map(len, groups))
    table = torch.tensor([group + [0] * (most - len(group)) for group in groups], device=device)
    return table, torch.tensor(place, device=device).T
