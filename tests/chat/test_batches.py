"""The Batch API in two steps, against a real server: nothing is handed in, or paid, twice."""

import dataclasses

import pytest

from hadpo.chat import Bill, Cache, ChatModel, ChatSettings, Request
from hadpo.chat.cache import Batch
from hadpo.chat.client import Client
from hadpo.chat.model import in_own_loop
from tests.chat import server as judge

SETTINGS = ChatSettings(model="judge", retries=0, timeout_seconds=5, delivery="batch")


@pytest.fixture
def cache(tmp_path):
    found = Cache(tmp_path / "replies.sqlite")
    yield found
    found.close()


def requests(count):
    return [Request(name=f"n{i}", text=f"case {i}", prompt_version="1") for i in range(count)]


def ask(cache, count, **changes):
    chat = ChatModel(dataclasses.replace(SETTINGS, **changes), cache)
    return chat.ask(requests(count)), chat.bill


def test_handed_in_once_and_collected_by_a_later_start(serve, cache):
    server = serve(lambda body, _: "about " + body["messages"][0]["content"])
    first, bill = ask(cache, 4)
    assert first.replies == {}
    assert len(first.missing) == 4
    assert "handed in as batch batch_0; collect it" in first.missing["n0"]
    assert bill.asked == 0
    again, _ = ask(cache, 4)
    assert "batch_0 is in_progress" in again.missing["n3"]
    server.batch_api.status = "completed"
    done, bill = ask(cache, 4)
    assert {k: r.text for k, r in done.replies.items()} == {
        f"n{i}": f"about case {i}" for i in range(4)
    }
    assert (bill.asked, bill.input_tokens, bill.output_tokens) == (4, 400, 40)
    assert ask(cache, 4)[1].cached == 4
    assert len(server.batch_api.handed_in) == 1  # by the server's own books
    assert server.batch_api.log.count(("POST", "/v1/batches")) == 1
    assert server.log == []  # nothing was asked directly
    assert cache.batches() == []


def test_only_what_is_new_is_handed_in(serve, cache):
    server = serve(lambda *_: "yes")
    ask(cache, 2)
    ask(cache, 5)
    sizes = [len(each) for each in server.batch_api.handed_in.values()]
    assert sizes == [2, 3]
    server.batch_api.status = "completed"
    assert len(ask(cache, 5)[0].replies) == 5
    assert len(server.batch_api.handed_in) == 2


def test_a_kill_between_handing_in_and_writing_it_down_pays_once(serve, cache):
    server = serve(lambda *_: "yes")
    keys = frozenset(request.key(SETTINGS) for request in requests(3))
    cache.put_batch(Batch("hadpo-mark", None, keys))  # this is as far as it came ...

    async def hand_in():
        async with Client(SETTINGS, Bill()) as client:
            await client.hand_in(requests(3), "hadpo-mark")

    in_own_loop(hand_in())  # ... and this was not written down
    outcome, _ = ask(cache, 3)
    assert "batch_0 is in_progress" in outcome.missing["n0"]
    assert [b.id for b in cache.batches()] == ["batch_0"]
    assert len(server.batch_api.handed_in) == 1


def test_a_kill_before_handing_in_hands_in(serve, cache):
    server = serve(lambda *_: "yes")
    keys = frozenset(request.key(SETTINGS) for request in requests(3))
    cache.put_batch(Batch("hadpo-mark", None, keys))
    ask(cache, 3)
    assert len(server.batch_api.handed_in) == 1
    assert [b.id for b in cache.batches()] == ["batch_0"]


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_a_batch_that_ends_without_replies_is_told_and_handed_in_again(serve, cache, status):
    server = serve(lambda *_: "yes")
    ask(cache, 2)
    server.batch_api.status = status
    outcome, _ = ask(cache, 2)
    assert f"ended as {status} without it" in outcome.missing["n1"]
    assert len(server.batch_api.handed_in) == 1
    server.batch_api.status = "completed"
    ask(cache, 2)
    assert len(server.batch_api.handed_in) == 2
    assert len(ask(cache, 2)[0].replies) == 2


def test_single_lines_may_fail_or_be_refused(serve, cache):
    lines = {
        "case 0": "yes",
        "case 1": {"error": {"code": "server_error"}, "response": None},
        "case 2": {"response": {"status_code": 429, "body": {"error": "slow down"}}},
        "case 3": {"response": {"status_code": 200, "body": {"no": "completion"}}},
        "case 4": {
            "response": {"status_code": 200, "body": judge.completion("", refusal="I will not")}
        },
    }
    server = serve(lambda body, _: lines[body["messages"][0]["content"]])
    ask(cache, 5)
    server.batch_api.status = "completed"
    outcome, bill = ask(cache, 5)
    assert set(outcome.replies) == {"n0"}
    assert set(outcome.without) == {"n4"}
    assert "refused: I will not" in outcome.without["n4"]
    assert {k: v.split(":")[0].split(" (")[0] for k, v in outcome.missing.items()} == {
        "n1": "the batch says",
        "n2": "the batch says",
        "n3": "no chat completion",
    }
    assert (bill.failed, bill.refused_or_cut) == (3, 1)


def test_the_budget_bounds_what_is_handed_in(serve, cache):
    server = serve(lambda *_: "yes")
    prices = {"input_price": 1000.0, "output_price": 10000.0, "max_tokens": 20}
    outcome, _ = ask(cache, 20, **prices, max_cost_usd=1.2)
    [batch] = server.batch_api.handed_in.values()
    assert 0 < len(batch) < 20
    told = [why for why in outcome.missing.values() if "max_cost_usd" in why]
    assert len(told) == 20 - len(batch)


def test_a_server_without_batches_says_so(serve, cache):
    server = serve(lambda *_: "yes")
    server.batch_api.takes_none = True
    outcome, _ = ask(cache, 1)
    assert "the batch was not taken" in outcome.missing["n0"]
    server.batch_api.takes_none = False
    assert "handed in" in ask(cache, 1)[0].missing["n0"]


def test_equal_requests_are_handed_in_once_and_all_get_the_reply(serve, cache):
    server = serve(lambda *_: "yes")
    twice = [*requests(1), dataclasses.replace(requests(1)[0], name="again")]
    assert set(ChatModel(SETTINGS, cache).ask(twice).missing) == {"n0", "again"}
    server.batch_api.status = "completed"
    assert set(ChatModel(SETTINGS, cache).ask(twice).replies) == {"n0", "again"}
    assert len(server.batch_api.handed_in["batch_0"]) == 1
