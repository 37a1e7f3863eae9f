"""How far it is: a bar in a terminal, a line of the log now and then where there is none."""

import logging
import sys
import time
from collections.abc import Collection

from tqdm.std import tqdm

log = logging.getLogger(__name__)

_SECONDS = 30.0  # between two lines of the log


class Progress:
    """Images that are done, images per second, and when the rest will be."""

    def __init__(self, model: str, images: int, *, seconds: float = _SECONDS) -> None:
        self._model, self._total, self._every = model, images, seconds
        self._done: set[str] = set()
        self._start = self._told = time.monotonic()
        self._bar = tqdm(
            total=images,
            desc=model,
            unit="image",
            disable=not sys.stderr.isatty(),
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {rate_fmt}, "
            "{remaining} left",
        )

    def done(self, images: Collection[str]) -> None:
        """All questions about these images are answered."""
        new = set(images) - self._done
        self._done |= new
        self._bar.update(len(new))
        now = time.monotonic()
        if self._bar.disable and (now - self._told >= self._every or self._is_over) and new:
            self._told = now
            log.info("%s", self.text(now))

    def text(self, now: float) -> str:
        """A sentence: how many of how many, how fast, how long still."""
        rate = len(self._done) / max(now - self._start, 1e-9)
        left = (self._total - len(self._done)) / rate if rate else 0.0
        end = "done" if self._is_over else f"about {_span(left)} left"
        done = f"{len(self._done)} of {self._total} images"
        return f"{self._model}: {done}, {rate:.2f} images/s, {end}"

    def close(self) -> None:
        """Leave the terminal as it is."""
        self._bar.close()

    @property
    def _is_over(self) -> bool:
        return len(self._done) >= self._total


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
