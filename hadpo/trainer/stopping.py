"""Stop early: when the held-out loss has not become better for so many looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Stopping:
    """The best held-out loss so far, and the weights that had it.

    Args:
        patience: looks without a better loss; 0: never stop, and keep nothing.
    """

    patience: int
    best: float | None = None
    since: int = 0  # looks
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether it was time to stop."""
        return 0 < self.patience <= self.since

    def look(self, loss: float | None, weights: Mapping[str, Tensor]) -> bool:
        """Note a look; whether to stop. A loss that is not a number is never better."""
        if not self.patience:
            return False
        if loss is not None and (self.best is None or loss < self.best):
            self.best, self.since = loss, 0
            self.weights = {key: value.detach().cpu().clone() for key, value in weights.items()}
        else:
            self.since += 1
        return self.is_over

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best, "since": self.since, "weights": self.weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.best = state.get("best")
        self.since = state.get("since", 0)
        self.weights = dict(state.get("weights", {}))
