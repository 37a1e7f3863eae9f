"""Whatever a server sends, each request has an outcome: a value, a reason, never a traceback."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo.chat import Cache, ChatModel, ChatSettings, Request
from hadpo.chat.request import NoAnswer, RequestFailed, json_value, read_completion
from tests.chat import server as judge

SETTINGS = ChatSettings(model="judge", retries=0, timeout_seconds=5, max_tokens=50, concurrency=1)
PRICED = dataclasses.replace(SETTINGS, input_price=1000.0, output_price=10000.0)
PROMPT = Request(name="n0", text="x" * 299, prompt_version="1")
ESTIMATE = (100, 50)  # tokens of PROMPT at 3 characters each, and max_tokens


def said(content="yes", *, finish="stop", **more):
    """A chat completion; `more` replaces its parts."""
    choice = {"index": 0, "finish_reason": finish, "message": {"content": content}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"model": "m", "choices": [choice], "usage": usage} | more


def ask(serve, value, chat=SETTINGS):
    """What becomes of a request that is answered so, and the bill; the text is sent as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    server = serve(lambda *_: lambda handler: judge.send(handler, 200, text))
    model = ChatModel(chat, Cache(None))
    return model.ask([PROMPT]), model.bill, server


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "y"}, {"type": "text", "text": "es"}], "yes"),
        ([{"type": "reasoning", "text": "no"}, {"type": "output_text", "text": "yes"}], "yes"),
        ([{"type": "image_url", "image_url": {}}, "yes"], "yes"),
        ("\ud83dyes", "\ufffdyes"),
        ("\ude00yes\ud83d", "\ufffdyes\ufffd"),
    ],
)
def test_content_in_parts_and_halves_of_characters(serve, content, text):
    outcome, _, _ = ask(serve, said(content))
    assert outcome.replies["n0"].text == text


NO_COMPLETION = {
    "choices a text": (said(choices="abc"), "no chat completion"),
    "choices of numbers": (said(choices=[5]), "no chat completion"),
    "choices an object": (said(choices={"0": {}}), "no chat completion"),
    "a list": ([said()], "no chat completion"),
    "a word": ('"yes"', "no chat completion"),
    "nothing": ("", "no chat completion"),
    "no message": (said(choices=[{"text": "yes"}]), "has no message"),
    "message a list": (said(choices=[{"message": ["yes"]}]), "has no message"),
    "content a number": (said(5), "content is no text but '5'"),
    "content an object": (said({"text": "yes"}), "content is no text"),
    "too deep": ("[" * 100_000, "nested too deep"),
    "deep in choices": ('{"choices": ' + "[" * 100_000, "nested too deep"),
    "a long number": ('{"choices": 1' + "0" * 5000 + "}", "no chat completion"),
}


@pytest.mark.parametrize("name", NO_COMPLETION)
def test_what_is_no_completion_is_named_and_quoted(serve, name):
    value, why = NO_COMPLETION[name]
    outcome, bill, _ = ask(serve, value)
    assert why in outcome.missing["n0"]
    assert bill.failed == 1


USAGES = {
    "absent": (None, ESTIMATE, 1),
    "null": ({"prompt_tokens": None, "completion_tokens": None}, ESTIMATE, 1),
    "negative": ({"prompt_tokens": -9, "completion_tokens": -1}, ESTIMATE, 1),
    "zero": ({"prompt_tokens": 0, "completion_tokens": 0}, ESTIMATE, 1),
    "huge": ({"prompt_tokens": 10**30, "completion_tokens": 1e300}, ESTIMATE, 1),
    "a word": ("none", ESTIMATE, 1),
    "a list": ([7, 3], ESTIMATE, 1),
    "yes and no": ({"prompt_tokens": True, "completion_tokens": False}, ESTIMATE, 1),
    "half wrong": ({"prompt_tokens": 7, "completion_tokens": "many"}, (7, 50), 1),
    "as text": ({"prompt_tokens": "7", "completion_tokens": "3"}, (7, 3), 0),
    "as float": ({"prompt_tokens": 7.0, "completion_tokens": 3.0}, (7, 3), 0),
}


@pytest.mark.parametrize("name", USAGES)
def test_usage_that_cannot_be_true_counts_as_the_estimate(serve, name):
    usage, tokens, estimated = USAGES[name]
    outcome, bill, _ = ask(serve, said(usage=usage), PRICED)
    assert (bill.input_tokens, bill.output_tokens) == tokens
    assert bill.usage_estimated == estimated
    assert bill.cost_usd == pytest.approx((tokens[0] * 1000 + tokens[1] * 10000) / 1e6)
    assert (outcome.replies["n0"].input_tokens, outcome.replies["n0"].output_tokens) == tokens


