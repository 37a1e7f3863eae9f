"""Intervals: bootstrap over images and seeds, Student's t over seeds. Pure functions of arrays."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from hadpo.records import Metric


def paired_difference(
    base: Float[np.ndarray, "images 2"],
    tuned: Float[np.ndarray, "images 2"],
    *,
    samples: int = 1000,
    seed: int = 42,
    share: float = 0.95,
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of `tuned - base`, both measured on the same images.

    Every measure of ours is a ratio of two sums over images (accuracy: right answers over answers;
    F1: twice the true positives over all positives, said and true; ...), so drawing images with
    replacement draws both models' sums at once, and what the models share cancels.

    Of each image `base` and `tuned` hold numerator and denominator, in the same order. The other
    arguments and the result are those of `two_level_difference`.
    """
    if base.shape != tuned.shape:
        raise ValueError(f"paired models need the same images: {base.shape} and {tuned.shape}")
    return two_level_difference([(base, tuned)], [""], samples=samples, seed=seed, share=share)


def two_level_difference(
    runs: Sequence[tuple[Float[np.ndarray, "images 2"], Float[np.ndarray, "images 2"]]],
    worlds: Sequence[str],
    *,
    samples: int = 1000,
    seed: int = 42,
    share: float = 0.95,
) -> tuple[float, float] | None:
    """Interval of the mean over runs of `tuned - base`: images and training seeds drawn anew.

    In each draw, each world's images are drawn with replacement, the same for all its runs and both
    models (so what they share cancels), and as many of its runs as there are, with replacement.
    Worlds are not drawn: the interval says nothing of other worlds. With k runs a world, the part
    of the seeds is understated by about sqrt((k - 1) / k).

    Args:
        runs: of each, numerator and denominator of each image for base and tuned model.
        worlds: of each run, what its images are; runs of one world have the same ones, in order.
        samples: draws.
        seed: of the draws.
        share: of the drawn differences inside the interval.

    Returns:
        Low and high end; None if no draw has a valid denominator.
    """
    if not runs or samples < 1 or not all(len(base) for base, _ in runs):
        return None
    drawn = np.zeros(samples)
    groups = [
        [r for r, w in zip(runs, worlds, strict=True) if w == x] for x in dict.fromkeys(worlds)
    ]
    sizes = tuple((len(own[0][0]), len(own)) for own in groups)
    for own, (times, picks) in zip(groups, _draw(sizes, samples, seed), strict=True):
        totals = np.einsum("si,rmic->srmc", times, np.array(own))  # samples runs models 2
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = totals[..., 0] / totals[..., 1]
        differences = ratios[..., 1] - ratios[..., 0]  # samples runs
        drawn += np.take_along_axis(differences, picks, axis=1).sum(axis=1) / len(runs)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None
    tail = (1 - share) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


@functools.lru_cache(maxsize=4)
def _draw(
    sizes: tuple[tuple[int, int], ...], samples: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """How often each image is drawn, and which runs, for worlds of so many images and runs.

    The rows of a table ask for the same draws, one after the other.
    """
    rng, found = np.random.default_rng(seed), []
    for images, runs in sizes:
        times = rng.multinomial(images, np.full(images, 1 / images), size=samples).astype(float)
        found.append((times, rng.integers(runs, size=(samples, runs))))
    return found


def clear_of_zero(rows: Sequence[Mapping[str, Any]], *, share: float = 0.05) -> list[bool]:
    """Which differences of a table are not chance, all rows taken together.

    A row's p-value is that of a normal distribution about its `difference` whose middle 95 % are as
    wide as from `low` to `high`; Holm's step-down correction holds the chance of any false finding
    in the table at `share`. Rows without an interval, and those whose own covers zero, are not
    clear.

    Source: Holm 1979, a simple sequentially rejective multiple test procedure.
    """
    tested = []
    for at, row in enumerate(rows):
        if not covers_zero(row["low"], row["high"]):
            deviation = (row["high"] - row["low"]) / (2 * 1.959963984540054)
            score = abs(row["difference"]) / deviation if deviation else math.inf
            tested.append((math.erfc(score / math.sqrt(2)), at))
    found = [False] * len(rows)
    n = sum(row["low"] is not None for row in rows)
    for rank, (p, at) in enumerate(sorted(tested)):
        if p * (n - rank) > share:
            break
        found[at] = True
    return found


def unpaired_difference(base: Metric, tuned: Metric) -> tuple[float, float] | None:
    """An interval of `tuned - base` from the metrics' own intervals, as if they were independent.

    Two models on the same images are not, so this is wider than a paired interval; it serves if
    the items behind a metric are not at hand. None if a metric has no interval.
    Source: Zou and Donner 2008, the method of variance estimates recovery.
    """
    if base.value is None or base.low is None or base.high is None:
        return None
    if tuned.value is None or tuned.low is None or tuned.high is None:
        return None
    difference = tuned.value - base.value
    down = math.hypot(tuned.value - tuned.low, base.high - base.value)
    up = math.hypot(tuned.high - tuned.value, base.value - base.low)
    return difference - down, difference + up


def mean_interval(
    values: Sequence[float],
) -> tuple[float, float | None, float | None, float | None]:
    """Mean, standard deviation (n - 1) and 95 % t interval of one value per seed.

    Returns:
        Mean, deviation, low, high; the last three are None for a single value.
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None, None, None
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    from scipy import special  # here, because importing it takes as long as all of hadpo.tables

    quantile = float(special.stdtrit(len(values) - 1, 0.975))
    half = quantile * deviation / math.sqrt(len(values))
    return mean, deviation, mean - half, mean + half


def covers_zero(low: float | None, high: float | None) -> bool:
    """Whether an interval covers zero; None counts as an interval that does."""
    return low is None or high is None or low <= 1e-12 <= high + 2e-12  # rounding is no evidence
