"""The stage evaluate with a language model as the judge: real files, a real server, real kills."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from hadpo import benchmarks, pairs
from hadpo.judges import Unfinished
from hadpo.records import Answer, BadInput, Metric, Question, Verdict, read_jsonl, write_jsonl
from hadpo.runs.run import open_run
from tests.chat.server import error

JUDGED = {
    "models": "base",
    "benchmark_names": "shr",
    "judge": "llm",
    "judge_model": "judge",
    "judge_concurrency": 1,
    "judge_retries": 0,
    "judge_format": "text",
    "bootstrap_samples": 20,
}


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory):
    """A recipe of the photos, and a folder of runs in which their stage prepare is done."""
    folder = tmp_path_factory.mktemp("photos")
    recipe = folder / "photos.yaml"
    questions_of_gavie = shared / "data/photoset/gavie/evaluation_subset.json"
    (folder / "synonyms.txt").write_text("person, woman\nboat\nbroccoli\nzebra\n")
    recipe.write_text(
        "extends: photoset\nstages: [prepare, evaluate]\ndata:\n"
        f"  gavie: {questions_of_gavie}\n  chair_synonyms: {folder / 'synonyms.txt'}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HADPO_SHARED", str(shared))
        patch.setenv("HADPO_RUNS", str(folder / "runs"))
        run = open_run("prepare", str(recipe), "photos", {})
        pairs.prepare(run)
        run.finish()
    return recipe, folder / "runs"


@pytest.fixture
def prepared(photos, shared, tmp_path, monkeypatch):
    """Opens the stage evaluate of the photos, whose five descriptions are there already."""
    monkeypatch.setenv("HADPO_SHARED", str(shared))
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    recipe, runs = photos
    shutil.copytree(runs, tmp_path / "runs")
    said = json.loads((shared / "data/photoset/shr/responses_example.json").read_text())
    questions = read_jsonl(tmp_path / "runs/photos/prepare/questions.jsonl", Question)
    answers = [
        Answer(
            question_id=q.question_id,
            benchmark=q.benchmark,
            split=q.split,
            model="base",
            image_id=q.image_id,
            text=said[q.image_id] if q.benchmark == "shr" else "Yes, a woman with zebras.",
            tokens=9,
            finish="stop",
        )
        for q in questions
    ]

    def start(name, **overrides):
        evaluated = open_run("evaluate", str(recipe), name, JUDGED | overrides, earlier="photos")
        if not evaluated.path("samples.jsonl").is_file():
            write_jsonl(evaluated.path("samples.jsonl"), answers)
        return evaluated

    start.recipe = str(recipe)
    return start


def all_correct(body, _number):
    """Rules "correct" on every numbered sentence of the prompt's description."""
    count = len(re.findall(r"^\d+\. ", body["messages"][0]["content"], flags=re.MULTILINE))
    return "Judgement:\n" + "\n".join(f"{i + 1}. correct: seen" for i in range(count))


def value(metrics, name):
    return next(m for m in metrics if m.name == name)


def test_a_run_is_judged_and_replayed_without_key_or_network(serve, prepared, monkeypatch):
    server = serve(all_correct)
    run = prepared("asked")
    metrics = benchmarks.evaluate(run)
    found = value(metrics, "hallucinated_sentence_ratio")
    assert (found.value, found.n_unreadable) == (0.0, 0)
    assert len(server.log) == 5
    note = run.manifest.facts["judge"]
    assert note["bill"]["asked"] == 5
    assert note["served_by"] == ["judge-as-served"]
    assert len(note["prompts"]["shr"]) == 64
    replies = run.path("judge_replies.jsonl")
    assert len(replies.read_text().splitlines()) == 5
    assert "woman in an orange hooded jacket" in server.log[0]["text"] + server.log[1]["text"]

    (run.root / "judge_cache.sqlite").rename(run.root / "elsewhere")
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    again = prepared("replayed", judge="replay", judge_replies=str(replies))
    assert benchmarks.evaluate(again) == metrics
    assert len(server.log) == 5
    with pytest.raises(Unfinished, match=r"5 of 5 cases are not judged .*stored replies"):
        other = prepared("other", judge="replay", judge_replies=str(replies), judge_max_tokens=9)
        benchmarks.evaluate(other)


