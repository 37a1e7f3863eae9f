"""95 % intervals by drawing images again: answers about one image are not independent."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

Values = Float[np.ndarray, "..."] | np.float64  # numpy gives a number, not an array, for one draw
Statistic = Callable[[Float[np.ndarray, "..."]], Values]


def intervals(
    counts: Float[np.ndarray, "images columns"],
    statistics: Mapping[str, Statistic],
    *,
    samples: int,
    seed: int,
) -> dict[str, tuple[float | None, float | None]]:
    """Percentile intervals of statistics of summed counts.

    Args:
        counts: what each image adds to numerators and denominators.
        statistics: name -> function of summed counts, vectorised over leading axes; NaN where it
            has no valid denominator (such draws are left out).
        samples: how many times the images are drawn, with replacement; 0 gives no intervals.
        seed: of the draws; the same seed and images give the same draws, so models can be compared.

    Returns:
        name -> (2.5 %, 97.5 %), (None, None) where no draw has a value.
    """
    images = len(counts)
    if not images or not samples:
        return dict.fromkeys(statistics, (None, None))
    draw = np.random.default_rng(seed)
    times: Int[np.ndarray, "samples images"] = draw.multinomial(
        images, np.full(images, 1 / images), size=samples
    )
    sums = times @ counts
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, statistic in statistics.items():
        values = np.asarray(statistic(sums))
        values = values[~np.isnan(values)]
        if not len(values):
            found[name] = (None, None)
            continue
        low, high = np.percentile(values, (2.5, 97.5))
        found[name] = float(low), float(high)
    return found


def ratio(over: Values, under: Values) -> Values:
    """A ratio, NaN where its denominator is 0."""
    empty = under == 0
    return np.where(empty, np.nan, over / np.where(empty, 1, under))


def number(value: float) -> float | None:
    """None for NaN, for records."""
    return None if np.isnan(value) else float(value)
