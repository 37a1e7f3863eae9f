"""GQA with an examiner: cases, marks in any form, accuracy by hand; server and oracle."""

import functools
import json

import pytest

from hadpo import benchmarks
from hadpo.benchmarks import gqa
from hadpo.chat import ChatSettings
from hadpo.config import EvaluateConfig
from hadpo.data import Report
from hadpo.data import gqa as data
from hadpo.judges import JudgeSettings, case_mark, llm, oracle, rule_all
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.mini.instructions import gqa_questions
from hadpo.mini.world import scenes
from hadpo.records import Answer, BadInput, Evidence

KNOWN = {k: Evidence(image_id=k, image=f"{k}.jpg", width=9, height=9) for k in ("1", "2")}
FILE = {
    "07a": {"question": "What color is the cup?", "answer": "dark blue", "imageId": "1", "x": 1},
    "07b": {"question": "Is it day?", "answer": "yes", "imageId": 2},
    "07c": {"question": "Who?", "answer": "man", "imageId": "n161313"},
}
C, W, U = "correct", "incorrect", "unparsed"
score = functools.partial(benchmarks.score, "gqa")


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps(FILE))
    report = Report()
    found = data.questions(tmp_path / "q.json", KNOWN, report)
    assert data.image_ids(tmp_path / "q.json", report) == ["1", "2", "n161313"]
    assert list(report.finish().values()) == [1]  # an image that Visual Genome does not have
    return found


def answer(key, model, text):
    image = FILE[key]["imageId"]
    return Answer(
        question_id=f"gqa-{key}",
        benchmark="gqa",
        split="all",
        model=model,
        image_id=str(image),
        text=text,
        tokens=3,
        finish="stop",
    )


def cases(answers, asked, **settings):
    questions = {q.question_id: q for q in asked}
    return gqa.cases(answers, questions, KNOWN, EvaluateConfig(**settings))


@pytest.fixture
def said():
    return [
        answer("07a", "base", "The cup is dark blue.</s>"),
        answer("07b", "base", "No.###"),
        answer("07a", "merged", "It is blue and dark.</Img>"),
        answer("07b", "merged", "Yes, it is."),
    ]


def test_cases_hold_the_right_answer_and_no_debris(asked, said):
    assert [(q.question_id, q.label, q.image) for q in asked] == [
        ("gqa-07a", "dark blue", "1.jpg"),
        ("gqa-07b", "yes", "2.jpg"),
    ]
    found = cases(said, asked)
    assert [case.evidence.facts for case in found] == [("dark blue",), ("yes",)]
    claims = {m: c for case in found for m, c in zip(case.claim_models, case.claims, strict=True)}
    assert claims == {"base": "No.", "merged": "Yes, it is."}
    assert {c for case in found for c in case.claims} >= {"The cup is dark blue."}
    seeds = {cases(said, asked, evaluate_seed=s)[0].claim_models for s in range(9)}
    assert len(seeds) == 2  # the order is drawn
    with pytest.raises(BadInput, match="no right answer"):
        cases(said, [type(q)(**{**vars(q), "label": None}) for q in asked])