def graded(body, number):
    """Rules on sentences, or grades the only answer."""
    if "Relevancy" in body["messages"][0]["content"]:
        return "Relevancy:\nscore: 8\nAccuracy:\nscore: 3.5"
    return all_correct(body, number)


def test_few_calls_lie_between_evaluate_and_tally(serve, prepared, monkeypatch):
    from hadpo.benchmarks import chair

    frames = []

    def spy(answer, known, tally=chair.tally):
        frame = inspect.currentframe()
        frames.append([])
        while frame := frame.f_back:
            name = frame.f_globals.get("__name__", "")
            if name.partition(".")[0] == "hadpo":
                frames[-1].append(f"{name}.{frame.f_code.co_name}")
        return tally(answer, known)

    monkeypatch.setattr(chair, "tally", spy)
    serve(all_correct)
    benchmarks.evaluate(prepared("frames", benchmark_names="chair"))
    assert frames
    for calls in frames:
        between = calls[: calls.index("hadpo.benchmarks._stage.evaluate")]
        assert len(between) <= 4, calls


def test_all_benchmarks_of_the_photos(serve, prepared):
    server = serve(graded)
    run = prepared("all", benchmark_names="pope,shr,gavie,chair", bootstrap_samples=20)
    metrics = benchmarks.evaluate(run)
    found = {(m.benchmark, m.split, m.name): m for m in metrics}
    assert found["gavie", "all", "accuracy"].value == 3.5
    assert (found["gavie", "all", "relevancy"].value, found["gavie", "all", "relevancy"].n) == (
        8,
        12,
    )
    assert found["chair", "val", "plain_i"].n == 8  # a woman and zebras, of each of four photos
    assert 0.5 <= found["chair", "val", "plain_i"].value <= 1
    assert found["pope", "random", "yes_ratio"].value == 1
    assert found["shr", "val", "hallucinated_sentence_ratio"].value == 0
    assert len(server.log) == 5 + 12
    assert set(run.manifest.facts["judge"]["prompts"]) == {"shr", "gavie"}
    replies = run.path("judge_replies.jsonl").read_text().splitlines()
    assert len(replies) == 17 - 12 + len(
        {e["text"] for e in server.log if "Relevancy" in e["text"]}
    )


def test_words_that_cannot_be_read_are_said_before_a_model_answers(prepared, monkeypatch):
    from hadpo.benchmarks import _stage

    def answers_of(*_):
        raise AssertionError("a model was asked")

    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setattr(_stage, "answers_of", answers_of)
    with pytest.raises(BadInput, match=r"nltk.*hadpo\[benchmarks\]"):
        benchmarks.evaluate(prepared("n", benchmark_names="chair", chair_reading="original"))


def test_what_is_missing_is_told_with_the_command_that_goes_on(serve, prepared):
    server = serve(
        lambda body, n: all_correct(body, n) if n < 2 else error(429, "x", "insufficient_quota")
    )
    run = prepared("poor")
    with pytest.raises(Unfinished) as caught:
        benchmarks.evaluate(run)
    assert "3 of 5 cases are not judged" in str(caught.value)
    assert "quota" in str(caught.value)
    assert f"hadpo stage evaluate {prepared.recipe} --name poor" in str(caught.value)
    assert len(run.path("judge_replies.jsonl").read_text().splitlines()) == 2
    server.behave = all_correct
    before = len(server.log)
    benchmarks.evaluate(prepared("poor"))
    assert len(server.log) - before == 3


