"""GAVIE: order, boxes, means by hand, tasks; the real question files with a real server."""

import functools
import json

import pytest

from hadpo import benchmarks
from hadpo.benchmarks import gavie
from hadpo.chat import ChatSettings
from hadpo.config import section_types
from hadpo.data import Report, visual_genome
from hadpo.data import gavie as data
from hadpo.judges import JudgeSettings, llm, oracle, rule_all
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput, Evidence, Question, Region, Verdict

BOX = Region(x=1, y=2, width=30, height=40, phrase="a red cup")
KNOWN = {"1": Evidence(image_id="1", image="", width=100, height=100, regions=(BOX,))}
EVALUATE = section_types()["evaluate"]
score = functools.partial(benchmarks.score, "gavie")


def question(key, *, image="1", task="all", text="What is there?"):
    return Question(
        question_id=key, benchmark="gavie", split=task, image_id=image, image="", text=text
    )


def answer(key, model, text="A cup.", image="1"):
    return Answer(
        question_id=key,
        benchmark="gavie",
        split="all",
        model=model,
        image_id=image,
        text=text,
        tokens=3,
        finish="stop",
    )


def by_id(asked):
    return {q.question_id: q for q in asked}


def scored(key, model, relevancy, accuracy):
    scores = {} if relevancy is None else {"relevancy": relevancy, "accuracy": accuracy}
    label = "scored" if scores else "unparsed"
    return Verdict(case_id=key, model=model, claim="A cup.", label=label, scores=scores, place=1)


def test_answers_of_all_models_are_shuffled_by_the_seed_and_keep_their_names():
    asked = [question(str(i)) for i in range(40)]
    answers = [answer(q.question_id, m, f"by {m}") for m in ("b", "a", "c") for q in asked]
    found = gavie.cases(answers, by_id(asked), KNOWN, EVALUATE())
    assert len(found) == 40
    for case in found:
        assert [f"by {m}" for m in case.claim_models] == list(case.claims)
        assert sorted(case.claim_models) == ["a", "b", "c"]
    assert len({case.claim_models for case in found}) == 6
    again = gavie.cases(answers[::-1], by_id(asked), KNOWN, EVALUATE())
    assert {c.case_id: c for c in again} == {c.case_id: c for c in found}
    other = gavie.cases(answers, by_id(asked), KNOWN, EVALUATE(evaluate_seed=1))
    assert [c.claim_models for c in other] != [c.claim_models for c in found]


def test_boxes_are_right_unless_the_published_bug_is_asked_for():
    asked, said = [question("1")], [answer("1", "base")]
    [right] = gavie.cases(said, by_id(asked), KNOWN, EVALUATE())
    [bug] = gavie.cases(said, by_id(asked), KNOWN, EVALUATE(height_bug_compat=True))
    assert gavie.pixel_boxes(right.evidence) == "a red cup X:1 Y:2 Width:30 Height:40"
    assert gavie.pixel_boxes(bug.evidence) == "a red cup X:1 Y:2 Width:30 Height:30"


def test_means_by_hand_and_by_task():
    asked = [question("1", task="positive"), question("2", task="negative"), question("3")]
    answers = [answer("1", "m"), answer("2", "m", "Two words"), answer("3", "m")]
    verdicts = [scored("1", "m", 8, 10), scored("2", "m", 3, 1), scored("3", "m", None, None)]
    found = score(answers, asked, verdicts, samples=100)
    rows = {(m.split, m.name): m for m in found}
    assert rows["all", "relevancy"].value == 5.5
    assert rows["all", "accuracy"].value == 5.5
    assert (rows["all", "accuracy"].n, rows["all", "accuracy"].n_unreadable) == (2, 1)
    assert rows["all", "words_per_answer"].value == 2
    assert rows["all", "accuracy"].low is not None
    assert rows["negative", "relevancy"].value == 3
    assert rows["positive", "accuracy"].value == 10
    assert rows["negative", "unanswered"].value == 0
    none = score(answers[2:], asked[2:], verdicts[2:])
    assert [(m.value, m.n) for m in none if m.name == "relevancy"] == [(None, 0)]
    with pytest.raises(BadInput, match="no verdict"):
        score(answers, asked, verdicts[:1])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"image_id": "1"}], "no field 'question'"),
        ([{"image_id": "x", "question": "?"}], "expected a number"),
        ([{"image_id": 1, "question": " "}], "is empty"),
        ([{"image_id": 1, "question": "?"}, {"image_id": "1", "question": "?"}], "twice"),
        (["?"], "expected an object"),
        ({"image_id": 1}, "the top level is of type object"),
    ],
)
def test_broken_questions_are_reported(tmp_path, records, message):
    (tmp_path / "set.json").write_text(json.dumps(records))
    report = Report()
    with pytest.raises(BadInput, match=message):
        data.questions(tmp_path / "set.json", KNOWN, report)
        report.finish()