def test_the_oracle_and_accuracy_by_hand(asked, said):
    verdicts = rule_all(
        oracle.make(vocabulary=Vocabulary(), settings=JudgeSettings(rubrics=gqa.RUBRICS)),
        cases(said, asked),
    )
    found = {(m.model, m.name): m for m in score(said, asked, verdicts, samples=50)}
    assert (found["base", "accuracy"].value, found["base", "accuracy"].n) == (0.5, 2)
    assert (found["merged", "accuracy"].value, found["merged", "accuracy"].n) == (0.5, 2)
    assert found["merged", "words_per_answer"].value == 4
    assert found["base", "unanswered"].value == 0
    with pytest.raises(BadInput, match="no verdict on gqa-07b"):
        score(said, asked, [v for v in verdicts if v.case_id != "gqa-07b"])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Student Answer1: correct\nStudent Answer2: incorrect", [C, W]),
        ("**Student Answer 2**: Wrong, it is red.\n- Student answer #1 - Right.", [C, W]),
        ("Student Answer1: correct", [C, U]),
        ("Student Answer1: correct\nStudent Answer1: incorrect\nAnswer2: correct", [U, C]),
        ("Student Answer1: correct\nStudent Answer3: correct", [U, U]),
        ("Both are fine.", [U, U]),
        ('{"marks": [{"answer": 2, "mark": "Correct", "reason": "b"}]}', [U, C]),
        ('{"case": "other", "marks": [{"answer": 1, "mark": "correct"}]}', [U, U]),
        ('{"marks": 3}', [U, U]),
        ('{"marks": [null, {"answer": "x", "mark": "correct"}]}', [U, U]),
    ],
)
def test_marks_in_any_form_that_leaves_no_doubt(asked, said, reply, expected):
    case = cases(said, asked)[0]
    found = gqa.read_marks(reply, case)
    assert [v.label for v in found] == expected
    assert [v.model for v in found] == list(case.claim_models)
    assert all(v.raw == reply for v in found if v.label == U)


def test_of_a_single_answer_the_mark_may_stand_alone(asked, said):
    case = cases(said[:1], asked)[0]
    assert [v.label for v in gqa.read_marks("Incorrect: it is red", case)] == [W]
    reply = {"case": case_mark(case), "marks": [{"answer": 1, "mark": "correct", "reason": "so"}]}
    assert [(v.label, v.reason) for v in gqa.read_marks(json.dumps(reply), case)] == [(C, "so")]


@pytest.mark.parametrize("kind", ["text", "json_schema"])
def test_a_server_examines(serve, asked, said, tmp_path, kind):
    def examiner(body, _number):
        text = body["messages"][0]["content"]
        lines = text.partition("Student Answer1")[2].partition("\n\n")[0].splitlines()
        right = text.partition("Correct Answer: ")[2].partition("\n")[0]
        marks = [right in line.lower() for line in lines]
        words = ["correct" if mark else "incorrect" for mark in marks]
        if kind == "text":
            return "\n".join(f"Student Answer{i}: {w}" for i, w in enumerate(words, 1))
        return json.dumps({"marks": [{"mark": w, "reason": ""} for w in words]})

    server = serve(examiner)
    chat = ChatSettings(model="judge", retries=0, timeout_seconds=5, reply_format=kind)
    settings = JudgeSettings(chat=chat, replies=tmp_path / "c.sqlite", rubrics=gqa.RUBRICS)
    judge = llm.make(vocabulary=None, settings=settings)
    verdicts = rule_all(judge, cases(said, asked))
    found = {m.model: m for m in score(said, asked, verdicts) if m.name == "accuracy"}
    assert (found["base"].value, found["merged"].value) == (0.5, 0.5)
    assert len(server.log) == 2
    assert "</s>" not in server.log[0]["text"] + server.log[1]["text"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1": {"question": "Who?", "imageId": "1"}}, "no field 'answer'"),
        ({"1": {"question": " ", "answer": "a", "imageId": "1"}}, "is empty"),
        ({"1": "Who?"}, "expected an object"),
        (["Who?"], "the top level is of type list"),
    ],
)
def test_broken_files_are_reported(tmp_path, content, message):
    (tmp_path / "q.json").write_text(json.dumps(content))
    report = Report()
    with pytest.raises(BadInput, match=message):
        data.questions(tmp_path / "q.json", KNOWN, report)
        report.finish()


def test_the_mini_world_brings_its_own():
    world = dict(zip(range(5), scenes(3, held_out=True), strict=False))
    found = gqa_questions(world)
    assert len(found) == 10
    for key, record in found.items():
        scene = world[int(record["imageId"])]
        assert key.startswith(f"{record['imageId']}-")
        answers = {t.colour for t in scene.objects} | {t.place for t in scene.objects}
        assert record["answer"] in answers
