"""Mining with a language model: the canned corrections of the photos, from a real server."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import yaml

from hadpo.chat import Reply
from hadpo.data import Report, hadpo_pairs, visual_genome
from hadpo.judges import Unfinished
from hadpo.pairs import mine, plan, prepare
from hadpo.pairs.asked import read_rulings
from hadpo.pairs.mine import replace_sentences
from hadpo.records import Answer, BadInput, Pair, read_jsonl, write_jsonl
from hadpo.runs.run import open_run
from hadpo.text import sentences
from tests.chat.server import JudgeServer, error

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
PHOTOS = SHARED / "data" / "photoset"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}")
IDS = ("2356011", "2357653", "2363134", "2375304", "2395079")


def published():
    """Of each photo the description that the fixture corrects, and the corrected one."""
    entries = json.loads((PHOTOS / "hadpo" / "minigpt4" / "desc_data.json").read_text())
    return {str(e["image_id"]): (e["rejected"][0], e["chosen"][0]) for e in entries}


def canned_reply(key):
    return (PHOTOS / "replies" / f"hadpo_correction_{key}.json").read_text()


def canned(body, _number):
    text = body["messages"][0]["content"]
    for key, (rejected, chosen) in published().items():
        if f"1. {sentences(rejected)[0]}\n" in text:
            return canned_reply(key)
        for said in (rejected, chosen):
            if said in text:
                return json.dumps({"description": f"In other words: {said}"})
    return "I see no description."


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = JudgeServer(canned)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HADPO_SHARED", str(SHARED))
    yield server
    server.close()


def photoset(tmp_path, name="mined", **settings):
    """A run that mines the five photos; what the model said of them is there already."""
    recipe = tmp_path / "mined.yaml"
    settings = {"corrector": "llm", "corrector_model": "judge", "held_out_share": 0.0} | settings
    mined = {"pair_source": "mined", "description_images": 5, "sampled_share": 0.0}
    values = {"extends": "photoset", "data": {"shr": ""}, "prepare": mined}
    recipe.write_text(yaml.safe_dump(values))
    run = open_run("prepare", str(recipe), name, settings)
    if not run.path("own_answers.jsonl").is_file():
        write_jsonl(run.path("own_answers.jsonl"), answers())
    return run


def answers():
    images = visual_genome.images(PHOTOS / "VG", Report()).values()
    asked = mine.description_questions(list(images), mine.PrepareConfig(sampled_share=0.0))
    return [
        Answer(
            question_id=question.question_id,
            benchmark=question.benchmark,
            split=question.split,
            model="base",
            image_id=question.image_id,
            text=published()[question.image_id][0],
            tokens=9,
            finish="stop",
        )
        for question in asked["greedy"]
    ]


def pairs_of(run):
    return list(read_jsonl(run.path("pairs.jsonl"), Pair))


@needs_photos
@pytest.mark.parametrize("key", IDS)
def test_canned_corrections_are_read(key):
    expected = json.loads((PHOTOS / "replies" / "expected.json").read_text())["hadpo_correction"]
    rejected, chosen = published()[key]
    claims = sentences(rejected)
    rulings = read_rulings(canned_reply(key), claims)
    wrong = [n for n, r in enumerate(rulings, start=1) if r.verdict == "hallucination"]
    assert wrong == expected[f"hadpo_correction_{key}.json"]["hallucinated_sentences"]
    corrected = {claims[n - 1]: rulings[n - 1].corrected for n in wrong}
    assert replace_sentences(rejected, claims, corrected) == chosen


@needs_photos
def test_the_photos_are_mined(server, tmp_path):
    run = photoset(tmp_path)
    counts = prepare(run)
    pairs = pairs_of(run)
    assert {p.image_id: (p.rejected, p.chosen) for p in pairs} == published()
    assert counts["sentences"] == 25 and counts["sentences: corrected"] == 10
    assert counts["sentences: hallucination"] == 10 and counts["sentences: correct"] == 15
    assert counts["requests to the corrector"] == 5 == len(server.log)
    bill = run.manifest.facts["corrector"]["bill"]
    assert bill["asked"] == 5 and bill["input_tokens"] == 500
    assert len(list(read_jsonl(run.path("corrector_replies.jsonl"), Reply))) == 5
    assert len(run.manifest.facts["corrector"]["prompts"]["correct"]) == 64
    prompt = server.log[0]["text"]
    assert "]: " in prompt and "Decide for every sentence" in prompt and "{" not in prompt


@needs_photos
def test_rewrites_of_both_texts_in_the_original_schemas(server, tmp_path):
    run = photoset(tmp_path, rewrites=3)
    counts = prepare(run)
    assert counts["requests to the corrector"] == 5 + 5 * 2 * 3
    for pair in pairs_of(run):
        rejected, chosen = published()[pair.image_id]
        assert pair.chosen == f"In other words: {chosen}"
        assert pair.rejected == f"In other words: {rejected}"
    images = visual_genome.images(PHOTOS / "VG", Report())
    for schema in hadpo_pairs.SCHEMAS:
        folder = run.path("export", schema)
        file = json.loads((folder / "desc_data.json").read_text())
        entries = file.values() if isinstance(file, dict) else file
        assert (
            [len(e["chosen"]) for e in entries] == [len(e["rejected"]) for e in entries] == [3] * 5
        )
        again = hadpo_pairs.read(folder, schema=schema, images=images, seed=0, report=Report())
        assert [p.pair_id for p in again] == [p.pair_id for p in pairs_of(run)]


KILLED = """
import sys
from pathlib import Path
from tests.pairs.test_asked import photoset
from hadpo.pairs import prepare
prepare(photoset(Path(sys.argv[1]), rewrites=2, corrector_concurrency=1))
"""


@needs_photos
def test_killed_and_resumed_without_a_repeated_request(server, tmp_path):
    reached = threading.Event()

    def stops(body, number):
        if number < 9:
            return canned(body, number)
        reached.set()
        return lambda handler: server.release.wait(60)  # never answered

    server.behave = stops
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2]
    )
    assert reached.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.release.set()
    server.behave = canned
    assert len(server.answered) == 9
    run = photoset(tmp_path, rewrites=2, corrector_concurrency=1)
    assert prepare(run)["pairs"] == 5
    # the same text is asked about twice for its two rewrites, and never once more
    rewrites = Counter(text for text in server.answered if text.startswith("Write the following"))
    assert len(server.answered) == 5 + 5 * 2 * 2 and set(rewrites.values()) == {2}
    bill = run.manifest.facts["corrector"]["bill"]
    assert (bill["cached"], bill["asked"]) == (9, 25 - 9)
    before = len(server.log)
    assert prepare(photoset(tmp_path, rewrites=2, corrector_concurrency=1))["pairs"] == 5
    assert len(server.log) == before


@needs_photos
def test_what_cannot_be_read_or_corrected_is_counted(server, tmp_path):
    def odd(body, number):
        text = canned(body, number)
        value = json.loads(text)
        key = str(value["image_id"])
        if key == IDS[0]:
            return "Sorry."
        if key == IDS[1]:  # says that it is wrong, and leaves it
            for each in value["sentences"]:
                each["corrected_sentence"] = each["sentence"]
        if key == IDS[2]:
            for each in value["sentences"]:
                each["verdict"] = "correct"
        if key == IDS[3]:
            value["sentences"] = value["sentences"][:-1]
        return json.dumps(value)

    server.behave = odd
    run = photoset(tmp_path)
    counts = prepare(run)
    assert [p.image_id for p in pairs_of(run)] == [IDS[4]]
    assert counts["descriptions: correction unreadable, left out"] == 2
    assert counts["sentences: unreadable"] == 10
    assert counts["descriptions: false sentence not corrected, left out"] == 1
    assert counts["descriptions: nothing false, left out"] == 1


@needs_photos
def test_a_server_that_fails_leaves_the_stage_unfinished(server, tmp_path):
    server.behave = lambda body, number: error(401, "bad key")
    with pytest.raises(Unfinished, match="5 of 5 requests to the corrector got no reply"):
        prepare(photoset(tmp_path))


@needs_photos
def test_the_cost_is_estimated_before_anything_is_asked(server, tmp_path):
    prices = {"corrector_input_price": 2.0, "corrector_output_price": 8.0}
    facts = plan(photoset(tmp_path, rewrites=3, **prices))
    assert facts["requests to the corrector, at most"] == 35
    assert facts["their cost, at most"].startswith("about $0.")
    assert server.log == []
    assert plan(photoset(tmp_path, "b"))["their cost, at most"] == "prices unknown"


@needs_photos
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corrector_model": ""}, "needs corrector_model"),
        ({"corrector_max_cost_usd": 1.0}, "costs is not known"),
    ],
)
def test_settings_that_cannot_work_are_refused_first(server, tmp_path, settings, message):
    run = photoset(tmp_path)
    run.path("own_answers.jsonl").unlink()  # a model would have to be loaded
    with pytest.raises(BadInput, match=message):
        prepare(photoset(tmp_path, "other", **settings))
    assert server.log == []
