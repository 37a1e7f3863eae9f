"""Intervals: paired bootstrap over images, Student's t over seeds. Pure functions of arrays."""

import math
from collections.abc import Sequence

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

    Args:
        base: numerator and denominator of each image.
        tuned: the same for the other model, image by image.
        samples: resampled image sets.
        seed: of the resampling.
        share: of the resampled differences inside the interval.

    Returns:
        Low and high end, or None if no resampled set has a valid denominator.
    """
    if base.shape != tuned.shape:
        raise ValueError(f"paired models need the same images: {base.shape} and {tuned.shape}")
    images = len(base)
    if images == 0 or samples < 1:
        return None
    rng = np.random.default_rng(seed)
    times = rng.multinomial(images, np.full(images, 1 / images), size=samples).astype(float)
    sums_base, sums_tuned = times @ base, times @ tuned
    valid = (sums_base[:, 1] > 0) & (sums_tuned[:, 1] > 0)
    if not valid.any():
        return None
    sums_base, sums_tuned = sums_base[valid], sums_tuned[valid]
    differences = sums_tuned[:, 0] / sums_tuned[:, 1] - sums_base[:, 0] / sums_base[:, 1]
    tail = (1 - share) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return float(low), float(high)


def two_level_difference(
    runs: Sequence[tuple[Float[np.ndarray, "images 2"], Float[np.ndarray, "images 2"]]],
    worlds: Sequence[str],
    *,
    samples: int = 1000,
    seed: int = 42,
    share: float = 0.95,
) -> tuple[float, float, float] | None:
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
        Low and high end, and the standard deviation of the drawn differences; None if a model has
        no valid denominator.
    """
    if not runs or samples < 1:
        return None
    rng = np.random.default_rng(seed)
    drawn = np.zeros(samples)
    for world in dict.fromkeys(worlds):
        own = [run for run, name in zip(runs, worlds, strict=True) if name == world]
        sums = np.array(own)  # runs models images 2
        images = sums.shape[2]
        times = rng.multinomial(images, np.full(images, 1 / images), size=samples).astype(float)
        totals = np.einsum("si,rmic->srmc", times, sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = totals[..., 0] / totals[..., 1]
        differences = ratios[..., 1] - ratios[..., 0]  # samples runs
        picks = rng.integers(len(own), size=(samples, len(own)))
        drawn += np.take_along_axis(differences, picks, axis=1).sum(axis=1) / len(runs)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None
    tail = (1 - share) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high), float(drawn.std(ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: each is at most 0.05 if its test stands.

    Source: Holm 1979, a simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


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
