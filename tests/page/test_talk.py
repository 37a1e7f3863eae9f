import json

import pytest

pytest.importorskip("gradio", reason="the page's extra is absent: pip install -e '.[page]'")

from hadpo import figures, mini
from hadpo.generation import Decoding
from hadpo.judges import oracle
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.mini.files import vocabulary
from hadpo.page.talk import SIGNS, Conversation, Exchange, Picture, claims_of, rule

pytestmark = pytest.mark.extra

EXHIBIT = mini.gallery(1)[0]
PICTURE = Picture(EXHIBIT.name, EXHIBIT.image, EXHIBIT.evidence)
ORACLE = oracle.make(vocabulary=from_json(vocabulary()))
THERE = EXHIBIT.evidence.objects[0]
GREEDY = Decoding(name="greedy")


def exchange(question, answer, *, remembers=False, picture=PICTURE):
    found = Exchange(picture, question, GREEDY, remembers=remembers)
    found.answers = {"left": answer, "right": answer}
    found.finish = {"left": "stop", "right": "stop"}
    rule(found, "left", lambda: ORACLE, ORACLE.vocabulary)
    return found


@pytest.mark.parametrize(
    ("question", "answer", "labels"),
    [
        ("Is there an umbrella in the image?", "Yes.", ["hallucination"]),
        ("Is there an umbrella in the image?", "No.", ["correct"]),
        (f"Is there a {THERE} in the image?", "Yes.", ["correct"]),
        (f"Is there a {THERE} in the image?", "No.", ["hallucination"]),
        ("Describe this.", "The scene is a beach. What a day.", ["correct", "cannot judge"]),
    ],
)
def test_verdicts_on_the_drawn_pictures(question, answer, labels):
    assert EXHIBIT.evidence.image_id == "beach 1"
    assert "umbrella" not in EXHIBIT.evidence.objects
    assert [v.label for v in exchange(question, answer).verdicts["left"]] == labels


def test_of_a_visitors_picture_nothing_is_known():
    upload = Picture("a.png", EXHIBIT.image)
    talk = Conversation(upload)
    talk.exchanges = [exchange("Is there a cup?", "Yes.", picture=upload)]
    assert "left" not in talk.exchanges[0].verdicts
    assert "not judged: nothing is known of this picture" in talk.to_html("left")


def test_a_language_model_is_told_to_what_a_bare_answer_is_one():
    assert claims_of("Is there a cup?", "No.", None) == ['The answer to "Is there a cup?" is no']
    assert claims_of("Describe it.", "A cup. A dog.", None) == ["A cup", "A dog"]


def test_a_side_remembers_as_far_as_it_was_told_to():
    talk = Conversation(PICTURE)
    talk.exchanges = [
        exchange("1", "a"),
        exchange("2", "b"),
        exchange("3", "c", remembers=True),
        exchange("4", "d", remembers=True),
    ]
    turns = talk.turns("left")
    assert [t.instruction for t in turns] == ["2", "3", "4"]
    assert [t.image is None for t in turns] == [False, True, True]


def test_what_was_said_is_text_and_never_html():
    talk = Conversation(PICTURE)
    upload = Picture('"><img src=x onerror=alert(1)>.png', EXHIBIT.image)
    talk.exchanges = [exchange("<script>1</script>", "<b>Yes.</b>", picture=upload)]
    shown = talk.to_html("left") + upload.to_html()
    assert "<script>" not in shown
    assert "<b>Yes" not in shown
    assert "<img src=x" not in shown


def test_signs_and_words_say_what_colours_say():
    talk = Conversation(PICTURE)
    talk.exchanges = [exchange("Is there an umbrella in the image?", "Yes.")]
    shown = talk.to_html("left")
    assert "✗" in shown
    assert "wrong (no umbrella in the annotations)" in shown
    assert "There is an umbrella" in shown
    assert SIGNS.items() <= dict(figures.SIGNS).items()


def test_the_export_has_a_line_for_each_question_and_side():
    talk = Conversation(PICTURE)
    talk.exchanges = [exchange("Is there an umbrella in the image?", "Yes."), exchange("2", "x")]
    lines = talk.to_jsonl({"left": "base", "right": "tuned"}).splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(r["turn"], r["model"]) for r in rows] == [
        (1, "base"),
        (1, "tuned"),
        (2, "base"),
        (2, "tuned"),
    ]
    assert rows[0]["verdicts"][0]["label"] == "hallucination"
    assert rows[0]["picture"] == "beach 1"
    assert rows[0]["decoding"]["name"] == "greedy"


def test_the_gallery_is_the_same_each_time_and_asks_for_what_is_absent():
    again = mini.gallery(3)
    assert [e.evidence for e in again] == [e.evidence for e in mini.gallery(3)]
    for e in again:
        asked = [q for q in e.questions if q.startswith("Is there")]
        there = [any(name in q for name in e.evidence.objects) for q in asked]
        assert there == [False, False, False, True]
