"""Servers that never end, send elsewhere, repeat the key, or take other settings; several at once.

Two processes that ask the same are real processes.
"""

import dataclasses
import gzip
import json
import subprocess
import sys
import threading
import time

import pytest

from hadpo.chat import Cache, ChatModel, ChatSettings, Request
from hadpo.chat.transport import GuardedClient, mask
from tests.chat import server as judge

SETTINGS = ChatSettings(model="judge", retries=0, timeout_seconds=5, max_tokens=50, concurrency=4)


def requests(count, **options):
    return [
        Request(name=f"n{i}", text=f"case {i}", prompt_version="1", **options) for i in range(count)
    ]


def model(**changes):
    return ChatModel(dataclasses.replace(SETTINGS, **changes), Cache(None))


def head(handler, *headers):
    handler.send_response(200)
    for name, value in (("content-type", "application/json"), *headers):
        handler.send_header(name, value)
    handler.end_headers()


def in_chunks(handler, block, count, seconds=0.0):
    head(handler, ("transfer-encoding", "chunked"))
    for _ in range(count):
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        handler.wfile.flush()
        time.sleep(seconds)
    handler.wfile.write(b"0\r\n\r\n")


def plain(handler):
    head(handler, ("content-length", str(80 << 20)))
    for _ in range(80):
        handler.wfile.write(b" " * (1 << 20))


def packed(handler):
    content = gzip.compress(b" " * (80 << 20), 1)
    head(handler, ("content-encoding", "gzip"), ("content-length", str(len(content))))
    handler.wfile.write(content)