def test_instruction_and_task_are_read(tmp_path):
    records = [{"image_id": 1, "instruction": "Say it.", "task": " Negative "}]
    (tmp_path / "set.json").write_text(json.dumps(records))
    [found] = data.questions(tmp_path / "set.json", KNOWN, Report())
    assert (found.question_id, found.text, found.split) == ("gavie-1", "Say it.", "negative")
    with pytest.raises(BadInput, match="1 images that Visual Genome does not have: 1"):
        data.questions(tmp_path / "set.json", {}, Report())


def teacher(body, _number):
    """Grades the answers of a prompt: 9 and 7 for the one that says it is good, else 2 and 1."""
    text = body["messages"][0]["content"]
    lines = text.partition("The answers:\n")[2].partition("\n\n")[0].splitlines()
    good = ["good" in line for line in lines]
    parts = []
    for name, high, low in (("Relevancy", 9, 2), ("Accuracy", 7, 1)):
        scores = [f"score of the answer{i}: {high if g else low}" for i, g in enumerate(good, 1)]
        parts.append(f"{name}:\n" + "\nreason: so\n".join(scores))
    return "\n".join(parts)


def grade(asked, evidence, tmp_path):
    """Metrics of three models whose answers the test makes."""
    answers = [
        answer(q.question_id, model, text, image=q.image_id)
        for q in asked
        for model, text in (("base", "A bad one."), ("merged", "A good one."), ("sft", "Worse."))
    ]
    chat = ChatSettings(model="teacher", reply_format="text", concurrency=4)
    settings = JudgeSettings(chat=chat, replies=tmp_path / "r.sqlite", rubrics=gavie.RUBRICS)
    judge = llm.make(vocabulary=None, settings=settings)
    cases = gavie.cases(answers, by_id(asked), evidence, EVALUATE())
    verdicts = rule_all(judge, cases)
    assert {v.place for v in verdicts if v.model == "merged"} == {1, 2, 3}
    metrics = score(answers, asked, verdicts, samples=50)
    return {(m.model, m.name): m for m in metrics if m.split == "all"}


def test_the_questions_of_the_photos_with_their_real_regions(shared, serve, tmp_path):
    server = serve(teacher)
    images = visual_genome.read(shared / "data/photoset/VG", Report("skip"))
    asked = data.questions(shared / "data/photoset/gavie/evaluation_subset.json", images, Report())
    assert len(asked) == 12
    found = grade(asked, images, tmp_path)
    assert (found["merged", "relevancy"].value, found["merged", "accuracy"].value) == (9, 7)
    assert (found["base", "relevancy"].value, found["sft", "accuracy"].value) == (2, 1)
    assert found["base", "accuracy"].n == 12
    assert len(server.log) == 12
    assert any("X:131 Y:116 Width:20 Height:315" in e["text"] for e in server.log)


@pytest.mark.slow
def test_all_real_questions_with_synthetic_regions_and_answers(shared, serve, tmp_path):
    path = shared / "data/gavie/evaluation_set.json"
    ids = data.image_ids(path, Report())
    made_up = {
        key: Evidence(image_id=key, image="", width=500, height=400, regions=(BOX,)) for key in ids
    }
    asked = data.questions(path, made_up, Report())
    assert (len(asked), len(ids)) == (1000, 120)
    server = serve(teacher)
    found = grade(asked, made_up, tmp_path)
    assert (found["merged", "accuracy"].n, found["merged", "accuracy"].n_unreadable) == (1000, 0)
    prompts = {e["text"] for e in server.log}
    assert 990 < len(server.log) == len(prompts) <= 1000  # equal prompts are asked once
    assert server.peak <= 4


def test_the_oracle_grades_what_it_can_decide():
    asked = [question("1", text="What is the cup like?")]
    said = [
        answer("1", "a", "The cup is red."),
        answer("1", "b", "A kite. A cup."),
        answer("1", "c", "Hm."),
    ]
    [case] = gavie.cases(said, by_id(asked), KNOWN, EVALUATE())
    words = Vocabulary(objects=("cup", "kite"), attributes={"colour": ("red", "blue")})
    judge = oracle.make(vocabulary=words, settings=JudgeSettings(rubrics=gavie.RUBRICS))
    found = {v.model: v for v in rule_all(judge, [case])}
    assert found["a"].scores == {"relevancy": 10, "accuracy": 10}
    assert found["b"].scores == {"relevancy": 10, "accuracy": 5}
    assert found["c"].label == "unparsed"
