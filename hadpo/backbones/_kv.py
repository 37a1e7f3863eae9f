"""What a language model remembers of the tokens it has read: keys and values, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from hadpo.backbones import _llama
from hadpo.backbones._shared_prefix import Prefix


@dataclass(frozen=True)
class KVState:
    """Rows of remembered tokens. `extend` reads it and gives back a grown copy; it never changes.

    Padding may lie between two texts of a row: `real` says which slots hold a token, `lengths` how
    many tokens a row has, which is the position of its next one. Rows that `branch` made share what
    was read before: it lies in `prefix`, once, and the other fields hold what came since.
    """

    keys: tuple[Float[Tensor, "rows heads slots size"], ...]  # one per layer
    values: tuple[Float[Tensor, "rows heads slots size"], ...]
    real: Bool[Tensor, "rows slots"]
    lengths: Int[Tensor, " rows"]
    prefix: Prefix | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def branch(self, rows: Sequence[int]) -> KVState:
        """The given rows, in that order and as often as named; nothing they have read is copied.

        Raises:
            ValueError: these rows are branches already.
        """
        if self.prefix is not None:
            raise ValueError("branches cannot branch again; select repeats rows")
        index = torch.as_tensor(rows, device=self.lengths.device)
        return KVState(
            keys=tuple(k.new_empty(len(rows), *k.shape[1:2], 0, k.shape[3]) for k in self.keys),
            values=tuple(v.new_empty(len(rows), *v.shape[1:2], 0, v.shape[3]) for v in self.values),
            real=self.real.new_empty(len(rows), 0),
            lengths=self.lengths[index],
            prefix=Prefix(
                keys=self.keys,
                values=self.values,
                real=None if bool(self.real.all()) else self.real,
                of=tuple(rows),
            ),
        )

    def select(self, rows: Sequence[int] | Int[Tensor, " selected"]) -> KVState:
        """The given rows, in that order: reorder beams, drop finished rows, repeat rows."""
        index = torch.as_tensor(rows, device=self.lengths.device)
        return KVState(
            keys=tuple(k[index] for k in self.keys),
            values=tuple(v[index] for v in self.values),
            real=self.real[index],
            lengths=self.lengths[index],
            prefix=None if self.prefix is None else self.prefix.select(index.tolist()),
        )

    def repeat(self, times: int) -> KVState:
        """Each row `times` times, copies side by side, as `repeat_interleave`."""
        rows = torch.arange(len(self), device=self.lengths.device).repeat_interleave(times)
        return self.select(rows)


def grow(
    model: LlamaForCausalLM,
    state: KVState | None,
    embeds: Float[Tensor, "rows length width"],
    counts: Int[Tensor, " rows"],
) -> tuple[Float[Tensor, "rows width"], KVState]:
    """Read `counts` new tokens per row, right-padded; hidden state of each row's last one.

    Args:
        model: the language model.
        state: what was read before; None at the start.
        embeds: the new tokens.
        counts: how many of them are real, at least one per row.
    """
    rows, length, _ = embeds.shape
    if state is None:
        empty = torch.zeros(rows, 0, dtype=torch.bool, device=embeds.device)
        state = KVState((), (), empty, torch.zeros_like(counts))
    new = torch.arange(length, device=embeds.device) < counts[:, None]
    earlier = state.real[:, None, None, :].expand(rows, 1, length, -1)
    mask = torch.cat([earlier, _llama.causal_mask(new)], dim=-1)
    positions = state.lengths[:, None] + torch.arange(length, device=embeds.device)
    # The iterable's name differs between versions of transformers, so it is passed by position.
    cache = DynamicCache(list(zip(state.keys, state.values, strict=True)))
    hidden = _llama.forward(model, embeds, mask, positions, cache, prefix=state.prefix)
    last = hidden[torch.arange(rows, device=embeds.device), counts - 1]
    layers: list[Any] = cache.layers
    grown = KVState(
        keys=tuple(layer.keys for layer in layers),
        values=tuple(layer.values for layer in layers),
        real=torch.cat([state.real, new], dim=1),
        lengths=state.lengths + counts,
        prefix=state.prefix,
    )
    return last, grown