ENDLESS = {
    "plain": plain,
    "chunked": lambda handler: in_chunks(handler, b" " * (1 << 20), 80),
    "gzip": packed,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_reply_that_does_not_end_is_left(serve, name):
    serve(lambda *_: ENDLESS[name])
    assert "too large: over 32 MB" in model().ask(requests(1)).missing["n0"]


def drip_in_head(handler):
    for letter in b"HTTP/1.1 200 OK\r\nx-slow: " + b"a" * 40:
        handler.wfile.write(bytes([letter]))
        handler.wfile.flush()
        time.sleep(0.1)


DRIPS = {
    "body": lambda handler: in_chunks(handler, b" ", 60, seconds=0.1),
    "head": drip_in_head,
    "error": lambda handler: (handler.send_response(503), drip_in_head(handler)),
}


@pytest.mark.parametrize("name", DRIPS)
def test_the_time_limit_is_of_the_whole_request(serve, name):
    serve(lambda *_: DRIPS[name])
    outcome = model(timeout_seconds=0.5).ask(requests(1))
    assert "no reply within 0.5 s" in outcome.missing["n0"]


@pytest.mark.parametrize("to", ["http://127.0.0.2:1/v1", "http://localhost:9/x", "ftp://else/"])
def test_nothing_is_sent_on_to_another_host(serve, to):
    server = serve(
        lambda *_: lambda h: judge.send(h, 307, "", headers=[("location", f"{to}?k={serve.key}")])
    )
    outcome = model(concurrency=1).ask(requests(3))
    assert "another host" in outcome.missing["n0"]
    assert serve.key not in str(outcome.missing)
    assert len(server.log) == 1  # the next one would go the same way


def test_a_redirect_within_the_server_is_followed(serve):
    def behave(_, number):
        there = [("location", "/v1/chat/completions?moved=1")]
        return (lambda h: judge.send(h, 307, "", headers=there)) if number == 0 else "yes"

    server = serve(behave)
    assert model().ask(requests(1)).replies["n0"].text == "yes"
    assert server.log[1]["path"].endswith("?moved=1")


KEY = "sk-never-to-be-written"


@pytest.mark.parametrize(
    "send",
    [
        lambda h: judge.send(h, 200, f"<html>You sent {KEY}</html>", "text/html"),
        lambda h: judge.send(h, 200, "-" * 60 + KEY),  # the quotation is cut inside of it
        judge.error(400, f"bad header Bearer {KEY}"),
        judge.error(401, f"no such key: {KEY[:12]}...{KEY[-9:]}"),
        lambda h: judge.reply(h, f"1. correct: {KEY}"),
        lambda h: judge.reply(h, "", refusal=f"not with {KEY}"),
        lambda h: judge.send(h, 200, json.dumps(judge.completion("a") | {"model": KEY})),
    ],
    ids=["page", "cut", "400", "part", "reply", "refusal", "model"],
)
def test_the_key_never_comes_back(serve, send, tmp_path, caplog):
    assert serve.key == KEY
    serve(lambda *_: send)
    cache = Cache(tmp_path / "replies.sqlite")
    outcome = ChatModel(SETTINGS, cache).ask(requests(1))
    cache.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for text in (repr(outcome), caplog.text, kept.decode("latin-1")):
        assert not any(KEY[i : i + 8] in text for i in range(len(KEY) - 7))


def test_a_short_key_is_a_word_of_replies_too():
    assert mask("there is none", "none") == "there is none"
    assert mask(f"a {KEY[3:]} b {KEY[:5]}", KEY) == f"a *** b {KEY[:5]}"


TAKES_NOT = {
    "max_tokens": (
        lambda body: "max_tokens" in body,
        "Unsupported parameter: 'max_tokens' is not supported with this model.",
        ["max_tokens (called max_completion_tokens instead)"],
    ),
    "temperature": (
        lambda body: "temperature" in body,
        "'temperature' does not support 0 with this model; only the default (1) value is",
        ["temperature 0 (the server's own instead)"],
    ),
    "format": (
        lambda body: "response_format" in body,
        "guided decoding is switched off",
        ["reply format json_schema (text instead)"],
    ),
    "unnamed": (
        lambda body: "temperature" in body,
        "extra inputs are not permitted",
        ["reply format json_schema (text instead)", "temperature 0 (the server's own instead)"],
    ),
}


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("name", TAKES_NOT)
def test_a_refused_setting_is_found_out_once(serve, name, status):
    refuses, why, departures = TAKES_NOT[name]
    server = serve(lambda body, _: judge.error(status, why) if refuses(body) else "yes")
    chat = model()
    outcome = chat.ask(requests(30, schema={"type": "object"}))
    assert len(outcome.replies) == 30
    assert chat.bill.not_taken == departures
    refused = sum(refuses(entry["body"]) for entry in server.log)
    assert refused <= SETTINGS.concurrency + 2  # those under way, and the steps of one of them
    assert not any(refuses(entry["body"]) for entry in server.log[-20:])


def test_a_temperature_that_must_be_honoured_is_never_dropped(serve):
    server = serve(lambda body, _: judge.error(400, "temperature is fixed at 1 here"))
    outcome = model(is_exact=True).ask(requests(1))
    assert "temperature is fixed" in outcome.missing["n0"]
    assert {entry["body"]["temperature"] for entry in server.log} == {0.0}


@pytest.mark.parametrize(
    "said",
    [
        "The prompt was stopped by the content filter",
        "This model's maximum context length is 4096 tokens, you asked for max_tokens 50 more",
        "your text is not to our taste",  # any wording: the server takes the others
    ],
)
def test_a_refused_prompt_costs_its_own_case_alone(serve, said):
    def behave(body, _):
        is_bad = int(judge.text_of(body).split()[1]) in (3, 4, 5, 6)
        return judge.error(400, said) if is_bad else "yes"

    server = serve(behave)
    chat = model(concurrency=1)
    outcome = chat.ask(requests(12))
    assert outcome.missing == {}
    assert set(outcome.without) == {"n3", "n4", "n5", "n6"}
    assert said[:20] in outcome.without["n3"]
    assert len(server.log) == 12


def test_addresses_share_the_load_and_one_may_fail(serve, monkeypatch):
    good = serve(lambda *_: "yes", seconds=0.02)
    other = serve(lambda *_: "yes", seconds=0.02)
    broken = serve(lambda *_: judge.error(503, "no model is loaded"))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{good.url}, {other.url} {broken.url}")
    outcome = model(retries=2).ask(requests(40))
    assert len(outcome.replies) == 40
    assert len(good.log) + len(other.log) == 40
    assert min(len(good.log), len(other.log)) >= 10
    assert 1 <= len(broken.log) <= SETTINGS.concurrency  # then it is left alone
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:9/v1,{good.url}")
    assert len(model(concurrency=1).ask(requests(3)).replies) == 3


ASK = """
import sys
from hadpo.chat import Cache, ChatModel, ChatSettings, Request
from pathlib import Path
chat = ChatModel(ChatSettings(model="judge"), Cache(Path(sys.argv[1])))
asked = [Request(name=f"n{i}", text=f"case {i}", prompt_version="1") for i in range(12)]
outcome = chat.ask(asked)
print(len(outcome.replies), chat.bill.asked + chat.bill.cached)
"""


def test_two_processes_ask_the_same_question_once(serve, tmp_path):
    server = serve(lambda *_: "yes", seconds=0.2)
    command = [sys.executable, "-c", ASK, str(tmp_path / "replies.sqlite")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.communicate(timeout=60)[0].split() for each in both] == [["12", "12"]] * 2
    assert set(server.times_asked.values()) == {1}
    assert len(server.log) == 12


def test_what_a_killed_process_asked_is_asked_again(serve, tmp_path):
    asked, killed = threading.Event(), threading.Event()

    def behave(*_):
        asked.set()
        return "yes" if killed.is_set() else lambda handler: server.release.wait(20)

    server = serve(behave)
    command = [sys.executable, "-c", ASK, str(tmp_path / "replies.sqlite")]
    first = subprocess.Popen(command)
    assert asked.wait(30)
    first.kill()
    first.wait()
    killed.set()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["12", "12"]


def test_an_unpacked_reply_is_what_the_server_sent(serve):
    """The limits change nothing about a good reply that is packed."""

    def behave(*_):
        content = gzip.compress(json.dumps(judge.completion("yes, é")).encode())

        def send(handler):
            head(handler, ("content-encoding", "gzip"), ("content-length", str(len(content))))
            handler.wfile.write(content)

        return send

    serve(behave)
    assert model().ask(requests(1)).replies["n0"].text == "yes, é"
    assert GuardedClient(seconds=1, key=KEY).follow_redirects