@pytest.mark.parametrize(
    "value", [said(5), said(choices=[{"text": "yes"}]), said("", finish="content_filter")]
)
def test_an_unreadable_reply_and_a_refusal_cost_the_estimate(serve, value):
    _, bill, _ = ask(serve, value | {"usage": None}, PRICED)
    assert (bill.input_tokens, bill.output_tokens) == ESTIMATE


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -(10**9), "completion_tokens": 0}])
@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_the_limit_holds_whatever_the_server_says_of_usage(serve, usage, concurrency):
    """A reply costs 0.1 + 0.5 dollars at most: 5 of 40 are affordable with 3.1."""
    chat = dataclasses.replace(PRICED, max_cost_usd=3.1, concurrency=concurrency)
    reply = json.dumps(said(usage=usage))
    server = serve(lambda *_: lambda handler: judge.send(handler, 200, reply))
    model = ChatModel(chat, Cache(None))
    many = [dataclasses.replace(PROMPT, name=f"n{i}", text=f"{i:0299}") for i in range(40)]
    outcome = model.ask(many)
    assert len(server.log) == len(outcome.replies) == 5
    assert model.bill.cost_usd == pytest.approx(3.0)
    assert "max_cost_usd" in outcome.missing["n39"]


@pytest.mark.parametrize(
    ("error", "first"),
    [
        ({"message": "busy", "code": 429}, 429),
        ({"message": "busy", "code": "503"}, 503),
        ("upstream is busy", 502),
    ],
)
def test_an_error_inside_of_a_200_is_repeated(serve, error, first):
    def behave(_, number):
        bad = json.dumps({"choices": None, "error": error})
        return (lambda handler: judge.send(handler, 200, bad)) if number == 0 else "yes"

    server = serve(behave)
    model = ChatModel(dataclasses.replace(SETTINGS, retries=1), Cache(None))
    assert model.ask([PROMPT]).replies["n0"].text == "yes"
    assert [e["retry"] for e in server.log] == [0, 1]
    alone = ask(serve, {"error": error})[0].missing["n0"]
    assert str(first) in alone
    assert "busy" in alone


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("<think>\n1. correct: hm\n</think>\n1. hallucination: no", "\n1. hallucination: no"),
        ("the start stood in the prompt</think>yes", "yes"),
        ("[THINK]a[/THINK]yes", "yes"),
        ("<Thinking effort='high'>a</THINKING>yes", "yes"),
        ("◁think▷a◁/think▷yes", "yes"),
        ("<seed:think>a</seed:think>yes", "yes"),
        ("<think>a</think><think>b</think>yes", "yes"),
        ("<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>yes", "yes"),
        ("<reasoning>without end: 1. correct", ""),
        ("yes<think>and then", "yes"),
        ("<b>yes</b>", "<b>yes</b>"),
    ],
)
def test_thoughts_are_kept_in_the_cache_counted_and_never_read(serve, tmp_path, raw, answer):
    serve(lambda *_: raw)
    cache = Cache(tmp_path / "replies.sqlite")
    model = ChatModel(SETTINGS, cache)
    reply = model.ask([PROMPT]).replies["n0"]
    assert (reply.text, reply.said) == (raw, answer)
    assert model.bill.with_thoughts == (raw != answer)
    again = ChatModel(SETTINGS, cache, is_replay=True)
    assert again.ask([PROMPT]).replies["n0"].said == answer
    assert again.bill.with_thoughts == (raw != answer)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["message", "content", "type", "text"]), inner)
    ),
    max_leaves=8,
)
PLACES = ("choices", "usage", "model", "error", "object")
IN_CHOICE = ("message", "finish_reason")


@given(
    place=st.sampled_from((*PLACES, *IN_CHOICE, "content", "refusal", "all")),
    value=JSON,
)
@settings(max_examples=400, deadline=None)
def test_any_json_in_any_place_is_a_reply_a_reason_or_a_refusal(place, value):
    whole = said()
    if place in PLACES:
        whole[place] = value
    elif place == "all":
        whole = value
    elif place in IN_CHOICE:
        whole["choices"][0][place] = value
    else:
        whole["choices"][0]["message"][place] = value
    try:
        reply, _ = read_completion(json_value(json.dumps(whole)), PROMPT, SETTINGS)
    except (NoAnswer, RequestFailed) as error:
        assert str(error).encode()
        return
    assert reply.text.strip().encode("utf-8")
    assert 1 <= reply.input_tokens < 2**63
