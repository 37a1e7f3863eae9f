"""`engine: server` against real servers on loopback, behind which our own mini LLaVA answers.

So the answers of the server must be those of the local engine, word by word.
"""

import base64
import contextlib
import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
import yaml

import hadpo
from hadpo import benchmarks, config, doctor, pairs
from hadpo.chat import Unfinished
from hadpo.config import ModelConfig
from hadpo.generation import Decoding, Served, generate
from hadpo.records import Answer, BadInput, Pair, Question, read_jsonl
from hadpo.runs.run import open_run
from tests.chat import server as judge

HERE = ModelConfig(
    engine="server",
    server_models="base=mini",
    server_retries=0,
    server_timeout_seconds=30.0,
    server_concurrency=2,
)


@pytest.fixture(scope="module")
def model():
    return hadpo.load("mini/llava").backbone


@pytest.fixture
def behave(model, tmp_path):
    """Answers a chat completion with the mini model, as a server of vLLM would with its own."""
    turn = threading.Lock()

    def answer(body, _number):
        parts = body["messages"][-1]["content"]
        data = base64.b64decode(parts[0]["image_url"]["url"].partition(",")[2])
        with turn:
            path = tmp_path / "seen.png"
            path.write_bytes(data)
            question = Question(
                question_id="q",
                benchmark="b",
                split="s",
                image_id="i",
                image=str(path),
                text=parts[1]["text"],
            )
            how = Decoding(
                name="served",
                max_new_tokens=body["max_tokens"],
                temperature=body["temperature"],
                seed=1,
            )
            [said] = generate(model, [question], how, model="served")
        return lambda handler: judge.reply(
            handler, said.text, finish=said.finish, tokens=(30, said.tokens)
        )

    return answer


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run of the mini world whose questions are prepared, nothing else; and its recipe."""
    root = tmp_path_factory.mktemp("served")
    recipe = root / "served.yaml"
    values = {
        "extends": "mini/llava-smoke",
        "stages": ["prepare", "evaluate"],
        "data": {"mini_test_images": 4},
        "prepare": {"pair_source": "questions"},
        "evaluate": {
            "models": "base",
            "cut_control": False,
            "bootstrap_samples": 20,
            "shr_max_new_tokens": 30,
        },
    }
    recipe.write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HADPO_RUNS", str(root / "runs"))
        run = open_run("prepare", str(recipe), "questions", {})
        doctor.inputs(run)  # draws the world
        pairs.prepare(run)
        run.finish()
    return root, recipe


SERVER = {"engine": "server", "server_models": "base=mini", "server_concurrency": 2}


def evaluated(prepared, monkeypatch, name, **overrides):
    root, recipe = prepared
    monkeypatch.setenv("HADPO_RUNS", str(root / "runs"))
    return open_run("evaluate", str(recipe), name, overrides, earlier="questions")


def answers(run):
    return {(a.model, a.question_id): a for a in read_jsonl(run.path("samples.jsonl"), Answer)}


def test_the_answers_are_those_of_the_local_engine(serve, behave, prepared, monkeypatch):
    local = evaluated(prepared, monkeypatch, "local")
    wanted = benchmarks.evaluate(local)
    server = serve(behave)
    run = evaluated(prepared, monkeypatch, "asked", **SERVER)
    assert benchmarks.evaluate(run) == wanted
    assert answers(run) == answers(local)
    assert {a.finish for a in answers(run).values()} == {"stop", "length"}
    assert max(server.times_asked.values()) == 1 or len(server.times_asked) < len(server.log)
    bill = run.manifest.facts["server"]
    assert (bill["model"], bill["asked"]) == ("mini", len(server.log))
    assert run.manifest.facts["decoding"]["pope"]["on a server"] == {"base": "mini"}
    sent = server.log[0]["body"]
    assert (sent["model"], sent["temperature"]) == ("mini", 0.0)
    assert "response_format" not in sent


def test_here_and_there_side_by_side(serve, behave, prepared, monkeypatch):
    server = serve(behave)
    served = SERVER | {"server_models": "served=mini", "models": "base,served"}
    run = evaluated(prepared, monkeypatch, "both", benchmark_names="pope", **served)
    benchmarks.evaluate(run)
    by_model = Counter(model for model, _ in answers(run))
    assert by_model["base"] == by_model["served"] > 0
    for (model, question), answer in answers(run).items():
        other = answers(run)["base" if model == "served" else "served", question]
        assert answer.text == other.text
    assert server.log


KILLED = """
import json, sys
from hadpo import benchmarks
from hadpo.runs.run import open_run
run = open_run("evaluate", sys.argv[1], "killed", json.loads(sys.argv[2]), earlier="questions")
benchmarks.evaluate(run)
run.finish()
"""


@pytest.mark.slow
def test_killed_in_the_middle_no_request_is_repeated(serve, behave, prepared, monkeypatch):
    root, recipe = prepared
    monkeypatch.setenv("HADPO_RUNS", str(root / "runs"))
    reached = threading.Event()

    def some(body, number):
        if number >= 9:
            reached.set()
            return lambda handler: server.release.wait(60)
        return behave(body, number)

    server = serve(some)
    command = [sys.executable, "-c", KILLED, str(recipe), json.dumps(SERVER)]
    first = subprocess.Popen(command, env={**os.environ})
    assert reached.wait(120)
    replies = root / "runs" / "killed" / "evaluate" / "server_replies.sqlite"
    for _ in range(300):  # until the nine are on disk
        with contextlib.closing(sqlite3.connect(replies)) as data:
            if data.execute("SELECT count(*) FROM replies").fetchone()[0] == 9:
                break
        time.sleep(0.1)
    first.kill()
    first.wait()
    answered = Counter(server.answered_bodies())
    server.release.set()
    again = serve(behave)
    subprocess.run(command, check=True, timeout=300)
    asked = Counter(json.dumps(entry["body"]) for entry in again.log)
    assert sum(answered.values()) == 9
    assert not answered.keys() & asked.keys()
    assert max(asked.values()) == 1
    run = evaluated(prepared, monkeypatch, "killed-twin", **SERVER)
    serve(behave)
    benchmarks.evaluate(run)
    killed = root / "runs" / "killed" / "evaluate" / "samples.jsonl"
    found = {(a.model, a.question_id): a for a in read_jsonl(killed, Answer)}
    assert found == answers(run)


def questions_of(prepared, count):
    root, _ = prepared
    path = root / "runs" / "questions" / "prepare" / "questions.jsonl"
    return list(read_jsonl(path, Question))[:count]


def test_two_addresses_share_the_questions_and_one_fails(serve, behave, prepared, monkeypatch):
    asked = questions_of(prepared, 24)
    one, two = serve(behave), serve(behave)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{one.url},{two.url}")
    wanted = list(Served(HERE, "base", None).answers(asked, Decoding(name="d")))
    assert [question.question_id for question, *_ in wanted] == [q.question_id for q in asked]
    assert min(len(one.log), len(two.log)) >= 5
    two.behave = lambda *_: judge.error(503, "out of memory")
    before = len(two.log)
    again = list(Served(HERE, "base", None).answers(asked, Decoding(name="d")))
    assert again == wanted
    assert 1 <= len(two.log) - before <= 2


def test_what_got_no_reply_is_asked_by_the_next_start(serve, prepared, tmp_path):
    asked = questions_of(prepared, 12)
    texts = [f"{q.text} {q.image}" for q in asked]
    assert len(set(texts)) > 6
    serve(lambda _, number: "Yes." if number < 5 else judge.error(401, "the key has expired"))
    first = Served(HERE, "base", tmp_path / "replies.sqlite")
    found = []
    with pytest.raises(Unfinished, match="questions to the server got no reply"):
        found += first.answers(asked, Decoding(name="d"))
        pytest.fail("all of it was answered")
    server = serve(lambda *_: "Yes.")
    second = Served(HERE, "base", tmp_path / "replies.sqlite")
    assert len(list(second.answers(asked, Decoding(name="d")))) == 12
    assert len(server.log) == len(set(texts)) - 5


def test_what_a_server_refuses_or_thinks_is_no_part_of_the_answer(serve, prepared):
    asked = questions_of(prepared, 3)

    def behave(_, number):
        if number == 1:
            return judge.error(400, "stopped by the content filter")
        return "<think>No, or rather</think> Yes." if number == 2 else "No."

    serve(behave)
    served = Served(dataclasses.replace(HERE, server_concurrency=1), "base", None)
    found = list(served.answers(asked, Decoding(name="d")))
    assert [text for _, text, *_ in found] == ["No.", "", "Yes."]
    assert (served.bill.refused_or_cut, served.bill.with_thoughts) == (1, 1)


@pytest.mark.parametrize(
    "field",
    [
        *({"beams": 5}, {"repetition_penalty": 1.2}, {"no_repeat_ngram": 2}, {"stop_at": "#"}),
        *({"temperature": 1.0, "top_p": 0.9}, {"temperature": 1.0, "top_k": 3}),
        {"beams": 2, "length_penalty": 2.0},
    ],
)
def test_decoding_that_no_server_is_told_is_refused(serve, prepared, field):
    server = serve(lambda *_: "Yes.")
    served = Served(HERE, "base", None)
    with pytest.raises(BadInput, match=f"not told .*{'|'.join(field)}"):
        list(served.answers(questions_of(prepared, 1), Decoding(name="d", **field)))
    assert server.log == []


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"shr_beams": 5}, r"decoding 'shr': a server is not told beams \(5\)"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"prompt": "train"}, "a server has a prompt of its own"),
        ({"models": "base,served"}, "'served' is on no server"),
    ],
)
def test_a_stage_refuses_it_before_anything_is_asked(
    serve, prepared, monkeypatch, overrides, why, tmp_path
):
    server = serve(lambda *_: "Yes.")
    run = evaluated(prepared, monkeypatch, f"refused-{tmp_path.name}", **SERVER | overrides)
    with pytest.raises(BadInput, match=why):
        benchmarks.evaluate(run)
    assert server.log == []


def test_pairs_are_mined_from_a_server(serve, behave, prepared, monkeypatch):
    root, _ = prepared
    monkeypatch.setenv("HADPO_RUNS", str(root / "runs"))
    mined = {"pair_source": "mined", "description_images": 3, "yes_no_pairs": 4}
    server = serve(behave)
    run = open_run("prepare", "mini/llava-smoke", "mined", SERVER | mined)
    doctor.inputs(run)
    pairs.prepare(run)
    assert {entry["body"]["temperature"] for entry in server.log} == {0.0, 0.7}
    assert Counter(p.kind for p in read_jsonl(run.path("pairs.jsonl"), Pair))["pope"] > 0
    assert run.manifest.facts["server"]["asked"] == len(server.log)
    asked = len(server.log)
    pairs.prepare(open_run("prepare", "mini/llava-smoke", "mined", SERVER | mined))
    assert len(server.log) == asked


@pytest.mark.parametrize("name", ["server", "server-vs-local"])
def test_the_recipes_are_greedy_and_name_a_model_on_the_server(name):
    recipe = config.load_recipe(name)
    assert recipe.model is not None and recipe.model.engine == "server"
    assert config.named(recipe.model.server_models).keys() <= {
        *config.names(recipe.evaluate.models)
    }
    assert recipe.evaluate.shr_beams == recipe.evaluate.pope_beams == 1  # pyright: ignore
    assert recipe.prepare.pair_source == "questions"
