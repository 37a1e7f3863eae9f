"""McNemar's test: do two models that answered the same questions differ in how many are right?"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hadpo.tables._table import MISSING, Table, frame_of, show_frame
from hadpo.tables.measures import model_title
from hadpo.tables.results import RunResults
from hadpo.tables.rows import models_of

_COUNTS = ("both", "only_first", "only_second", "neither", "n")


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p value: a fair coin for every question that only one got right.

    Args:
        only_first: questions that only the first model answered rightly.
        only_second: questions that only the second did.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts are not negative: {only_first}, {only_second}")
    tosses = only_first + only_second
    term, total = 1, 1
    for heads in range(1, min(only_first, only_second) + 1):
        term = term * (tosses - heads + 1) // heads
        total += term
    return min(1.0, 2 * total / 2**tosses)


def agreement(first: str, second: str) -> dict[str, int]:
    """How often both, one or none of two models is right.

    Args:
        first: "1" for each question that the first model answered rightly, "0" for each other.
        second: the same of the second model, on the same questions in the same order.
    """
    pairs = Counter(zip(first, second, strict=True))
    return {
        "both": pairs["1", "1"],
        "only_first": pairs["1", "0"],
        "only_second": pairs["0", "1"],
        "neither": pairs["0", "0"],
        "n": len(first),
    }


def mcnemar_table(results: Sequence[RunResults]) -> Table | None:
    """Every model against its base, and the tuned models of the runs against each other.

    None where no yes/no questions were answered twice.
    """
    rows = []
    for result in results:
        pairs = [("base", m) for m in models_of(result) if m != "base"]
        rows += [row for first, second in pairs for row in _rows(result, result, first, second)]
    for one, other in itertools.combinations(results, 2):
        rows += _rows(one, other, "merged", "merged")
    if not rows:
        return None
    heads = ("Both right", "Only first", "Only second", "Neither", "n")
    cells = []
    for row in rows:
        texts = {head: str(row[name]) for head, name in zip(heads, _COUNTS, strict=True)}
        texts |= {"First": row["first"], "Second": row["second"], "Split": row["split"]}
        cells.append(texts | {"p": _p(row["p"])})
    return Table(
        name="mcnemar",
        caption="POPE: questions that only one of two models answered rightly, McNemar's test",
        frame=frame_of(rows, ("first", "second", "split", *_COUNTS, "p", "is_mini")),
        shown=show_frame(cells, ["First", "Second", "Split", *heads, "p"]),
        bold=frozenset((at, "p") for at, row in enumerate(rows) if row["p"] < 0.05),
        notes=(
            "p: exact and two-sided, of the questions that only one model answered rightly; no "
            "correction for the number of tests. Bold: below 0.05.",
            "Questions of one image are not independent, so these p are too small rather than too "
            "large; the intervals of the comparison are over images.",
        ),
        is_mini=any(result.is_mini for result in results),
    )


def _rows(one: RunResults, other: RunResults, first: str, second: str) -> list[dict[str, Any]]:
    found = []
    for benchmark, split, model in one.right:
        if model != first:
            continue
        asked, right = one.right[benchmark, split, first]
        asked_too, right_too = other.right.get((benchmark, split, second), ("", ""))
        if asked != asked_too:
            continue
        counts = agreement(right, right_too)
        names = [f"{r.name}, {model_title(m)}" for r, m in ((one, first), (other, second))]
        row: dict[str, Any] = {"first": names[0], "second": names[1], "split": split, **counts}
        row["p"] = mcnemar(counts["only_first"], counts["only_second"])
        found.append(row | {"is_mini": one.is_mini or other.is_mini})
    return found


def _p(value: float) -> str:
    if value is None:
        return MISSING
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
