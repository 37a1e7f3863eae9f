"""Our reader of judge replies beside the original's: it recovers more, and invents nothing."""

import json
import sys

import pytest

from hadpo.judges import case_mark
from hadpo.judges._sentences import read_tolerant, read_upstream
from hadpo.records import Case, Evidence
from hadpo.text import sentences

EVIDENCE = Evidence(image_id="1", image="", width=1, height=1)
C, H, J, U = "correct", "hallucination", "cannot judge", "unparsed"

# Golden cases that the original reads wrongly or not at all -> what ours reads.
RECOVERED = {
    "judgement lower-case heading": [C, H, J],
    "no heading at all": [C, H, J],
    "heading without colon": [C, H, J],
    "one judgement too few": [C, H, U],
    "reason over two lines": [C, H, J],
    "closing remark line": [C, H, J],
    "verdict with trailing space before colon": [C, H, J],
    "quoted verdicts": [C, H, J],
    "no space after number": [C, H, J],
    "no numbering": [C, H, J],
    "indented lines": [C, H, J],
    "unknown verdict words": [U, H, U],
}
LOST = {  # nothing to read, or no single answer in it
    "empty reply": [U, U, U],
    "heading only": [U, U, U],
    "hallucination or correct both named": [U, H, J],
}


def case_of(response):
    claims = tuple(s + "." for s in sentences(response))
    return Case(case_id="1", model="base", claims=claims, evidence=EVIDENCE)


def labels(reader, reply, response):
    return [v.label for v in reader(reply, case_of(response))]


def test_strictly_more_is_recovered_from_the_golden_cases(shared):
    cases = json.loads((shared / "golden" / "shr" / "shr_cases.json").read_text())["cases"]
    assert len(cases) >= 20
    assert {c["name"] for c in cases} > RECOVERED.keys() | LOST.keys()
    theirs = ours = 0
    for each in cases:
        upstream = labels(read_upstream, each["judge"], each["model_response"])
        found = labels(read_tolerant, each["judge"], each["model_response"])
        expected = RECOVERED.get(each["name"]) or LOST.get(each["name"]) or upstream
        assert found == expected, each["name"]
        theirs += len(upstream) - upstream.count(U)
        ours += len(found) - found.count(U)
    assert ours > theirs + 25


def test_the_replies_of_the_photos_are_read(shared):
    folder = shared / "data" / "photoset"
    expected = json.loads((folder / "replies" / "expected.json").read_text())["shr"]
    said = json.loads((folder / "shr" / "responses_example.json").read_text())
    assert expected
    for name, rulings in expected.items():
        reply = (folder / "replies" / name).read_text()
        response = said[name.removeprefix("shr_").removesuffix(".txt")]
        assert labels(read_tolerant, reply, response) == rulings, name


TWO = "A dog sits. A cat sleeps."


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("**Judgement:**\n\n1) **Hallucination**: no dog\n2) **Correct**: yes", [H, C]),
        ("Judgement: 1. correct: yes\n2. hallucination: no", [C, H]),
        ("1. Correct - there is one\n2. Cannot judge \u2013 who knows", [C, J]),
        ("1. correct: yes\n1. hallucination: no\n2. correct: a", [U, C]),
        ("1. correct: yes\n1. correct: again\n2. correct: a", [C, C]),
        ("1. correct: a\n2. correct: b\n3. correct: of another text", [U, U]),
        ("1. incorrect: no\n2. not a hallucination: fine", [U, U]),
        ("1. correct: a\n2. hallucination: there are\n3 dogs, not one", [U, U]),
        ("I cannot help with that.", [U, U]),
        ("<html><body>1. Log in</body></html>", [U, U]),
        ('```json\n{"verdicts": [{"number": 2, "label": "Correct", "reason": "b"}]}\n```', [U, C]),
        ('{"verdicts": "none"}', [U, U]),
        ('{"verdicts": [1, null, {"number": "x", "label": 3}]}', [U, U]),
        ('{"case": "other", "verdicts": [{"number": 1, "label": "correct"}]}', [U, U]),
    ],
)
def test_any_form_that_leaves_no_doubt(reply, expected):
    assert labels(read_tolerant, reply, TWO) == expected


def test_json_of_the_same_case_is_read():
    verdicts = [
        {"number": 1, "label": "correct", "reason": "seen"},
        {"number": 2, "label": "cannot judge", "reason": ""},
    ]
    reply = json.dumps({"case": case_mark(case_of(TWO)), "verdicts": verdicts})
    found = read_tolerant(reply, case_of(TWO))
    assert [(v.label, v.reason) for v in found] == [(C, "seen"), (J, "")]


def test_an_unread_reply_is_kept():
    assert {v.raw for v in read_tolerant("What?", case_of(TWO))} == {"What?"}


def test_the_table_of_what_is_recovered(shared):
    """`pytest -s` prints it: replies that the original's reader loses, and what ours makes of them.

    Every row has strictly more rulings than upstream, and none that upstream reads is changed.
    """
    cases = json.loads((shared / "golden" / "shr" / "shr_cases.json").read_text())["cases"]
    rows = []
    for each in cases:
        upstream = labels(read_upstream, each["judge"], each["model_response"])
        ours = labels(read_tolerant, each["judge"], each["model_response"])
        if each["name"] in RECOVERED:
            assert ours.count(U) < upstream.count(U), each["name"]
            rows.append((each["name"], upstream, ours))
        known = [(a, b) for a, b in zip(upstream, ours, strict=True) if a != U]
        assert all(a == b for a, b in known), each["name"]
    assert {name for name, *_ in rows} == RECOVERED.keys()
    gained = sum(theirs.count(U) - ours.count(U) for _, theirs, ours in rows)
    lines = [f"{'reply':44} rulings read by upstream, and by ours"]
    for name, theirs, ours in rows:
        counts = [f"{len(found) - found.count(U)} of {len(found)}" for found in (theirs, ours)]
        lines.append(f"{name:44} {counts[0]}, {counts[1]}")
    sys.stdout.write("\n".join([*lines, f"{gained} rulings more, of {len(rows)} replies", ""]))
    assert gained > 25
