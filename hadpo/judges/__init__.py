"""Judges rule on claims given evidence; a judge is one module with a function `make`.

`make(vocabulary=..., ...)` gives a `Judge`. A judge never drops a claim: what it cannot decide is
"cannot judge", a reply it cannot read is "unparsed", and both are counted in every metric.
"""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from hadpo.records import Case, Verdict


@runtime_checkable
class Judge(Protocol):
    """Who rules on claims."""

    def rule(self, case: Case) -> list[Verdict]:
        """One verdict per claim of the case, in the order of the claims."""
        ...


def rule_all(judge: Judge, cases: Iterable[Case]) -> list[Verdict]:
    """The verdicts of all cases; raises ValueError where a judge breaks its contract."""
    found: list[Verdict] = []
    for case in cases:
        verdicts = judge.rule(case)
        if [v.claim for v in verdicts] != list(case.claims):
            raise ValueError(
                f"judge {type(judge).__name__} gave {len(verdicts)} verdicts on the "
                f"{len(case.claims)} claims of case {case.case_id}, or in another order"
            )
        found += verdicts
    return found
