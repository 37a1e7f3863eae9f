"""Judges rule on claims given evidence; a judge is one module with a function `make`.

`make(vocabulary=..., settings=...)` gives a `Judge`. A judge never drops a claim: what it cannot
decide is "cannot judge", a reply it cannot read is "unparsed", and both are counted in every
metric.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from hadpo.chat import ChatSettings, Reply, Unfinished
from hadpo.judges._agreement import Agreement, agreement, read_labelled
from hadpo.judges._rubric import (
    Rubric,
    case_mark,
    items_of,
    prompt_of,
    relative_boxes,
    reply_schema,
    texts_of,
    verdict,
    within,
)
from hadpo.judges._sentences import SENTENCES
from hadpo.records import BadInput, Case, Verdict

NOTHING_READ = "the judge could not be read at all"


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What judges are made of; all but the rubrics is for those that ask a language model."""

    chat: ChatSettings | None = None
    prompts: Path | None = None  # a user's own folder of prompts
    reader: Literal["tolerant", "upstream"] = "tolerant"
    attempts: int = 1  # a reply with unreadable parts is asked for again, up to so many in all
    replies: Path | None = None  # the cache of replies, or the file that replay reads
    rubrics: tuple[Rubric, ...] = (SENTENCES,)  # those that cases name

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise BadInput(f"judge_attempts starts at 1, found {self.attempts}")
        if self.reader == "upstream" and self.chat and self.chat.reply_format != "text":
            raise BadInput("judge_reader 'upstream' reads lines: set judge_format to 'text'")


@runtime_checkable
class Judge(Protocol):
    """Who rules on claims."""

    def rule(self, case: Case) -> list[Verdict]:
        """One verdict per claim of the case, in the order of the claims."""
        ...


@runtime_checkable
class AskingJudge(Judge, Protocol):
    """One that asks for replies, many at a time, and keeps account of them."""

    replies: Mapping[str, Reply]

    def rule_cases(self, cases: Sequence[Case]) -> list[list[Verdict]]:
        """The verdicts of each case."""
        ...

    def report(self) -> dict[str, Any]:
        """Usage, cost and prompts, for the manifest."""
        ...


def rule_all(judge: Judge, cases: Sequence[Case]) -> list[Verdict]:
    """The verdicts of all cases; raises ValueError if a judge breaks its contract."""
    if isinstance(judge, AskingJudge):
        ruled = judge.rule_cases(cases)
    else:
        ruled = [judge.rule(case) for case in cases]
    found: list[Verdict] = []
    for case, verdicts in zip(cases, ruled, strict=True):
        if [v.claim for v in verdicts] != list(case.claims):
            raise ValueError(
                f"judge {type(judge).__name__} gave {len(verdicts)} verdicts on the "
                f"{len(case.claims)} claims of case {case.case_id}, or in another order"
            )
        found += verdicts
    return found


def unread(verdicts: Sequence[Verdict], benchmark: str) -> str:
    """What to say of verdicts that are mostly, or all (`NOTHING_READ`), unread; "" of others."""
    lost = [v for v in verdicts if v.label == "unparsed"]
    if 2 * len(lost) <= len(verdicts):
        return ""
    how = NOTHING_READ if len(lost) == len(verdicts) else "the judge could mostly not be read"
    reasons = Counter(v.reason or "not of the form asked for" for v in lost)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return (
        f"{how}: {benchmark}, {len(lost)} of {len(verdicts)} verdicts ({why}); look at "
        "judge_replies.jsonl, and try another judge_format, judge_max_tokens or judge_model"
    )
