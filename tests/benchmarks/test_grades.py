"""Grades of several answers, in the label styles of both published prompts and in JSON."""

import json

import pytest

from hadpo.benchmarks.gavie import read_grades
from hadpo.judges import case_mark
from hadpo.records import Case, Evidence

EVIDENCE = Evidence(image_id="1", image="", width=1, height=1)


def case_of(answers):
    return Case(
        case_id="1",
        model="",
        claims=tuple(f"answer {i}" for i in range(answers)),
        evidence=EVIDENCE,
        rubric="gavie",
        question="What?",
        claim_models=tuple(f"model{i}" for i in range(answers)),
    )


def grades(reply, answers):
    found = read_grades(reply, case_of(answers))
    assert [v.place for v in found] == list(range(1, answers + 1))
    return [(v.scores.get("relevancy"), v.scores.get("accuracy")) for v in found]


def test_the_replies_of_the_photos_are_read(shared):
    folder = shared / "data" / "photoset" / "replies"
    expected = json.loads((folder / "expected.json").read_text())["gavie"]
    assert len(expected) >= 5
    for name, scores in expected.items():
        wanted = list(zip(scores["relevancy"], scores["accuracy"], strict=True))
        assert grades((folder / name).read_text(), len(wanted)) == wanted, name


LINES = (
    "Relevancy:\nscore of the answer1: {}\nreason: a\nscore of the answer2: 4\nreason: b\n"
    "Accuracy:\nscore of the answer1: 3\nreason: c\nscore of the answer2: 5\nreason: d"
)
NONE = (None, None)


@pytest.mark.parametrize("bad", ["11", "-1", "ten", "", "3 or 4"])
def test_no_grade_is_ever_made_up(bad):
    found = read_grades(LINES.format(bad), case_of(2))
    assert [v.label for v in found] == ["unparsed", "scored"]
    assert found[0].scores == {}
    assert found[0].raw
    assert found[1].reason == "relevancy: b; accuracy: d"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (LINES.format("0"), [(0, 3), (4, 5)]),
        (
            "## 1. Relevance\nScore of answer 1: 2\n## 2. Accuracy\nscore of answer 1 = 3/10",
            [(2, 3)],
        ),
        (LINES.format("1") + "\nscore of the answer3: 1", [NONE, NONE]),
        (LINES.format("1") + "\nscore of the answer1: 9", [NONE, (4, 5)]),
        ("Accuracy:\nscore: 3", [NONE]),
        ("score of answer1: 3", [NONE]),
        ("", [NONE]),
    ],
)
def test_forms(reply, expected):
    assert grades(reply, len(expected)) == expected


def test_json():
    row = {"answer": 1, "relevancy": 7, "relevancy_reason": "r", "accuracy": 2.5}
    mark = case_mark(case_of(1))
    assert grades(json.dumps({"case": mark, "scores": [row]}), 1) == [(7.0, 2.5)]
    assert grades(json.dumps({"case": "other", "scores": [row]}), 1) == [NONE]
    assert grades(json.dumps({"scores": [row | {"accuracy": True}]}), 1) == [NONE]
