"""ChatModel against a real server on loopback; what happened is read from the server's own log."""

import asyncio
import dataclasses
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hadpo.chat import Cache, ChatModel, ChatSettings, Request
from hadpo.records import BadInput
from tests.chat import server as judge

SETTINGS = ChatSettings(model="judge", retries=2, timeout_seconds=5, concurrency=4, max_tokens=50)


@pytest.fixture
def cache(tmp_path):
    found = Cache(tmp_path / "replies.sqlite")
    yield found
    found.close()


def requests(count, **options):
    return [
        Request(name=f"n{i}", text=f"case {i}", prompt_version="1", **options) for i in range(count)
    ]


def model(cache, **changes):
    return ChatModel(dataclasses.replace(SETTINGS, **changes), cache)


def test_replies_come_once_and_then_from_the_cache(serve, cache):
    server = serve(lambda body, _: "about " + body["messages"][0]["content"])
    first = model(cache)
    outcome = first.ask(requests(3))
    assert {k: r.text for k, r in outcome.replies.items()} == {
        f"n{i}": f"about case {i}" for i in range(3)
    }
    assert outcome.replies["n0"].model == "judge-as-served"
    assert (first.bill.input_tokens, first.bill.output_tokens, first.bill.asked) == (300, 30, 3)
    assert {e["path"] for e in server.log} == {"/v1/chat/completions"}
    assert {e["key"] for e in server.log} == {f"Bearer {serve.key}"}
    again = model(cache)
    assert again.ask(requests(3)).replies == outcome.replies
    assert (len(server.log), again.bill.cached) == (3, 3)


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"temperature": 0.5}, {"max_tokens": 51}, {"reply_format": "text"}],
)
def test_other_settings_are_asked_anew(serve, cache, change):
    server = serve(lambda *_: "yes")
    model(cache).ask(requests(1))
    model(cache, **change).ask(requests(1))
    assert len(server.log) == 2


@pytest.mark.parametrize("change", [{"prompt_version": "2"}, {"attempt": 1}, {"text": "else"}])
def test_another_request_is_asked_anew(serve, cache, change):
    server = serve(lambda *_: "yes")
    [one] = requests(1)
    model(cache).ask([one])
    model(cache).ask([dataclasses.replace(one, **change)])
    assert len(server.log) == 2


def test_never_more_at_once_than_allowed(serve, cache):
    server = serve(lambda *_: "yes", seconds=0.05)
    model(cache, concurrency=3).ask(requests(12))
    assert len(server.log) == 12
    assert 2 <= server.peak <= 3


def test_what_passes_is_repeated_and_retry_after_is_honoured(serve, cache):
    server = serve(lambda _, number: judge.too_many("0.4") if number == 0 else "yes")
    outcome = model(cache).ask(requests(1))
    assert outcome.replies["n0"].text == "yes"
    assert [e["retry"] for e in server.log] == [0, 1]
    assert server.log[1]["time"] - server.log[0]["time"] >= 0.4