def test_an_unreadable_reply_is_asked_for_again_a_bounded_number_of_times(serve, prepared):
    server = serve(lambda *_: '{"case": "another", "verdicts": []}')
    run = prepared("nonsense", judge_attempts=3)
    with pytest.raises(Unfinished, match="could not be read at all"):
        benchmarks.evaluate(run)
    metrics = list(read_jsonl(run.path("metrics.jsonl"), Metric))
    found = value(metrics, "hallucinated_sentence_ratio")
    sentences = round(value(metrics, "sentences_per_answer").value * 5)
    assert (found.value, found.n, found.n_unreadable) == (None, 0, sentences)
    assert len(server.log) == 15


def test_a_second_reply_mends_the_first(serve, prepared):
    serve(lambda body, n: "I am not sure." if n < 5 else all_correct(body, n))
    run = prepared("second")
    found = value(benchmarks.evaluate(run), "hallucinated_sentence_ratio")
    assert found.n_unreadable == 0
    verdicts = list(read_jsonl(run.path("verdicts.jsonl"), Verdict))
    assert {v.label for v in verdicts} == {"correct"}


SCRIPT = """
import json, sys
from hadpo import benchmarks
from hadpo.runs.run import open_run
run = open_run("evaluate", sys.argv[2], "killed", json.loads(sys.argv[1]), earlier="photos")
benchmarks.evaluate(run)
run.finish()
"""


def test_kill_and_rerun_repeat_no_request(serve, prepared, tmp_path):
    server = serve(lambda *_: "")

    def behave(body, number):
        return all_correct(body, number) if number < 3 else lambda _: server.release.wait(30)

    server.behave = behave
    prepared("killed").fail(KeyboardInterrupt())
    command = [sys.executable, "-c", SCRIPT, json.dumps(JUDGED), prepared.recipe]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 40
    while len(server.log) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    answered = list(server.answered)
    assert len(answered) == 3
    server.behave = all_correct
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(server.times_asked) == 5
    assert all(server.times_asked[text] == 1 for text in answered)
    assert sum(server.times_asked.values()) == 6  # the one that was on its way was asked twice
    files = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert len(files) > 10
    assert not [p for p in files if serve.key.encode() in p.read_bytes()]
    assert {e["key"] for e in server.log} == {f"Bearer {serve.key}"}


def test_the_key_is_in_no_file_even_if_the_server_repeats_it(serve, prepared, tmp_path, caplog):
    serve(lambda *_: error(401, f"Incorrect API key provided: {serve.key}"))
    run = prepared("leak")
    with pytest.raises(Unfinished) as caught:
        benchmarks.evaluate(run)
    run.fail(caught.value)
    assert serve.key not in str(caught.value) + caplog.text
    files = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert not [p for p in files if serve.key.encode() in p.read_bytes()]


