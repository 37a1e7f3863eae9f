"""How far a judge agrees with labels that people gave, before money is spent on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hadpo.judges._sentences import SENTENCES
from hadpo.records import BadInput, Case, Verdict, read_jsonl

LABELS = ("correct", "hallucination", "cannot judge")


@dataclass(frozen=True, kw_only=True)
class LabelledCase:
    """A case, and what a person says of each of its claims: a line of the file of labels."""

    case: Case
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A judge beside people; an unparsed ruling agrees with nobody."""

    claims: int
    unparsed: int
    accuracy: float
    kappa: float | None  # Cohen's; None where chance alone would agree always
    confusion: dict[str, dict[str, int]]  # person's label -> judge's -> claims


def read_labelled(path: Path) -> list[LabelledCase]:
    """The cases of a file of hand labels: JSON lines of `case` and `labels`.

    Raises:
        BadInput: a broken line, other than one label per claim, or an unknown label.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected JSON lines with the fields case and labels")
    found = list(read_jsonl(path, LabelledCase))
    for number, each in enumerate(found, start=1):
        unknown = sorted(set(each.labels) - set(LABELS))
        if unknown or len(each.labels) != len(each.case.claims):
            raise BadInput(
                f"{path}: record {number}: expected a label for each of the "
                f"{len(each.case.claims)} claims, each of {', '.join(LABELS)}; found {each.labels}"
            )
        if each.case.rubric != SENTENCES.name:
            raise BadInput(
                f"{path}: record {number}: only cases of rubric {SENTENCES.name!r} have labels"
            )
    counts = Counter((each.case.case_id, each.case.model) for each in found)
    if twice := [case for (case, _), count in counts.items() if count > 1][:5]:
        raise BadInput(f"{path}: case_id {', '.join(twice)} stands in it twice for one model")
    if not any(each.labels for each in found):
        raise BadInput(f"{path}: no labelled claim")
    return found


def agreement(labelled: Sequence[LabelledCase], verdicts: Sequence[Verdict]) -> Agreement:
    """Accuracy, Cohen's kappa and confusion; verdicts in the order of the cases and claims."""
    said = [label for each in labelled for label in each.labels]
    ruled = [verdict.label for verdict in verdicts]
    pairs = Counter(zip(said, ruled, strict=True))
    total = len(said)
    same = sum(count for (one, other), count in pairs.items() if one == other) / total
    people, judge = Counter(said), Counter(ruled)
    chance = sum(people[label] * judge[label] for label in LABELS) / total**2
    return Agreement(
        claims=total,
        unparsed=judge["unparsed"],
        accuracy=same,
        kappa=(same - chance) / (1 - chance) if chance < 1 else None,
        confusion={
            label: {other: pairs[label, other] for other in (*LABELS, "unparsed")}
            for label in LABELS
        },
    )
