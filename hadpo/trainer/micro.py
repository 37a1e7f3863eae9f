"""Micro-batches: what one process reads for an update, and how much each pair of it counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hadpo import batch
from hadpo.batch import Example, Packed
from hadpo.config import TrainConfig
from hadpo.trainer import sharding
from hadpo.trainer.layout import by_length, micro_batches
from hadpo.trainer.objective import SIDES, Objective, weight
from hadpo.trainer.reference import References
from hadpo.vlm.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Micro:
    """The pairs, or captions, of one backward pass, on the CPU."""

    packed: Packed
    pixels: Float[Tensor, "images 3 side side"]
    reference: Float[Tensor, "answers pairs"] | None  # log-probabilities from the cache
    pair_ids: tuple[str, ...]
    objective: Objective
    is_auxiliary: bool  # captions of the term gamma, beside pairs
    counts: Float[Tensor, " pairs"]  # how much each counts beside the others
    weight: float  # of what counts 1; 0 where another process has no pair left to wait for


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes one process's micro-batches.

    Where weights are shared out, each pass needs all processes: all get as many micro-batches, some
    of weight 0.
    """

    backbone: Backbone
    settings: TrainConfig
    objective: Objective
    references: References | None
    rank: int
    world: int

    def of(
        self, examples: Sequence[Example], *, total: float, is_auxiliary: bool = False
    ) -> Iterator[Micro]:
        """This process's share of examples whose weights sum up to 1 / `total` of the update.

        Images are read when their micro-batch is asked for.
        """
        objective = "sft" if is_auxiliary else self.objective
        rows = by_length(batch.grouped(examples, self.settings.pairs_per_row))
        size = self.settings.micro_batch_pairs
        passes = [len(list(micro_batches(rows[k :: self.world], size))) for k in range(self.world)]
        wanted = max(passes) if sharding.is_on() else 1
        for part in micro_batches(rows[self.rank :: self.world], size):
            yield self._micro(part, objective, is_auxiliary, total)
        if (idle := wanted - passes[self.rank]) > 0:
            yield from [self._micro(rows[:1], objective, is_auxiliary, 0.0)] * idle

    def _micro(
        self, rows: Sequence[list[Example]], objective: Objective, is_auxiliary: bool, total: float
    ) -> Micro:
        packed = batch.pack_rows(rows, sides=SIDES[objective])
        examples = [example for row in rows for example in row]
        ids = tuple(example.pair_id for example in examples)
        is_kept = self.references is not None and objective == "dpo"
        counts = [weight(example, self.objective, self.settings) for example in examples]
        return Micro(
            packed=packed,
            pixels=batch.read_pixels(self.backbone, packed.images),
            reference=self.references.of(ids) if is_kept and self.references else None,
            pair_ids=ids,
            objective=objective,
            is_auxiliary=is_auxiliary,
            counts=torch.tensor(counts, dtype=torch.float64),
            weight=total,
        )
