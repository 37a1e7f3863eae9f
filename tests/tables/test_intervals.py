import numpy as np
import pytest
from scipy import stats

from hadpo.tables.intervals import mean_interval, paired_difference


def ratios(rng: np.random.Generator, images: int, chance: float) -> np.ndarray:
    """Wrong sentences out of all sentences, image by image."""
    count = rng.integers(3, 9, images)
    return np.stack([rng.binomial(count, chance), count], axis=1).astype(float)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_paired_interval_agrees_with_scipy(seed: int):
    rng = np.random.default_rng(seed)
    base, tuned = ratios(rng, 60, 0.35), ratios(rng, 60, 0.2)
    ours = paired_difference(base, tuned, samples=20_000, seed=seed)

    def difference(a, b, c, d, axis=-1):
        return c.sum(axis) / d.sum(axis) - a.sum(axis) / b.sum(axis)

    theirs = stats.bootstrap(
        (*base.T, *tuned.T),
        difference,
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=rng,
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_pairing_cancels_what_the_models_share():
    rng = np.random.default_rng(0)
    base = ratios(rng, 50, 0.4)
    assert paired_difference(base, base) == (0.0, 0.0)
    better = base - [[1, 0]] * (base[:, :1] > 0)
    low, high = paired_difference(base, better)
    shuffled_low, shuffled_high = paired_difference(base, rng.permutation(better))
    assert high < 0 and high - low < (shuffled_high - shuffled_low) / 2


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(5)
    base, tuned = ratios(rng, 30, 0.3), ratios(rng, 30, 0.2)
    assert paired_difference(base, tuned, seed=1) == paired_difference(base, tuned, seed=1)
    assert paired_difference(base, tuned, seed=1) != paired_difference(base, tuned, seed=2)


def test_no_interval_without_images_or_denominators():
    assert paired_difference(np.zeros((0, 2)), np.zeros((0, 2))) is None
    assert paired_difference(np.zeros((4, 2)), np.ones((4, 2))) is None
    with pytest.raises(ValueError, match="same images"):
        paired_difference(np.ones((3, 2)), np.ones((4, 2)))


def test_mean_interval_is_the_t_interval_over_seeds():
    values = [0.12, 0.15, 0.19]
    mean, deviation, low, high = mean_interval(values)
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert (mean, deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert mean_interval([0.5]) == (0.5, None, None, None)
