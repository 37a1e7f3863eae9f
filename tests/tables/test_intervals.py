import numpy as np
import pytest
from scipy import stats

from hadpo.tables.intervals import (
    clear_of_zero,
    mean_interval,
    paired_difference,
    two_level_difference,
)


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


# --- two levels: images and seeds ---


def brute_force(runs, worlds, samples, seed):
    """The same draws, one by one, by the definition."""
    rng, drawn = np.random.default_rng(seed), []
    plans = []
    for world in dict.fromkeys(worlds):
        own = [run for run, name in zip(runs, worlds, strict=True) if name == world]
        n = len(own[0][0])
        times = rng.multinomial(n, np.full(n, 1 / n), size=samples)
        plans.append((own, times, rng.integers(len(own), size=(samples, len(own)))))
    for at in range(samples):
        values = []
        for own, times, picks in plans:
            for pick in picks[at]:
                rates = [
                    sum(times[at][i] * model[i][0] for i in range(len(model)))
                    / sum(times[at][i] * model[i][1] for i in range(len(model)))
                    for model in own[pick]
                ]
                values.append(rates[1] - rates[0])
        drawn.append(sum(values) / len(values))
    return tuple(np.quantile(drawn, [0.025, 0.975]))


def test_two_level_interval_draws_images_of_each_world_and_its_seeds():
    rng = np.random.default_rng(0)
    worlds = ["a", "b", "a", "b", "a"]
    size = {"a": 12, "b": 9}
    runs = [(ratios(rng, size[w], 0.5), ratios(rng, size[w], 0.2)) for w in worlds]
    ends = two_level_difference(runs, worlds, samples=200, seed=3)
    assert ends == pytest.approx(brute_force(runs, worlds, 200, 3), abs=1e-12)


def width(ends):
    return ends[1] - ends[0]


def test_equal_seeds_add_nothing_and_unequal_ones_their_own_spread():
    rng = np.random.default_rng(1)
    run = ratios(rng, 80, 0.4), ratios(rng, 80, 0.2)
    one = two_level_difference([run], ["a"], samples=4000, seed=0)
    same = two_level_difference([run, run, run], ["a"] * 3, samples=4000, seed=0)
    assert width(same) == pytest.approx(width(one), rel=0.05)
    worse = run[0], run[1] + [[1, 1]]  # a seed that went wrong
    wide = two_level_difference([run, run, worse], ["a"] * 3, samples=4000, seed=0)
    differences = [b[:, 0].sum() / b[:, 1].sum() for b in (run[1], run[1], worse[1])]
    seeds = 2 * 1.96 * np.std(differences) / np.sqrt(3)
    assert seeds > 0.5 * width(one)
    assert width(wide) == pytest.approx(np.hypot(width(one), seeds), rel=0.1)


def test_it_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(2), 0
    truth, tries = -0.2, 200
    for _ in range(tries):
        shifts = rng.normal(0, 0.03, 6)
        runs = [(ratios(rng, 60, 0.5), ratios(rng, 60, 0.3 + shift)) for shift in shifts]
        low, high = two_level_difference(runs, ["a"] * 6, samples=300, seed=0)
        covered += low <= truth <= high
    assert 0.87 <= covered / tries <= 0.99  # 0.95 less what six seeds understate


def test_two_level_has_no_interval_without_a_denominator():
    nothing = np.zeros((4, 2)), np.ones((4, 2))
    assert two_level_difference([nothing], ["a"]) is None
    assert two_level_difference([], []) is None


def rows_of(*p_values):
    """Rows whose intervals have these p-values."""
    found = []
    for p in p_values:
        half = 1.959963984540054 / stats.norm.isf(p / 2)
        found.append({"difference": 1.0, "low": 1.0 - half, "high": 1.0 + half})
    return found


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        # as the function p.adjust of R, method holm, has them at most 0.05
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),
        ([0.01, 0.02, 0.04], [True, True, True]),
        ([0.03, 0.04], [False, False]),
        ([0.04], [True]),
        ([0.06], [False]),
        ([], []),
    ],
)
def test_rows_are_clear_of_zero_by_holm(p_values, expected):
    assert clear_of_zero(rows_of(*p_values)) == expected


def test_rows_without_an_interval_are_not_clear_and_are_no_tests():
    nothing = {"difference": 1.0, "low": None, "high": None}
    exact = {"difference": -0.5, "low": -0.5, "high": -0.5}
    assert clear_of_zero([nothing, *rows_of(0.04), nothing]) == [False, True, False]
    assert clear_of_zero([exact, *rows_of(0.04)]) == [True, True]
