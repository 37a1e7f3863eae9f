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
        self.pairs = 0
        self.skipped = 0  # updates that were not made
        self.latest: dict[str, Tensor | float] = {}

    def add(self, reported: Mapping[str, Float[Tensor, " pairs"]], *, counts: bool) -> None:
        """Add the values of some pairs; without `counts` only their names, for other processes."""
        for name, values in reported.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + values.sum() * float(counts)
        self.pairs += len(reported["loss"]) if counts else 0

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
