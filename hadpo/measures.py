"""Measures: what a metric is called, its unit, which way is better; ratios, and those of POPE."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "..."] | np.float64  # numpy gives a number, not an array, for one draw


@dataclass(frozen=True)
class Measure:
    """How one metric of a benchmark is shown and computed; `name` is the metric's own.

    A metric is the ratio of two sums over answers, those of the benchmark's `tally`. Of a "count"
    it is the first sum alone. `of` makes it of the values of other metrics instead, by name; its
    arrays have one value for each bootstrap draw (NaN: no valid denominator).
    """

    name: str
    label: str
    unit: Literal["percent", "number", "count"] = "percent"  # percent: a fraction in files
    better: Literal["higher", "lower", ""] = ""
    is_headline: bool = True  # in the main comparison, not only in the benchmark's table
    is_read: bool = False  # by a judge or a reading: what is unreadable is missing, and counted
    is_shared: bool = True  # its sums for each image are kept, so that runs can be paired
    needs_whole_answers: bool = False  # no value if decoding ends answers early
    counts_answers: bool = False  # its n is the number of answers, not its denominator
    of: Callable[[Mapping[str, Values]], Values] | None = None

    @property
    def is_fraction(self) -> bool:
        """Whether files hold a fraction, and tables percent."""
        return self.unit == "percent"

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label} (%)" if self.is_fraction else self.label

    def way(self, difference: float) -> str:
        """`better` or `worse`, of a difference that is not 0; empty if neither way is better."""
        return self.better and (
            "better" if (difference > 0) == (self.better == "higher") else "worse"
        )

    @property
    def scale(self) -> str:
        """What a number lies between, if its label says so: "0 to 10" of "relevancy (0-10)"."""
        return self.label.partition("(")[2].rstrip(")").replace("-", " to ")


def ratio(over: Values, under: Values) -> Values:
    """A ratio, NaN where its denominator is 0."""
    empty = under == 0
    return np.where(empty, np.nan, over / np.where(empty, 1, under))


def yes_no_rates(
    *,
    true_positives: int,
    false_positives: int,
    true_negatives: int,
    false_negatives: int,
    unread_yes: int = 0,
    unread_no: int = 0,
) -> dict[str, tuple[int, int]]:
    """POPE's five rates of a confusion matrix, as numerators and denominators.

    They are linear in the counts: those of a set of answers are the sums of those of each answer.

    Positive: said yes. `unread_yes` and `unread_no` are answers that say neither, to questions
    whose right answer is yes and no: they are wrong, and found nothing.
    """
    said_yes = true_positives + false_positives
    true_yes = true_positives + false_negatives + unread_yes
    answers = true_yes + false_positives + true_negatives + unread_no
    return {
        "accuracy": (true_positives + true_negatives, answers),
        "precision": (true_positives, said_yes),
        "recall": (true_positives, true_yes),
        "f1": (2 * true_positives, said_yes + true_yes),
        "yes_ratio": (said_yes, answers),
    }


def harmonic_mean(precision: Values, recall: Values) -> Values:
    """F1, in the order of POPE's own script, so that its last bit is the same."""
    return ratio(2 * precision * recall, precision + recall)
