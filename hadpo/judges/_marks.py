"""Read an examiner's marks: which of several answers say what the right answer says."""

import re
from typing import Any

from hadpo.judges._reply import is_of_case, json_object
from hadpo.records import Case, Verdict

_SAID = {"correct": "correct", "right": "correct", "incorrect": "incorrect", "wrong": "incorrect"}
_LINE = re.compile(
    r"^\W*(?:student\s*)?answer\s*#?\s*(\d+)\W+(incorrect|correct|wrong|right)\b(.*)$",
    re.IGNORECASE,
)
_ALONE = re.compile(r"^\W*(incorrect|correct|wrong|right)\b(.*)$", re.IGNORECASE)


def read_marks(reply: str, case: Case) -> list[Verdict]:
    """A verdict per answer: "correct", "incorrect" or, where there is no single mark, "unparsed".

    Read are JSON, and lines "Student Answer1: correct" (of a single answer also "correct" alone).
    Marks of answers that are not there make the whole reply unreadable.
    """
    value = json_object(reply)
    marks = _of_lines(reply, len(case.claims)) if value is None else _of_json(value, case)
    if any(not 1 <= place <= len(case.claims) for place, _, _ in marks):
        marks = []
    found = []
    for place, claim in enumerate(case.claims, start=1):
        own = [(label, reason) for number, label, reason in marks if number == place]
        is_clear = len({label for label, _ in own}) == 1
        label: Any = own[0][0] if is_clear else "unparsed"
        found.append(
            Verdict(
                case_id=case.case_id,
                model=case.model_of(place - 1),
                claim=claim,
                label=label,
                reason=own[0][1] if is_clear else "",
                raw="" if is_clear else reply,
                place=place,
            )
        )
    return found


Marks = list[tuple[int, str, str]]  # number of the answer, label, reason


def _of_lines(reply: str, answers: int) -> Marks:
    found: Marks = []
    for line in reply.splitlines():
        if match := _LINE.match(line):
            found.append((int(match[1]), _SAID[match[2].lower()], match[3].strip(" .:-*_")))
        elif answers == 1 and (match := _ALONE.match(line)):
            found.append((1, _SAID[match[1].lower()], match[2].strip(" .:-*_")))
    return found


def _of_json(value: dict[str, Any], case: Case) -> Marks:
    marks = value.get("marks")
    if not isinstance(marks, list) or not is_of_case(value, case):
        return []
    found: Marks = []
    for place, each in enumerate(marks, start=1):
        label = (
            _SAID.get(str(each.get("mark", "")).strip().lower()) if isinstance(each, dict) else None
        )
        number = each.get("answer", place) if label else 0
        if label and isinstance(number, int):
            found.append((number, label, str(each.get("reason", ""))))
    return found
