"""LRV instructions for the five photos, asked of a real server that sends the canned replies."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from hadpo.chat import Cache, ChatModel, ChatSettings, Unfinished
from hadpo.data import Report, lrv, visual_genome
from hadpo.instructions import generate, oracle
from hadpo.instructions.generate import read_blocks
from hadpo.instructions.lrv import FilterSettings, convert
from hadpo.judges.oracle.vocabulary import from_json, read_world
from hadpo.mini import build
from hadpo.records import BadInput, Evidence, Instruction, read_jsonl
from tests.chat.server import JudgeServer

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
PHOTOS = SHARED / "data" / "photoset"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}")
KINDS = ("positive", "absent", "attribute")


def canned(body, _number):
    text = body["messages"][0]["content"]
    name = "lrv_positive" if "right answer" in text else "lrv_negative1"
    name = "lrv_negative2" if "wrong property" in text else name
    return (PHOTOS / "replies" / f"{name}.txt").read_text()


@pytest.fixture
def server(monkeypatch):
    server = JudgeServer(canned)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    return server


def chat(cache=None, **settings):
    settings = {"model": "teacher", "reply_format": "text", "concurrency": 4} | settings
    return ChatModel(ChatSettings(**settings), Cache(cache))


def photos():
    return list(visual_genome.read(PHOTOS / "VG", Report()).values())


@needs_photos
@pytest.mark.parametrize("name", ["lrv_positive", "lrv_negative1", "lrv_negative2"])
def test_every_canned_block_is_read(name):
    expected = json.loads((PHOTOS / "replies" / "expected.json").read_text())["lrv"][f"{name}.txt"]
    blocks, rejected = read_blocks((PHOTOS / "replies" / f"{name}.txt").read_text())
    assert len(blocks) == expected["blocks"] and sum(rejected.values()) == expected["rejected"] == 0
    assert sum("X:" in b.answer for b in blocks) == expected.get("with_coordinates", 0)
    assert all(b.instruction[-1] in ".?!ek" or b.task for b in blocks)
    if name == "lrv_positive":
        tasks = Counter(block.task.lower() for block in blocks)
        assert tasks == {task.lower(): 2 for task in generate.TASKS}


@needs_photos
def test_five_photos_end_to_end(server, tmp_path):
    counts = Counter()
    found = generate.generate(photos(), chat(tmp_path / "cache"), KINDS, counts)
    assert counts == {
        "requests": 15,
        "replies refused or cut off": 0,
        "blocks: positive": 100,
        "blocks: absent": 30,
        "blocks: attribute": 30,
    }
    assert Counter(r.kind for r in found) == {"positive": 100, "negative": 60}
    assert len({r.instruction_id for r in found}) == 160
    assert {r.task for r in found if r.kind == "negative"} == {"negative"}
    settings = FilterSettings(negative_share=0.5, val_share=0.2, max_answer_words=30)
    kept = convert(found, tmp_path / "out", settings, Report())
    assert kept["instructions: has coordinates"] == 5
    assert kept["instructions: left out for the balance"] == 35
    train = list(read_jsonl(tmp_path / "out" / "train.jsonl", Instruction))
    val = list(read_jsonl(tmp_path / "out" / "val.jsonl", Instruction))
    assert len(train) + len(val) == 120
    assert Counter(r.kind for r in [*train, *val]) == {"positive": 60, "negative": 60}
    assert len({r.image_id for r in val}) == 1
    assert not {r.image_id for r in val} & {r.image_id for r in train}
    layout = list(lrv.read(tmp_path / "out/train/filter_cap.json", PHOTOS / "lrv/image", Report()))
    assert [(r.instruction, r.answer) for r in layout] == [(r.instruction, r.answer) for r in train]


@needs_photos
def test_nothing_is_asked_twice(server, tmp_path):
    refused = set()

    def sometimes(body, number):
        if number >= 6:
            refused.add(number)
            return lambda handler: handler.send_error(401, "no more")
        return canned(body, number)

    server.behave = sometimes
    with pytest.raises(Unfinished, match="of 15 requests got no reply"):
        generate.generate(photos(), chat(tmp_path / "cache", concurrency=1), KINDS, Counter())
    server.behave, answered = canned, list(server.answered)
    assert len(answered) == 6 and refused
    found = generate.generate(photos(), chat(tmp_path / "cache"), KINDS, Counter())
    assert len(found) == 160
    assert len(server.answered) == len(set(server.answered)) == 15
    before = len(server.log)
    assert generate.generate(photos(), chat(tmp_path / "cache"), KINDS, Counter()) == found
    assert len(server.log) == before


@needs_photos
def test_prompts_show_heights_and_ask_for_the_form(server):
    [one, *_] = generate.requests(photos(), ["positive"], is_json=False)
    assert (
        "tall metal pole holding two traffic lights X: 131 Y: 116 Width: 20 Height: 315" in one.text
    )
    assert "Write 20 instructions" in one.text and "Task: <one of the tasks>" in one.text
    assert not re.search(r"\{[a-z_]+\}", one.text)
    [json_form, *_] = generate.requests(photos(), ["absent"], is_json=True)
    assert '"task" is "negative"' in json_form.text and json_form.schema
    assert one.prompt_version != json_form.prompt_version
    estimate = chat(input_price=1.0, output_price=1.0).estimate_usd([one])
    assert estimate > 0


def test_charts_are_asked_about_by_their_facts():
    chart = Evidence(image_id="a.png", image="a.png", width=4, height=4, facts=("March: 90",))
    [request] = generate.requests([chart], ["positive", "knowledge"], is_json=True)
    assert request.name == "knowledge-a.png" and "March: 90" in request.text
    with pytest.raises(BadInput, match="did you mean 'knowledge'"):
        generate.requests([chart], ["knowlege"], is_json=True)


@pytest.mark.parametrize(
    ("reply", "blocks", "why"),
    [
        ("Sure!\n\nInstruction: A?\nAnswer: B.\n\nHope this helps.", 1, {}),
        ("**Instruction 1:**\nA?\n**Answer:** B.\n**Task:** c", 1, {}),
        ("- instruction: A?\n  REASON: B.", 1, {}),
        ("Instruction: A?\nTask: c", 0, {"no answer": 1}),
        ("Answer: B.", 0, {"no instruction": 1}),
        ("Instruction: A?\nAnswer: B.\nAnswer: C.", 0, {"two answers": 1}),
        ("I cannot help with that.", 0, {"no block in the reply": 1}),
        ('{"instructions": [{"instruction": "A?", "answer": "B."}, 3]}', 1, {"no object": 1}),
        (
            '```json\n{"instructions": [{"instruction": "A?", "answer": ""}]}```',
            0,
            {"no answer": 1},
        ),
    ],
)
def test_replies_in_every_form(reply, blocks, why):
    found, rejected = read_blocks(reply)
    assert len(found) == blocks and rejected == why
    assert all((b.instruction, b.answer) == ("A?", "B.") for b in found)


def test_values_may_go_on_and_quotes_go():
    [block], _ = read_blocks('Instruction:\n"Is there\na cup?"\nAnswer:\nNo, "a" or "b".')
    assert block.instruction == "Is there a cup?" and block.answer == 'No, "a" or "b".'


def test_the_oracle_is_right_about_a_mini_world(tmp_path):
    build(tmp_path, seed=5, train_images=12, test_images=1)
    known = from_json(json.loads((tmp_path / "vocabulary.json").read_text()))
    images = list(visual_genome.read(tmp_path / "VG", Report()).values())
    found = list(oracle.instructions(images, known, seed=1))
    assert found == list(oracle.instructions(images, known, seed=1))
    assert found != list(oracle.instructions(images, known, seed=2))
    kinds = Counter(r.kind for r in found)
    assert min(kinds["positive"], kinds["negative"]) > 2 * len(images)
    worlds = {e.image_id: read_world(e, known) for e in images}
    for record in found:
        named = {m.name for m in known.read(record.instruction).mentions}
        there = worlds[record.image_id]
        if record.answer.startswith(("There is no", "No.")):
            assert named and not named & there.names
        elif record.task != "image captioning":
            assert named <= there.names
        if ", not " in record.answer:
            right, wrong = record.answer.split(", not ")
            [said] = known.read(right).mentions
            attributes = {a for m in there.mentions if m.name == said.name for a in m.attributes}
            assert said.attributes <= attributes
            assert not known.read(wrong).loose & attributes
