"""POPE in full: the confusion matrix of each split and model, and McNemar's test."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from hadpo.records import BadInput
from hadpo.tables import notes
from hadpo.tables._table import Column, Row, Table
from hadpo.tables.audit import CELLS, COUNTS
from hadpo.tables.measures import WORDS, measure_of, model_title
from hadpo.tables.results import RunResults

# McNemar's test: do two models that answered the same questions differ in how many are right?

_MCNEMAR_COUNTS = ("both", "only_first", "only_second", "neither", "n")


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p value: a fair coin for every question that only one got right.

    Args:
        only_first: questions that only the first model answered rightly.
        only_second: questions that only the second did.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts are not negative: {only_first}, {only_second}")
    tosses = only_first + only_second
    tail = sum(math.comb(tosses, heads) for heads in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**tosses)


def count_right(first: str, second: str) -> dict[str, int]:
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

    None if no yes/no questions were answered twice.
    """
    rows = []
    for result in results:
        pairs = [("base", m) for m in result.models if m != "base"]
        rows += [
            row for first, second in pairs for row in _mcnemar_rows(result, result, first, second)
        ]
    for one, other in itertools.combinations(results, 2):
        rows += _mcnemar_rows(one, other, "merged", "merged")
    if not rows:
        return None
    heads = ("Both right", "Only first", "Only second", "Neither", "n")
    return Table(
        name="mcnemar",
        caption="POPE: questions that only one of two models answered rightly, McNemar's test",
        rows=rows,
        columns=[
            *(Column(name.capitalize(), name) for name in ("first", "second", "split")),
            *(Column(*pair) for pair in zip(heads, _MCNEMAR_COUNTS, strict=True)),
            Column("p", lambda row: _p(row["p"]), is_bold=lambda row: row["p"] < 0.05),
        ],
        values=("first", "second", "split", *_MCNEMAR_COUNTS, "p", "is_mini"),
        notes=(
            "p: exact and two-sided, of the questions that only one model answered rightly; no "
            "correction for the number of tests. Bold: below 0.05.",
            "Questions of one image are not independent, so these p are too small rather than too "
            "large; the intervals of the comparison are over images.",
        ),
        is_mini=any(result.is_mini for result in results),
    )


def _mcnemar_rows(one: RunResults, other: RunResults, first: str, second: str) -> list[Row]:
    found = []
    for benchmark, split, model in one.right:
        if model != first:
            continue
        asked, right = one.right[benchmark, split, first]
        asked_too, right_too = other.right.get((benchmark, split, second), ("", ""))
        if asked != asked_too:
            continue
        counts = count_right(right, right_too)
        names = [f"{r.name}, {model_title(m)}" for r, m in ((one, first), (other, second))]
        row: Row = {"first": names[0], "second": names[1], "split": split, **counts}
        row["p"] = mcnemar(counts["only_first"], counts["only_second"])
        found.append(row | {"is_mini": one.is_mini or other.is_mini})
    return found


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


# POPE in full: the confusion matrix of each split and model, from which all its metrics follow.


def confusion_rows(results: Sequence[RunResults]) -> list[Row]:
    """One row per run, split and model: the four counts, the five metrics, n and unreadable."""
    rows = []
    for result in results:
        splits = list(dict.fromkeys(key[1] for key in result.metrics if key[0] == "pope"))
        for split in splits:
            for model in result.models:
                accuracy = result.metrics.get(("pope", split, "accuracy", model))
                if accuracy is None:
                    continue
                row = {"run": result.name, "split": split, "model": model, "n": accuracy.n}
                row["n_unreadable"] = result.unreadable(("pope", split, "accuracy", model))
                for name in (*COUNTS, *CELLS):
                    row[name] = result.value(("pope", split, name, model))
                row[WORDS] = result.value(("pope", split, WORDS, model))
                rows.append(row | {"is_mini": result.is_mini})
    return rows


def pope_table(results: Sequence[RunResults]) -> Table | None:
    """The confusion matrices of all runs; None if POPE was not evaluated."""
    if not results:
        raise BadInput("an empty comparison: name at least one evaluated run")
    rows = confusion_rows(results)
    if not rows:
        return None
    columns = [
        Column("Split", "split"),
        Column("Model", lambda row: model_title(row["model"])),
        *(
            Column(title, name, digits=0)
            for title, name in zip(("TP", "FP", "TN", "FN"), COUNTS, strict=True)
        ),
        *(Column(measure_of("pope", name).label, name, unit="%") for name in CELLS),
        Column("n", "n"),
        Column("Unreadable", "n_unreadable"),
        Column("Words per answer", WORDS, digits=1),
    ]
    return Table(
        name="pope",
        caption="POPE: what was said to which questions",
        rows=rows,
        columns=columns if len(results) == 1 else [Column("Run", "run"), *columns],
        values=("run", "split", "model", *COUNTS, *CELLS, "n", "n_unreadable", WORDS, "is_mini"),
        notes=(
            "Positive: said yes. A yes ratio far from the share of yes questions (half) is a bias; "
            "accuracy hides it, recall rewards it.",
            *notes.of_answers(results),
        ),
        is_mini=any(result.is_mini for result in results),
    )
