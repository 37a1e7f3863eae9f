"""Which confusion matrices a printed row of POPE can come from; whole-number arithmetic only."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hadpo.records import BadInput

CELLS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")
Cut = Literal["truncated", "rounded"]
_MOST_DIGITS = 9  # beyond them the products leave 64 bits


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Answers by what was said and what is true."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    def fraction(self, cell: str) -> tuple[int, int]:
        """Numerator and denominator of a metric; nothing said yes gives a precision of 0."""
        tp, fp, tn, fn = (
            self.true_positives,
            self.false_positives,
            self.true_negatives,
            self.false_negatives,
        )
        over, under = {
            "accuracy": (tp + tn, tp + fp + tn + fn),
            "precision": (tp, tp + fp),
            "recall": (tp, tp + fn),
            "f1": (2 * tp, 2 * tp + fp + fn),
            "yes_ratio": (tp + fp, tp + fp + tn + fn),
        }[cell]
        return over, under or 1

    def printed(self, cell: str, printed: "Printed", cut: Cut) -> str:
        """What a metric of this matrix looks like with the digits of `printed`."""
        over, under = self.fraction(cell)
        scaled = over * printed.scale
        whole = scaled // under if cut == "truncated" else (2 * scaled + under) // (2 * under)
        digits = f"{whole:0{printed.decimals + 1}d}"
        if not printed.decimals:
            return digits
        return f"{digits[: -printed.decimals]}.{digits[-printed.decimals :]}"


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A printed number: `whole` of 1/`scale`, so that no digit is lost."""

    text: str
    whole: int
    decimals: int
    scale: int

    def ends(self, cut: Cut) -> tuple[int, int, int, bool]:
        """Low and high end over a common denominator, and whether the high end belongs to it.

        A digit that was rounded may have been a half that went either way.
        """
        if cut == "truncated":
            return self.whole, self.whole + 1, self.scale, False
        return 2 * self.whole - 1, 2 * self.whole + 1, 2 * self.scale, True


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """How many confusion matrices print as a row does, and the first of them."""

    count: int
    first: Matrix | None
    true_positives: tuple[int, int] | None = None  # fewest and most, over all of them


def read_printed(text: str, *, is_percent: bool, where: str = "") -> Printed:
    """A number as it was printed, digit by digit.

    Raises:
        BadInput: no plain decimal number, or one with more digits than can be checked.
    """
    sign_free = text.strip()
    before, _, after = sign_free.partition(".")
    if not (before + after).isdigit() or not before or len(after) > _MOST_DIGITS:
        raise BadInput(f"{where}: found {text!r}, expected a number such as 86.13 or 0.8613")
    scale = 10 ** len(after) * (100 if is_percent else 1)
    return Printed(text=sign_free, whole=int(before + after), decimals=len(after), scale=scale)


def matrices(
    printed: Mapping[str, Printed], *, positives: int, negatives: int, cut: Cut
) -> Matrices:
    """All confusion matrices of `positives` and `negatives` questions that print as `printed`.

    For a fixed count of true positives each cell holds the false positives to one interval, so
    nothing is searched: the intervals of all cells are intersected for all counts at once.

    Args:
        printed: cells by name, any of `CELLS`; those that were not published are left out.
        positives: questions whose answer is yes.
        negatives: questions whose answer is no.
        cut: how the digits after the last printed one were dropped.
    """
    tp = np.arange(positives + 1, dtype=np.int64)
    low, high = np.zeros_like(tp), np.full_like(tp, negatives)
    for name, cell in printed.items():
        least, most = _BOUNDS[name](tp, positives, negatives, cell.ends(cut))
        low, high = np.maximum(low, least), np.minimum(high, most)
    counts = np.maximum(high - low + 1, 0)
    found = np.flatnonzero(counts)
    if not len(found):
        return Matrices(count=0, first=None)
    hit, false = int(found[0]), int(low[found[0]])
    first = Matrix(
        true_positives=hit,
        false_positives=false,
        true_negatives=negatives - false,
        false_negatives=positives - hit,
    )
    return Matrices(count=int(counts.sum()), first=first, true_positives=(hit, int(tp[found[-1]])))


def suspects(
    printed: Mapping[str, Printed], *, positives: int, negatives: int, cut: Cut
) -> list[tuple[tuple[str, ...], Matrices]]:
    """Of a row that no matrix fits: the smallest sets of cells without which one fits the rest.

    At least two cells always remain: one cell alone has a matrix for almost any number.
    """
    for size in range(1, len(printed) - 1):
        found = []
        for left_out in itertools.combinations(printed, size):
            rest = {name: cell for name, cell in printed.items() if name not in left_out}
            fitting = matrices(rest, positives=positives, negatives=negatives, cut=cut)
            if fitting.count:
                found.append((left_out, fitting))
        if found:
            return found
    return []


Ends = tuple[int, int, int, bool]
Span = tuple[np.ndarray, np.ndarray]
_FEW, _MANY = -(2**40), 2**40


def _at_least(tp: np.ndarray, other: np.ndarray | int, under: int, ends: Ends) -> Span:
    """Sums `s` with low <= s / under <= high, as an interval of `s - other`."""
    low, high, scale, is_closed = ends
    least = -(-low * under // scale)
    most = high * under // scale if is_closed else -(-high * under // scale) - 1
    return least - other + 0 * tp, most - other + 0 * tp


def _accuracy(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    least, most = _at_least(tp, tp + negatives, positives + negatives, ends)  # of minus fp
    return -most, -least


def _yes_ratio(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    return _at_least(tp, tp, positives + negatives, ends)


def _recall(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    least, most = _at_least(tp, 0, positives, ends)
    fits = (least <= tp) & (tp <= most)
    return np.where(fits, 0, _MANY), np.where(fits, negatives, _FEW)


def _precision(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    return _share(tp, tp, 1, ends)


def _f1(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    return _share(tp, tp + positives, 2, ends)


def _share(tp: np.ndarray, other: np.ndarray, times: int, ends: Ends) -> Span:
    """False positives for which `times` tp / (fp + other) lies between the ends."""
    low, high, scale, is_closed = ends
    over = times * scale * tp
    most = over // low - other if low > 0 else np.full_like(tp, _MANY)
    least = -(-over // high) - other if is_closed else over // high - other + 1
    zero = low <= 0  # no true positive: the share is 0, and that fits or it does not
    least = np.where(tp == 0, 0 if zero else _MANY, least)
    return least, np.where(tp == 0, _MANY if zero else _FEW, most)


_BOUNDS = {
    "accuracy": _accuracy,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "yes_ratio": _yes_ratio,
}


def slip(printed: str, implied: str) -> str:
    """How a misprint came about, where it is plain to see; empty where it is not."""
    if len(printed) != len(implied):
        return ""
    differ = [at for at, (one, two) in enumerate(zip(printed, implied, strict=True)) if one != two]
    if len(differ) == 1:
        return "one digit slipped"
    swapped = len(differ) == 2 and differ[1] - differ[0] == 1
    if (
        swapped
        and printed[differ[0]] == implied[differ[1]]
        and printed[differ[1]] == implied[differ[0]]
    ):
        return "two digits changed places"
    return ""
