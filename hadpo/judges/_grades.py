"""Read a language model's grades of several answers: relevancy and accuracy, from 0 to 10."""

import re
from typing import Any

from hadpo.judges._reply import is_of_case
from hadpo.records import Case, Verdict
from hadpo.text import json_object

CRITERIA = ("relevancy", "accuracy")
_SECTION = re.compile(r"^\W*(?:\d+[.)]\W*)?(relevancy|relevance|accuracy)\b\W*$", re.IGNORECASE)
_SCORE = re.compile(
    r"^\W*score\s+(?:of|for)\s+(?:the\s+)?answer\s*#?\s*(\d+)[\s*_]*[:=]?[\s*_]*"
    r"(-?\d+(?:\.\d+)?)(?:\s*/\s*10)?\W*$",
    re.IGNORECASE,
)
_ONLY_SCORE = re.compile(
    r"^\W*score[\s*_]*[:=]?[\s*_]*(-?\d+(?:\.\d+)?)(?:\s*/\s*10)?\W*$", re.IGNORECASE
)
_REASON = re.compile(r"^\W*reason\W*[:=]\W*(.*)$", re.IGNORECASE)

Grades = dict[tuple[str, int], tuple[float, str]]  # criterion, answer -> grade, reason


def read_grades(reply: str, case: Case) -> list[Verdict]:
    """A verdict per answer, label "scored" where both grades are there, else "unparsed".

    Read are JSON, and sections "Relevancy" and "Accuracy" in any order, with lines "score of the
    answer1: 7" or "score of answer1: 7/10" (of a single answer also "score: 7") and "reason: ...".
    A grade outside of 0 to 10, or two grades for one thing, count as none: never as 0.
    """
    value = json_object(reply)
    grades = _of_lines(reply, len(case.claims)) if value is None else _of_json(value, case)
    found = []
    for place, claim in enumerate(case.claims, start=1):
        own = {name: grades[name, place] for name in CRITERIA if (name, place) in grades}
        is_whole = len(own) == len(CRITERIA)
        reasons = [f"{name}: {reason}" for name, (_, reason) in own.items() if reason]
        found.append(
            Verdict(
                case_id=case.case_id,
                model=case.model_of(place - 1),
                claim=claim,
                label="scored" if is_whole else "unparsed",
                reason="; ".join(reasons),
                raw="" if is_whole else reply,
                scores={name: grade for name, (grade, _) in own.items()} if is_whole else {},
                place=place,
            )
        )
    return found


def _of_lines(reply: str, answers: int) -> Grades:
    rows: list[tuple[str, int, float, str]] = []
    section = ""
    for line in reply.splitlines():
        if match := _SECTION.match(line):
            section = "accuracy" if match[1].lower() == "accuracy" else "relevancy"
        elif section and (match := _SCORE.match(line)):
            rows.append((section, int(match[1]), float(match[2]), ""))
        elif section and answers == 1 and (match := _ONLY_SCORE.match(line)):
            rows.append((section, 1, float(match[1]), ""))
        elif rows and (match := _REASON.match(line)):
            rows[-1] = (*rows[-1][:3], match[1].strip())
    return _agreed(rows, answers)


def _of_json(value: dict[str, Any], case: Case) -> Grades:
    scores = value.get("scores")
    if not isinstance(scores, list) or not is_of_case(value, case):
        return {}
    rows: list[tuple[str, int, float, str]] = []
    for place, each in enumerate(scores, start=1):
        for name in CRITERIA:
            grade = each.get(name) if isinstance(each, dict) else None
            if isinstance(grade, int | float) and not isinstance(grade, bool):
                number = each.get("answer", place)
                reason = str(each.get(f"{name}_reason", ""))
                rows.append((name, number if isinstance(number, int) else 0, float(grade), reason))
    return _agreed(rows, len(case.claims))


def _agreed(rows: list[tuple[str, int, float, str]], answers: int) -> Grades:
    """Grades in range, one each; nothing where an answer is graded that is not there."""
    if any(not 1 <= number <= answers for _, number, _, _ in rows):
        return {}
    found: Grades = {}
    twice = set()
    for name, number, grade, reason in rows:
        if (name, number) in found:
            twice.add((name, number))
        if 0 <= grade <= 10:
            found[name, number] = grade, reason
    return {key: value for key, value in found.items() if key not in twice}