@pytest.mark.slow
def test_the_key_is_not_in_the_executed_notebook(serve, prepared, tmp_path):
    from hadpo.runs.execute import execute

    serve(all_correct)
    overrides = JUDGED | {"benchmark_names": "pope,shr"}
    prepared("book", **overrides).fail(KeyboardInterrupt())
    outcome = execute("evaluate", prepared.recipe, "book", overrides, from_run="photos")
    assert (outcome.folder / "report.html").is_file()
    assert (outcome.folder / "notebook.ipynb").is_file()
    files = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert not [p for p in files if serve.key.encode() in p.read_bytes()]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"judge_model": ""}, "judge_model"),
        ({"judge": "oracle"}, "oracle asks no language model.*judge_model, judge_format"),
        ({"judge": "nobody"}, "oracle, replay|llm"),
        ({"judge_reader": "upstream", "judge_format": "json_schema"}, "judge_format"),
        ({"judge_max_cost_usd": 1.0}, "judge_input_price"),
        ({"judge_attempts": 0}, "judge_attempts"),
        ({"judge_prompts": "/nowhere"}, r"shr\.txt: no such prompt"),
        ({"judge": "replay", "judge_replies": "/nowhere"}, "no such file"),
        ({"judge_replies": "/nowhere"}, "judge replay"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(serve, prepared, overrides, message):
    server = serve(all_correct)
    with pytest.raises(BadInput, match=message):
        benchmarks.evaluate(prepared("bad", **overrides))
    assert server.log == []


def test_a_users_own_prompt_and_the_original_reader(serve, prepared, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "shr.txt").write_text("{regions}\n{facts}\n{claims}")
    server = serve(lambda body, n: all_correct(body, n).replace("Judgement", "judgement"))
    mine = {"judge_prompts": str(tmp_path / "mine"), "judge_attempts": 1}
    run = prepared("tolerant", **mine)
    assert value(benchmarks.evaluate(run), "hallucinated_sentence_ratio").n_unreadable == 0
    assert server.log[0]["text"].startswith("[0.")
    upstream = prepared("upstream", **mine, judge_reader="upstream")
    with pytest.raises(Unfinished, match="could not be read at all"):
        benchmarks.evaluate(upstream)
    metrics = list(read_jsonl(upstream.path("metrics.jsonl"), Metric))
    assert value(metrics, "hallucinated_sentence_ratio").n == 0
    assert len(server.log) == 5  # the same replies, read in another way


def test_the_batch_api_takes_two_starts(serve, prepared):
    server = serve(all_correct)
    batch = {"judge_delivery": "batch"}
    with pytest.raises(Unfinished, match=r"5 of 5 cases .*handed in as batch .*hadpo stage evalu"):
        benchmarks.evaluate(prepared("batch", **batch))
    server.batch_api.status = "completed"
    run = prepared("batch", **batch)
    found = value(benchmarks.evaluate(run), "hallucinated_sentence_ratio")
    assert (found.value, found.n_unreadable) == (0.0, 0)
    assert [len(each) for each in server.batch_api.handed_in.values()] == [5]
    assert server.log == []
    direct = value(benchmarks.evaluate(prepared("direct")), "hallucinated_sentence_ratio")
    assert direct == found
    assert server.log == []  # a reply is the same however it was delivered


@pytest.mark.slow
def test_the_photos_through_the_notebook_with_answers_of_the_recorded_checkpoint(prepared):
    from hadpo.runs.execute import execute

    overrides = {
        "models": "base",
        "benchmark_names": "pope,shr,chair",
        "shr_beams": 2,
        "chair_max_new_tokens": 20,
        "bootstrap_samples": 20,
    }
    outcome = execute("evaluate", prepared.recipe, "generated", overrides, from_run="photos")
    answers = list(read_jsonl(outcome.folder / "samples.jsonl", Answer))
    assert {a.benchmark for a in answers} == {"pope", "shr", "chair"}
    assert all(a.tokens > 0 for a in answers)
    metrics = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").open()]
    names = {(m["benchmark"], m["name"]) for m in metrics if m["n"]}
    wanted = {("pope", "accuracy"), ("shr", "sentences_per_answer"), ("chair", "words_per_answer")}
    assert wanted <= names
    assert (outcome.folder / "original/shr/base/judgement.json").is_file()
    report = (outcome.folder / "report.html").read_text()
    assert "images/s" in report  # progress is told in the notebook's log


def test_a_judge_that_nobody_can_read_fails_the_stage_and_half_of_it_is_said(serve, prepared):
    serve(lambda *_: "I would rather not say.")
    run = prepared("unread")
    with pytest.raises(Unfinished, match=r"could not be read at all: shr, 19 of 19 verdicts"):
        benchmarks.evaluate(run)
    assert len(list(read_jsonl(run.path("verdicts.jsonl"), Verdict))) == 19  # to be looked at
    serve(lambda body, number: all_correct(body, number) if number < 2 else "Well.")
    half = prepared("mostly", judge_model="other")
    found = value(benchmarks.evaluate(half), "hallucinated_sentence_ratio")
    assert 10 <= found.n_unreadable < 19
    [warning] = half.manifest.facts["warnings"]
    assert f"could mostly not be read: shr, {found.n_unreadable} of 19" in warning
