"""The file of replies: damaged, of somebody else, of an earlier version, held, or shared."""

import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import pytest
from filelock import FileLock

from hadpo.chat import Cache, Reply
from hadpo.records import BadInput

REPLY = Reply(key="k", text="yes", model="m", input_tokens=7, output_tokens=3, finish="length")


def filled(path, count=400):
    cache = Cache(path)
    for number in range(count):
        cache.put(Reply(key=f"k{number}", text="yes " * 50, input_tokens=1, output_tokens=1))
    cache.close()
    return path


def read_all(path, count=400):
    cache = Cache(path)
    return [cache.get(f"k{number}") for number in range(count)]


@pytest.mark.parametrize("start", [4096, 8192, 20_000])
def test_a_damaged_file_is_set_aside_and_the_next_start_begins_anew(tmp_path, start):
    path = filled(tmp_path / "judge_cache.sqlite")
    content = bytearray(path.read_bytes())
    content[start:] = b"\xaa" * (len(content) - start)
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"judge_cache\.sqlite: .*damaged.*judge_cache\.damaged-1"):
        read_all(path)
    assert (tmp_path / "judge_cache.damaged-1").read_bytes()[start:] == content[start:]
    assert read_all(path) == [None] * 400


def test_damage_at_any_place_is_a_reply_nothing_or_a_message(tmp_path):
    whole = filled(tmp_path / "whole.sqlite").read_bytes()
    draw = random.Random(1)
    for number in range(60):
        content = bytearray(whole)
        at = draw.randrange(len(content))
        content[at : at + draw.choice([1, 30, 3000])] = draw.randbytes(draw.choice([0, 1, 30]))
        path = tmp_path / f"{number}.sqlite"
        path.write_bytes(content)
        try:
            read_all(path)
        except BadInput as error:
            assert path.name in str(error)


@pytest.mark.parametrize(
    "table", ["replies (x)", "batches (mark TEXT)", "claims (key, owner, until, more)"]
)
def test_a_file_of_somebody_else_is_refused_and_left(tmp_path, table):
    path = tmp_path / "theirs.sqlite"
    with sqlite3.connect(path) as data:
        data.execute(f"CREATE TABLE {table}")
    data.close()
    with pytest.raises(BadInput, match=r"theirs\.sqlite: not the file of replies.*move it away"):
        Cache(path)
    assert path.is_file()


def test_a_file_of_before_is_read_and_goes_on(tmp_path):
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as data:
        data.execute(
            "CREATE TABLE replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL, "
            "input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL)"
        )
        data.execute("INSERT INTO replies VALUES ('old', 'no', 'm', 1, 2)")
    data.close()
    cache = Cache(path)
    assert cache.get("old") == Reply(
        key="old", text="no", model="m", input_tokens=1, output_tokens=2, finish="stop"
    )
    cache.put(REPLY)
    assert Cache(path).get("k") == REPLY


def test_a_file_that_another_process_holds_is_named(tmp_path):
    path = filled(tmp_path / "held.sqlite", 1)
    cache = Cache(path)
    cache._data.execute("PRAGMA busy_timeout = 10")
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BadInput, match=r"held\.sqlite: .*locked.*wait for the process"):
            cache.put(REPLY)
    other.close()


def test_a_new_file_is_opened_by_one_process_at_a_time(tmp_path):
    """SQLite refuses at once where two of them choose the journal: it does not wait."""
    path = tmp_path / "replies.sqlite"
    with ThreadPoolExecutor() as pool:
        with FileLock(f"{path}.lock"):
            opened = pool.submit(Cache, path)
            with pytest.raises(NotYet):
                opened.result(timeout=0.5)
        assert opened.result(timeout=60).get("a") is None


def test_a_claim_is_one_process_s_until_a_reply_or_the_end(tmp_path):
    one, other = Cache(tmp_path / "x.sqlite"), Cache(tmp_path / "x.sqlite")
    assert one.claim("k", 60)
    assert one.claim("k", 60)  # its own
    assert not other.claim("k", 60)
    other.give_up(["k"])  # not its own
    assert not other.claim("k", 60)
    one.put(REPLY)
    assert other.claim("k", 60)
    assert one.claim("late", -1)
    assert other.claim("late", 60)  # time is up