BROKEN = {
    "429 for ever": (judge.too_many(), "too many requests"),
    "503 for ever": (judge.error(503, headers=[("retry-after-ms", "10")]), "503"),
    "closes midway": (judge.closes_midway, "connection failed"),
    "html": (judge.html, "no chat completion"),
    "malformed": (judge.malformed, ""),
    "empty object": (lambda h: judge.send(h, 200, "{}"), "no chat completion"),
    "bad request": (judge.error(400, "this is not how it is done"), "refused as malformed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_server_ends_in_a_bounded_number_of_requests(serve, cache, name):
    behave, why = BROKEN[name]
    server = serve(lambda *_: behave)
    chat = model(cache, concurrency=1)
    outcome = chat.ask(requests(9))
    assert outcome.replies == {}
    assert len(outcome.missing) == 9  # what is missing is named, each with its reason
    assert why in outcome.missing["n0"]
    assert outcome.missing["n8"].startswith("not asked, after: ")
    assert 3 <= len(server.log) <= 3 * (1 + SETTINGS.retries)  # three give up, six are not sent
    assert server.times_asked.keys() == {"case 0", "case 1", "case 2"}
    assert model(cache).cache.get(requests(1)[0].key(SETTINGS)) is None


def test_a_server_that_hangs_is_left(serve, cache):
    server = serve(lambda *_: lambda handler: server.release.wait(20))
    outcome = model(cache, timeout_seconds=0.2, retries=1, concurrency=1).ask(requests(4))
    assert "no reply within 0.2 s" in outcome.missing["n0"]
    assert len(server.log) == 6


@pytest.mark.parametrize(
    "behave",
    [
        judge.error(401, "bad key"),
        judge.error(404, "no model"),
        judge.error(429, "pay", "insufficient_quota"),
    ],
    ids=["key", "model", "quota"],
)
def test_what_no_request_can_pass_stops_all(serve, cache, behave):
    server = serve(lambda _, number: "yes" if number < 2 else behave)
    outcome = model(cache, concurrency=1).ask(requests(6))
    assert set(outcome.replies) == {"n0", "n1"}
    assert set(outcome.missing) == {"n2", "n3", "n4", "n5"}
    assert set(server.times_asked) == {"case 0", "case 1", "case 2"}
    server.behave = lambda *_: "yes"  # mended: only what is missing is asked
    before = len(server.log)
    assert set(model(cache).ask(requests(6)).replies) == {f"n{i}" for i in range(6)}
    assert len(server.log) - before == 4


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"finish": "length"}, "cut off"),
        ({"refusal": "I cannot help"}, "refused: I cannot help"),
        ({"finish": "content_filter"}, "refused"),
    ],
)
def test_refusals_and_truncations_are_no_values(serve, cache, options, why):
    server = serve(lambda *_: lambda handler: judge.reply(handler, "Judgement: half", **options))
    chat = model(cache)
    outcome = chat.ask(requests(5))
    assert outcome.replies == {}
    assert outcome.missing == {}
    assert why in outcome.without["n4"]
    assert (chat.bill.refused_or_cut, chat.bill.output_tokens) == (5, 50)  # paid for all the same
    model(cache).ask(requests(5))
    assert len(server.log) == 10  # asked again: they were not cached


def test_the_reply_format_falls_back_to_what_the_server_knows(serve, cache):
    def behave(body, _):
        kind = (body.get("response_format") or {}).get("type", "text")
        return "yes" if kind == "text" else judge.error(400, f"response_format {kind} is unknown")

    server = serve(behave)
    outcome = model(cache, concurrency=1).ask(requests(3, schema={"type": "object"}))
    assert len(outcome.replies) == 3
    formats = [e["format"] for e in server.log]
    assert formats == ["json_schema", "json_object", "text", "text", "text"]  # learnt once


PRICED = {"input_price": 1000.0, "output_price": 10000.0}  # a reply: 0.1 + 0.1 dollars


def test_the_budget_is_never_passed_and_a_rerun_goes_on(serve, cache):
    server = serve(lambda *_: "yes")
    chat = model(cache, **PRICED, max_cost_usd=1.2, max_tokens=20)
    outcome = chat.ask(requests(20))
    assert 0 < chat.bill.cost_usd <= 1.2
    assert chat.bill.estimated_usd == pytest.approx(chat.estimate_usd(requests(20)))
    assert len(outcome.replies) == len(server.log) < 20
    assert len(outcome.missing) == 20 - len(server.log)
    assert "max_cost_usd" in outcome.missing["n19"]
    spent = len(server.log)
    more = model(cache, **PRICED, max_cost_usd=100.0, max_tokens=20)
    assert len(more.ask(requests(20)).replies) == 20
    assert len(server.log) == 20
    assert more.bill.cached == spent
    assert max(server.times_asked.values()) == 1


def test_the_estimate_is_told_before_the_first_request(serve, cache, caplog):
    server = serve(lambda *_: "yes")
    model(cache, **PRICED, max_cost_usd=0.001).ask(requests(2))
    assert server.log == []
    assert "judge is asked 2 times" in caplog.text
    assert "$" in caplog.text


def test_a_limit_without_prices_is_refused():
    with pytest.raises(BadInput, match="input_price"):
        dataclasses.replace(SETTINGS, max_cost_usd=1.0)


def test_replay_needs_no_key_and_no_server(serve, cache, monkeypatch):
    server = serve(lambda *_: "yes")
    model(cache).ask(requests(2))
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    outcome = ChatModel(SETTINGS, cache, is_replay=True).ask(requests(3))
    assert set(outcome.replies) == {"n0", "n1"}
    assert "not among the stored replies" in outcome.missing["n2"]
    assert len(server.log) == 2


