"""The gallery of a run, and its judges: files that a test wrote, a judge's server on loopback."""

import dataclasses
import json
import re

import pytest

pytest.importorskip("gradio", reason="the page's extra is absent: pip install -e '.[page]'")

from hadpo import mini
from hadpo.generation import Decoding
from hadpo.mini.files import vocabulary
from hadpo.page.shelf import DESCRIBE, shelf_of
from hadpo.page.talk import Conversation, Exchange, Picture, rule
from hadpo.records import BadInput, Evidence, Question, write_jsonl
from tests.chat import server as judge_server

pytestmark = pytest.mark.extra

SAID = "There is an umbrella. The scene is a beach. What a day."


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with two described pictures and one that has a list of objects only."""
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    prepared = tmp_path / "seen" / "prepare"
    prepared.mkdir(parents=True)
    evidence, questions = [], []
    for number, exhibit in enumerate(mini.gallery(3)):
        file = str(prepared / f"{number}.png")
        exhibit.image.save(file)
        known = dataclasses.replace(exhibit.evidence, image=file)
        if number == 2:
            known = dataclasses.replace(known, regions=(), facts=())
        evidence.append(known)
        for text in (DESCRIBE, f"Question {number}?"):
            asked = Question(
                question_id=f"{number} {text}",
                benchmark="shr",
                split="",
                image_id=known.image_id,
                image=file,
                text=text,
            )
            questions.append(asked)
    write_jsonl(prepared / "evidence.jsonl", evidence)
    write_jsonl(prepared / "questions.jsonl", questions)
    (prepared / "vocabulary.json").write_text(json.dumps(vocabulary()))
    return prepared


def ruled(known, said=SAID):
    """What the page shows, as text, once the judge has ruled on a description of the first."""
    first = known.exhibits[0]
    picture = Picture(first.name, first.image, first.evidence)
    found = Exchange(picture, DESCRIBE, Decoding(name="greedy"), remembers=False)
    found.answers["left"], found.finish["left"] = said, "stop"
    rule(found, "left", known.judge, known.words)
    talk = Conversation(picture, [found])
    return found, talk.to_html("left")


def signs(shown):
    return re.findall(r'<p class="(\w+)" title="[^"]*"><b aria-hidden="true">(.)</b>', shown)


def test_the_gallery_has_the_pictures_of_the_run_that_can_be_judged(run):
    known = shelf_of("mini/llava", "seen")
    evidence = [e.evidence for e in known.exhibits]
    names = [e.evidence.image_id for e in mini.gallery(2)]
    assert [e.image_id for e in evidence] == names
    assert known.exhibits[1].questions[:2] == (DESCRIBE, "Question 1?")
    assert known.exhibits[0].image.tobytes() == mini.gallery(1)[0].image.tobytes()
    assert "annotations of run seen" in known.explanation
    assert "upload nothing is known" in known.explanation
    assert isinstance(evidence[0], Evidence)


def test_the_oracle_rules_by_the_words_of_the_run(run):
    _, shown = ruled(shelf_of("mini/llava", "seen"))
    assert signs(shown) == [("invented", "✗"), ("true", "✓"), ("unknown", "?")]
    assert "1 of 3 wrong" in shown


def test_a_language_models_verdicts_are_on_the_page_and_paid_once(run, serve):
    lines = "Judgement:\n1. correct: seen\n2. hallucination: no <sand>\n3. cannot judge: mood"
    server = serve(lambda *_: lines)
    known = shelf_of("mini/llava", "seen", "llm", "judge-1")
    for _ in range(2):
        _, shown = ruled(known)
        assert signs(shown) == [("true", "✓"), ("invented", "✗"), ("unknown", "?")]
        assert "wrong (no &lt;sand&gt;)" in shown
    [asked] = server.log
    assert "1. There is an umbrella" in asked["text"]
    assert known.exhibits[0].evidence.regions[0].phrase in asked["text"]
    assert "judge llm (judge-1)" in known.explanation
    assert serve.key not in (run.parents[1] / "judge_cache.sqlite").read_bytes().decode("latin-1")


def test_a_judge_that_breaks_down_is_said_beside_the_sentences_and_asked_again(run, serve):
    is_broken = True

    def behave(*_):
        reply = "1. correct\n2. correct\n3. correct"
        return judge_server.error(500, "<b>down</b>") if is_broken else reply

    serve(behave)
    known = shelf_of("mini/llava", "seen", "llm", "judge-1")
    found, shown = ruled(known)
    assert "left" not in found.verdicts
    assert "not judged: 1 of 1 cases are not judged" in shown
    assert "500" in shown
    assert "There is an umbrella" in shown
    assert "<b>" not in shown.replace("<b>You", "")
    assert signs(shown) == []
    is_broken = False
    assert [tone for tone, _ in signs(ruled(known)[1])] == ["true"] * 3


def test_a_reply_that_nobody_can_read_is_no_verdict(run, serve):
    serve(lambda *_: "I would rather not.")
    _, shown = ruled(shelf_of("mini/llava", "seen", "llm", "judge-1"))
    assert shown.count("not judged: the judge's reply cannot be read") == 3


def test_without_a_key_nothing_is_judged(run):
    _, shown = ruled(shelf_of("mini/llava", "seen", "llm", "judge-1"))
    assert "not judged: the judge needs a key in the environment variable OPENAI_API_KEY" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("mini/llava", "sean"), "did you mean 'seen'"),
        (("mini/llava", "seen", "llm"), "no model is named: .* judge_model"),
        (("mini/llava", "seen", "oracle", "gpt"), "asks no language model"),
        (("mini/llava", "seen", "orakel"), "did you mean 'oracle'"),
        (("llava15_7b", "", "llm", "gpt"), "name a --run"),
    ],
)
def test_what_cannot_be_judged_ends_the_start(run, arguments, reason):
    with pytest.raises(BadInput, match=reason):
        shelf_of(*arguments)


def test_a_picture_that_is_gone_is_named(run):
    (run / "1.png").unlink()
    with pytest.raises(BadInput, match=r"no image .*1\.png; fix the path"):
        shelf_of("mini/llava", "seen")


def test_a_judge_that_costs_has_a_limit_for_all_visitors_together(run, monkeypatch):
    from hadpo.page import shelf

    def shared(**limits):
        known = shelf.shelf_of("mini/llava", "seen", "llm", "m", limits)
        return known.judge

    make = shared()
    first, second = make(), make()
    assert first.chat.bill is second.chat.bill
    first.chat.bill.asked = shelf.MOST_ASKED
    with pytest.raises(BadInput, match=r"was asked 500 times .*name --judge-max-cost-usd"):
        make()
    make = shared(max_cost_usd=0.5, input_price=1.0, output_price=2.0)
    one = make()
    one.chat.bill.add(200_000, 100_000, one.chat.settings)  # $0.4
    assert make().chat._passes_limit(0.2)
    assert not make().chat._passes_limit(0.05)
    with pytest.raises(BadInput, match="judge_input_price"):
        shared(max_cost_usd=0.5)
    with pytest.raises(BadInput, match="asks no language model"):
        shelf.shelf_of("mini/llava", "seen", "oracle", "", {"max_cost_usd": 1.0})
