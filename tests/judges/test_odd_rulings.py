"""Replies in odd forms: every reader reads what leaves no doubt, and survives everything else."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo.benchmarks.gavie import read_grades
from hadpo.benchmarks.gqa import read_marks
from hadpo.instructions.generate import read_blocks
from hadpo.judges import unread
from hadpo.judges._sentences import read_tolerant, read_upstream
from hadpo.pairs.asked import read_rulings
from hadpo.records import Case, Evidence, Verdict
from hadpo.text import json_object, without_thoughts

EVIDENCE = Evidence(image_id="1", image="", width=1, height=1)
CASE = Case(case_id="1", model="base", claims=("A dog.", "A cat."), evidence=EVIDENCE)
C, H, U = "correct", "hallucination", "unparsed"
RULINGS = [{"number": 1, "label": C}, {"number": 2, "label": H}]
BOTH = json.dumps({"verdicts": RULINGS})
OTHER = json.dumps({"verdicts": RULINGS[:1]})

CLEAR = {
    "note behind": BOTH + "\n\nNote: {region 3} counts as {the same}.",
    "braces before": "The form is {case, verdicts}.\n" + BOTH,
    "fence": f"Sure:\n```json\n{BOTH}\n```\nDone.",
    "brackets before": "As for [1] and [a, b]:\n" + BOTH,
    "list alone": json.dumps(RULINGS),
    "list in a fence": f"```\n{json.dumps(RULINGS)}\n``` {{}}",
    "object in a list": f"[{BOTH}]",
    "numbers as text": BOTH.replace(": 1", ': "1"').replace(": 2", ': " 2 "'),
    "numbers as float": BOTH.replace(": 1", ": 1.0").replace(": 2", ': "2.0"'),
    "no numbers": json.dumps({"verdicts": [{"label": C}, {"label": H}]}),
    "said twice": f"{BOTH}\nAgain: {BOTH}",
    "another object": '{"regions": [1, 2]}\n' + BOTH,
    "lines with braces": '1. correct: see {"region": 3}\n2. hallucination: {no}',
}
DOUBTFUL = {
    "two rulings": f"{BOTH} or {OTHER}",
    "broken object": BOTH[:-1],
    "part of a broken object": f'{{"case": "x", "verdicts": {json.dumps(RULINGS)}, oops}}',
    "third claim": json.dumps({"verdicts": [*RULINGS, {"number": 3, "label": C}]}),
    "half numbers": BOTH.replace(": 1", ": 1.5").replace(": 2", ": 2.5"),
    "yes for a number": BOTH.replace(": 1", ": true").replace(": 2", ": null"),
    "no list": json.dumps({"verdicts": {"1": C}}),
    "another case": json.dumps({"case": "else", "verdicts": RULINGS}),
    "deep": "[" * 5000 + BOTH,
}


@pytest.mark.parametrize("name", CLEAR)
def test_what_leaves_no_doubt_is_read(name):
    assert [v.label for v in read_tolerant(CLEAR[name], CASE)] == [C, H]


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_doubt_is_unparsed(name):
    assert [v.label for v in read_tolerant(DOUBTFUL[name], CASE)] == [U, U]


def test_the_other_readers_take_numbers_and_lists_alike():
    grades = [{"answer": "1", "relevancy": "7", "accuracy": 3.0}, {"answer": 2.0}]
    found = read_grades(f"Here: {json.dumps(grades)}", CASE)
    assert [v.label for v in found] == ["scored", U]
    assert found[0].scores == {"relevancy": 7.0, "accuracy": 3.0}
    marks = [{"answer": "2", "mark": "right"}, {"answer": 1.0, "mark": "wrong"}]
    assert [v.label for v in read_marks(json.dumps(marks), CASE)] == ["incorrect", "correct"]
    rulings = [
        {"index": "1", "verdict": "correct", "corrected_sentence": ""},
        {"index": 2.0, "verdict": "hallucination", "corrected_sentence": "A bird"},
    ]
    read = read_rulings(json.dumps(rulings), CASE.claims)
    assert read and [r.corrected for r in read] == ["", "A bird"]
    swapped = [rulings[0] | {"index": "2"}, rulings[1]]
    assert read_rulings(json.dumps(swapped), CASE.claims) is None


def test_mostly_unread_and_not_read_at_all_are_said():
    def verdicts(*labels):
        return [Verdict(case_id="1", model="m", claim="c", label=label) for label in labels]

    assert unread(verdicts(C, U), "shr") == ""
    assert unread([], "shr") == ""
    most = unread(verdicts(C, U, U), "shr")
    assert "mostly not be read: shr, 2 of 3 verdicts (2 x not of the form asked for)" in most
    assert "could not be read at all: shr, 2 of 2" in unread(verdicts(U, U), "shr")


PIECES = st.sampled_from(
    [
        *('{"verdicts": [', '{"number": 1, "label": "correct"}', "]", "}", "{", "[", ",", "\n"),
        *("1. correct: yes", "2.", "hallucination", "Judgement:", "<think>", "</think>", "```json"),
        *('{"scores": [', '{"answer": 1, "accuracy": 1e999}', "score of the answer1: 7", "NaN"),
        *('"marks"', ":", "null", "-0", "9" * 5000, "\u2028", "\ud800", "\x00", "Accuracy", '"'),
        *('{"sentences": [', '{"index": 1}', '{"instructions": [', "Instruction: x", "Answer: y"),
    ]
)
REPLIES = st.lists(PIECES | st.text(max_size=5), max_size=14).map("".join)
READERS = (read_tolerant, read_upstream, read_grades, read_marks)


@given(reply=REPLIES)
@settings(max_examples=400, deadline=None)
def test_any_reply_gives_a_verdict_for_each_claim(reply):
    said = without_thoughts(reply)
    for read in READERS:
        assert [v.claim for v in read(said, CASE)] == list(CASE.claims)
    rulings = read_rulings(said, CASE.claims)
    assert rulings is None or len(rulings) == 2
    blocks, rejected = read_blocks(said)
    assert blocks or sum(rejected.values())
    assert json_object(said, "verdicts") is None or isinstance(json_object(said, "verdicts"), dict)