def test_without_a_key_it_says_so(cache, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        model(cache).ask(requests(1))


def test_a_reply_is_kept_while_others_are_on_their_way(serve, tmp_path):
    kept = threading.Event()
    cache = Cache(tmp_path / "replies.sqlite")
    real = cache.put
    cache.put = lambda reply: (real(reply), kept.set())

    def behave(body, _):
        if body["messages"][0]["content"] == "case 1":
            assert kept.wait(5)  # the reply to the other request is on disk by now
        return "yes"

    serve(behave)
    assert len(ChatModel(SETTINGS, cache).ask(requests(2)).replies) == 2


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "x.sqlite").write_text("hello" * 1000)
    with pytest.raises(BadInput, match="file of replies"):
        Cache(tmp_path / "x.sqlite")


def test_equal_requests_are_sent_once(serve, cache):
    server = serve(lambda *_: "yes")
    twice = [*requests(2), *(dataclasses.replace(r, name=f"again {r.name}") for r in requests(2))]
    chat = model(cache)
    assert set(chat.ask(twice).replies) == {"n0", "n1", "again n0", "again n1"}
    assert len(server.log) == 2
    assert (chat.bill.asked, chat.bill.cached) == (2, 2)


def test_it_asks_from_inside_a_running_loop(serve, cache):
    """As a cell of a notebook does."""
    serve(lambda *_: "yes")

    async def cell():
        return model(cache).ask(requests(3))

    with ThreadPoolExecutor(1) as thread:  # not this one: an earlier test may have left a loop
        outcome = thread.submit(asyncio.run, cell()).result()
    assert len(outcome.replies) == 3


def test_an_interrupt_keeps_what_came_and_sends_no_more(serve, cache):
    main = threading.main_thread().ident
    assert main

    def behave(body, number):
        if number < 3:
            return "yes"
        signal.pthread_kill(main, signal.SIGINT)
        return lambda handler: server.release.wait(20)

    server = serve(behave)
    started = time.monotonic()
    chat = model(cache, concurrency=1)
    with pytest.raises(KeyboardInterrupt):
        chat.ask(requests(9))
    assert time.monotonic() - started < 10  # it does not wait for the open request
    assert len(server.log) == 4
    server.release.set()
    server.behave = lambda *_: "yes"
    outcome = chat.ask(requests(9))  # the same model goes on
    assert len(outcome.replies) == 9
    assert len(server.log) == 4 + 6


def test_the_limit_reserves_what_is_under_way(serve, cache):
    """Replies cost 0.1 + 0.1 dollars, but 0.3 each are reserved: with 0.7, two at a time."""
    server = serve(lambda *_: "yes", seconds=0.1)
    chat = model(cache, **PRICED, max_cost_usd=0.7, max_tokens=29, concurrency=8)
    long = [dataclasses.replace(r, text=f"{i:0>29}") for i, r in enumerate(requests(8))]
    outcome = chat.ask(long)  # (10 + 1 tokens) x 0.001 + 29 x 0.01 = 0.301, of at most 0.7
    assert server.peak == 2
    assert chat.bill.cost_usd == pytest.approx(0.6)
    assert len(outcome.replies) == len(server.log) == 3  # after 0.4, one more; after 0.6, none
    assert len(outcome.missing) == 5


def test_another_schema_is_another_question(serve, cache):
    server = serve(lambda *_: "yes")
    [plain] = requests(1)
    one = dataclasses.replace(plain, schema={"type": "object", "required": ["a"]})
    other = dataclasses.replace(plain, schema={"type": "object", "required": ["b"]})
    keys = [each.key(SETTINGS) for each in (plain, one, other)]
    assert len(set(keys)) == 3
    model(cache).ask([one])
    model(cache).ask([other])
    model(cache).ask([one])
    assert [
        e["body"]["response_format"]["json_schema"]["schema"]["required"] for e in server.log
    ] == [
        ["a"],
        ["b"],
    ]


@pytest.mark.parametrize("key", ["sk-abc\nX: y", "sk-\u201cabc\u201d", "sk-abc\x7f"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(cache, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(BadInput, match="OPENAI_API_KEY: a key is one line") as refused:
        model(cache).ask(requests(1))
    assert "abc" not in str(refused.value)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/v1", "127.0.0.1:8000/v1", "http://"])
def test_an_address_that_is_none_is_named(cache, monkeypatch, address):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(BadInput, match=f"OPENAI_BASE_URL: found {address}; expected"):
        model(cache).ask(requests(1))
