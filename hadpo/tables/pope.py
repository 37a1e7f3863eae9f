"""POPE in full: the confusion matrix of each split and model, and McNemar's test."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from hadpo.tables import notes
from hadpo.tables._table import Column, Row, Table
from hadpo.tables.audit import CELLS, COUNTS
from hadpo.tables.measures import WORDS, measure_of, model_title
from hadpo.tables.results import RunResults

# McNemar's test: do two models that answered the same questions differ in how many are right?

_MCNEMAR_COUNTS = ("both", "only_first", "only_second", "neither", "n")


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p value: a fair coin for every question that only one got right."""
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts are not negative: {only_first}, {only_second}")
    tosses = only_first + only_second
    tail = sum(math.comb(tosses, heads) for heads in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**tosses)


def mcnemar_table(results: Sequence[RunResults]) -> Table | None:
    """Every model against its base, and the tuned models of the runs against each other.

    None if no yes/no questions were answered twice.
    """
    rows = []
    for result in results:
        for model in result.models:
            if model != "base":
                rows += _mcnemar_rows(result, result, "base", model)
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
            Column(
                "p",
                lambda row: "< 0.0001" if row["p"] < 1e-4 else f"{row['p']:.4f}",
                is_bold=lambda row: row["p"] < 0.05,
            ),
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
    names = [f"{r.name}, {model_title(m)}" for r, m in ((one, first), (other, second))]
    for (benchmark, split, model), (asked, right) in one.right.items():
        asked_too, right_too = other.right.get((benchmark, split, second), ("", ""))
        if model != first or asked != asked_too:
            continue
        pairs = Counter(zip(right, right_too, strict=True))  # "1": answered rightly
        counts = [pairs[key] for key in (("1", "1"), ("1", "0"), ("0", "1"), ("0", "0"))]
        row: Row = {"first": names[0], "second": names[1], "split": split}
        row |= dict(zip(_MCNEMAR_COUNTS, (*counts, len(right)), strict=True))
        row |= {"p": mcnemar(*counts[1:3]), "is_mini": one.is_mini or other.is_mini}
        found.append(row)
    return found


# POPE in full: the confusion matrix of each split and model, from which all its metrics follow.


def pope_table(results: Sequence[RunResults]) -> Table | None:
    """The confusion matrices of all runs, with their metrics; None if POPE was not evaluated."""
    rows = []
    for result in results:
        for split in dict.fromkeys(key[1] for key in result.metrics if key[0] == "pope"):
            for model in result.models:
                if accuracy := result.metrics.get(("pope", split, "accuracy", model)):
                    row = {"run": result.name, "split": split, "model": model, "n": accuracy.n}
                    row["n_unreadable"] = result.unreadable(("pope", split, "accuracy", model))
                    for name in (*COUNTS, *CELLS, WORDS):
                        row[name] = result.value(("pope", split, name, model))
                    rows.append(row | {"is_mini": result.is_mini})
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
