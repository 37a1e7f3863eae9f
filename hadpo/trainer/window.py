"""What is reported between two lines of the log: sums on the device, means over all processes."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor


class Window:
    """Sums since the last report; they stay on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.pairs = 0.0  # what they count
        self.skipped = 0  # updates that were not made
        self.latest: dict[str, Tensor | float] = {}

    def add(
        self, reported: Mapping[str, Float[Tensor, " pairs"]], counts: Float[Tensor, " pairs"]
    ) -> None:
        """Add the values of some pairs; what counts 0 adds only names, for other processes."""
        for name, values in reported.items():
            total = (values * counts.to(values)).sum()
            self.sums[name] = self.sums.get(name, torch.zeros(())) + total
        self.pairs += float(counts.sum())

    def add_captions(
        self,
        losses: Float[Tensor, " captions"],
        counts: Float[Tensor, " captions"],
        *,
        gamma: float,
    ) -> None:
        """Add the auxiliary term: there are as many captions as pairs, so means stay means."""
        total = (losses.detach() * counts.to(losses)).sum()
        for name, part in (("auxiliary_loss", total), ("loss", gamma * total)):
            self.sums[name] = self.sums.get(name, torch.zeros(())) + part

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means per pair over all processes; one copy from the device."""
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name].float() for name in names])
        sums = torch.cat([sums, sums.new_tensor([float(self.pairs)])])
        totals: Any = accelerator.reduce(sums, reduction="sum")
        *values, pairs = totals.tolist()
        means = {name: value / pairs for name, value in zip(names, values, strict=True)}
        latest = {name: float(value) for name, value in self.latest.items()}
        return means | latest | ({"skipped_updates": float(self.skipped)} if latest else {})
