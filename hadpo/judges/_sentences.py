"""The rubric of sentences, SHR's: right, hallucinated, or not to be judged; two readers of replies.

One reads replies as the original SHR script does, the other tolerantly.
"""

import re
from pathlib import Path
from typing import Any

from hadpo.judges._rubric import (
    Rubric,
    items_of,
    relative_boxes,
    reply_schema,
    texts_of,
    verdict,
    within,
)
from hadpo.records import Case, Verdict
from hadpo.text import json_object

_KNOWN = ("hallucination", "correct", "cannot judge")
_SAID = {
    **{name: name for name in _KNOWN},
    "hallucinated": "hallucination",
    "hallucinations": "hallucination",
    "can not judge": "cannot judge",
    "can't judge": "cannot judge",
    "cannot be judged": "cannot judge",
    "cannot_judge": "cannot judge",
}
_HEAD = re.compile(r"^\W*judge?ments?\b\W*", flags=re.IGNORECASE)
_NUMBERED = re.compile(r"^[\s*#>_(\[\-]*(\d{1,3})(?:\s*[.):\]]+|\s*-|\s)[\s*_]*(.*)$")
_END_OF_LABEL = re.compile(r"[:.;,(\u2013\u2014]|\s-\s")


def read_upstream(reply: str, case: Case) -> list[Verdict]:
    r"""Verdicts of a reply: lines "1. correct: reason" after the line with "Judgement:".

    One line too many or too few leaves every claim unparsed, as does a reply without that line
    (which stops the original). The class is all lower-cased text between the first space of a line
    and its first colon; a class that is not exactly one of the three is unparsed, its text kept in
    `raw`. Source: HA-DPO shr_eval/shr_utils.py, `post_process_no_revise`.
    """
    lines = [line for line in reply.split("\n") if line]
    heads = [number for number, line in enumerate(lines) if "Judgement:" in line]
    rulings: list[str] = []
    if heads:
        stripped = (" ".join(line.split(" ")[1:]).strip() for line in lines[heads[0] + 1 :])
        rulings = [line for line in stripped if line]
    if len(rulings) != len(case.claims):
        rulings = [""] * len(case.claims)
    found = []
    for number, line in enumerate(rulings, start=1):
        name, _, reason = line.partition(":")
        label: Any = name.lower() if name.lower() in _KNOWN else "unparsed"
        found.append(verdict(case, number, label, reason=reason.strip(), raw=line))
    return found


def read_tolerant(reply: str, case: Case) -> list[Verdict]:
    """Verdicts of a reply in any form that leaves no doubt: JSON, or lines of a number and a label.

    Case, markdown, quotes, a missing heading, blank, wrapped or additional lines do not matter, and
    a claim without a ruling leaves the others readable. Unparsed stay: labels that are none of the
    three, two different rulings on one claim, and every claim of a reply that numbers more claims
    than there are, or says that it is about another case.
    """
    value = json_object(reply, "verdicts")
    rulings = _of_lines(reply, case) if value is None else _of_json(value, case)
    found = []
    for number in range(1, len(case.claims) + 1):
        label, reason = rulings.get(number, ("", ""))
        known: Any = _SAID.get(label, "unparsed")
        raw = f"{label}: {reason}" if label else reply
        found.append(verdict(case, number, known, reason=reason if label else "", raw=raw))
    return found


def _of_json(value: dict[str, Any], case: Case) -> dict[int, tuple[str, str]]:
    rulings = [
        (number, _clean(str(each.get("label", ""))), str(each.get("reason", "")))
        for number, each in items_of(value, "verdicts", case, "number")
        if number is not None
    ]
    return _agreed(rulings, case)


def _of_lines(reply: str, case: Case) -> dict[int, tuple[str, str]]:
    numbered: list[tuple[int, str, str]] = []
    plain: list[tuple[int, str, str]] = []
    for line in reply.splitlines():
        line = _HEAD.sub("", line) if _HEAD.match(line) else line
        if match := _NUMBERED.match(line):
            label, reason = _label(match[2])
            numbered.append((int(match[1]), label, reason))
        elif _label(line)[0] in _SAID:
            plain.append((len(plain) + 1, *_label(line)))
        elif numbered and line.strip() and numbered[-1][0] < len(case.claims):
            number, label, reason = numbered[-1]  # a reason that goes on
            numbered[-1] = number, label, f"{reason} {line.strip()}"
    if numbered:
        return _agreed(numbered, case)
    return _agreed(plain, case) if len(plain) == len(case.claims) else {}


def _label(text: str) -> tuple[str, str]:
    """Label and reason of a ruling without its number."""
    match = _END_OF_LABEL.search(text)
    if match is None:
        return _clean(text), ""
    return _clean(text[: match.start()]), text[match.end() :].strip(" *_:-")


def _clean(label: str) -> str:
    return " ".join(label.strip("\"'`*_[]()<>- \t").lower().replace("\u2019", "'").split())


def _agreed(rulings: list[tuple[int, str, str]], case: Case) -> dict[int, tuple[str, str]]:
    """Ruling by number; none where a number is out of range, "conflict" where two differ."""
    found: dict[int, tuple[str, str]] = {}
    for number, label, reason in within(rulings, case):
        earlier = found.get(number)
        if earlier and _SAID.get(earlier[0]) != _SAID.get(label):
            label, reason = "conflict", f"{earlier[0]} and {label}"
        found[number] = earlier if earlier and label != "conflict" else (label, reason)
    return found


SENTENCES = Rubric(
    name="shr",
    **texts_of(Path(__file__).parent / "prompts", "shr"),
    read=read_tolerant,
    read_upstream=read_upstream,
    schema=reply_schema(
        "verdicts",
        number={"type": "integer"},
        label={"type": "string", "enum": ["hallucination", "correct", "cannot judge"]},
        reason={"type": "string"},
    ),
    regions=relative_boxes,
    by_annotations=lambda oracle, case: oracle.rule_on_sentences(case),
)
