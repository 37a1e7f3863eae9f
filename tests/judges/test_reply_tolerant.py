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

THREE = "A dog on a bench. A man beside it. The sky is blue."
LINES = "1. correct: a dog.\n2. hallucination: no man.\n3. cannot judge: not said."
# Replies that the original reads wrongly or not at all -> what ours reads.
RECOVERED = {
    "judgement:\n" + LINES: [C, H, J],
    LINES: [C, H, J],
    "Judgement\n" + LINES: [C, H, J],
    "Judgement:\n1. correct: a dog.\n2. hallucination: no man.": [C, H, U],
    "Judgement:\n" + LINES.replace("a dog.", "a dog\nand a bench."): [C, H, J],
    "Judgement:\n" + LINES + "\nOverall the comment is mostly right.": [C, H, J],
    "Judgement:\n1. correct : ok.\n2. hallucination : no.\n3. cannot judge : sky.": [C, H, J],
    'Judgement:\n1. "correct": ok.\n2. "hallucination": no.\n3. "cannot judge": sky.': [C, H, J],
    "Judgement:\n1.correct: ok.\n2.hallucination: no.\n3.cannot judge: sky.": [C, H, J],
    "Judgement:\ncorrect: ok it is.\nhallucination: none there.\ncannot judge: sky.": [C, H, J],
    "Judgement:\n" + LINES.replace("1.", "   1.").replace("2.", "   2."): [C, H, J],
    "Judgement:\n1. partially correct: half.\n2. hallucinated: no.\n3. unclear: sky.": [U, H, U],
}
LOST = {  # nothing to read, or no single answer in it
    "": [U, U, U],
    "Judgement:": [U, U, U],
    "Judgement:\n" + LINES.replace("1. correct", "1. hallucination or correct"): [U, H, J],
}


def case_of(response):
    claims = tuple(s + "." for s in sentences(response))
    return Case(case_id="1", model="base", claims=claims, evidence=EVIDENCE)


def labels(reader, reply, response):
    return [v.label for v in reader(reply, case_of(response))]


def recorded(shared):
    """Reply and description of every recorded case, by its name."""
    found = {}
    for path in sorted((shared / "golden" / "shr").glob("*.json")):
        for case in json.loads(path.read_text()).get("cases", []):
            found[path.name, case["name"]] = case["judge"], case["model_response"]
    assert found
    return found


def test_nothing_that_the_original_reads_is_read_otherwise(shared):
    for name, (reply, response) in recorded(shared).items():
        upstream = labels(read_upstream, reply, response)
        ours = labels(read_tolerant, reply, response)
        known = [(a, b) for a, b in zip(upstream, ours, strict=True) if a != U]
        assert all(a == b for a, b in known), name
        assert ours.count(U) <= upstream.count(U), name


@pytest.mark.parametrize("reply", RECOVERED)
def test_strictly_more_is_recovered(reply):
    upstream = labels(read_upstream, reply, THREE)
    assert labels(read_tolerant, reply, THREE) == RECOVERED[reply]
    assert upstream.count(U) > RECOVERED[reply].count(U)


@pytest.mark.parametrize("reply", LOST)
def test_nothing_is_made_up(reply):
    assert labels(read_tolerant, reply, THREE) == LOST[reply]


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

    Over all of them ours has strictly more rulings.
    """
    rows = []
    for (_, name), (reply, response) in recorded(shared).items():
        upstream = labels(read_upstream, reply, response)
        ours = labels(read_tolerant, reply, response)
        if ours.count(U) < upstream.count(U):
            rows.append((name, upstream, ours))
    gained = sum(upstream.count(U) - ours.count(U) for _, upstream, ours in rows)
    lines = [f"{'reply':44} rulings read by upstream, and by ours"]
    for name, upstream, ours in rows:
        counts = [f"{len(found) - found.count(U)} of {len(found)}" for found in (upstream, ours)]
        lines.append(f"{name:44} {counts[0]}, {counts[1]}")
    sys.stdout.write("\n".join([*lines, f"{gained} rulings more, of {len(rows)} replies", ""]))
    assert gained > 0
