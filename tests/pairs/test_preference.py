"""Pairs without a preference: the same text in any disguise, nothing, or a model's refusal."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from hadpo import trainer
from hadpo.chat import Cache, ChatModel, ChatSettings, Reply
from hadpo.config import TrainConfig
from hadpo.data import Report, hadpo_pairs
from hadpo.instructions.generate import read_blocks
from hadpo.pairs import mine
from hadpo.pairs.asked import Corrector
from hadpo.pairs.stage import _with_preference
from hadpo.records import Answer, BadInput, Evidence, Pair, Question
from hadpo.text import is_refusal, no_preference
from hadpo.trainer.examples import Examples

SAME = "chosen and rejected are the same text"
REFUSALS = (
    "I'm sorry, but I can't assist with that request.",
    "I\u2019m really sorry, but I cannot fulfil this.",
    "As an AI language model, I am unable to view images.",
    "Unfortunately, I can't provide a description.",
    "I apologize, but I am not able to process pictures.",
    "I am sorry. I do not have access to the picture.",
    '"I must decline to answer."',
)
ANSWERS = (  # that speak of what cannot be seen or done
    "I cannot see a dog in the image.",
    "I'm sorry, but there is no dog in this picture.",
    "The man is sorry that he cannot help.",
    "A sign says: I cannot help you.",
    "There is a dog. I can't help but smile.",
    "We can see a person who provides help; I can't identify the brand.",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_known(text):
    assert is_refusal(text)
    assert no_preference("A dog.", text) == "rejected text is a model's refusal"
    assert no_preference(text, "A dog.") == "chosen text is a model's refusal"


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_no_refusals(text):
    assert not is_refusal(text)
    assert no_preference("A dog.", text) == ""


def write(folder: Path, schema: str, descriptions: list, questions: list) -> Path:
    shape = hadpo_pairs.SCHEMAS[schema]
    described = [
        {"image_id": str(i), "chosen": [chosen], "rejected": [rejected]}
        for i, (chosen, rejected) in enumerate(descriptions)
    ]
    content = {each.pop("image_id"): each for each in described} if shape.desc_by_id else described
    asked = [
        {
            "image_id": str(i),
            "question": "Is there a dog?",
            "chosen": chosen,
            shape.negative: rejected,
            "correct": False,
            "answer": "yes",
        }
        for i, (chosen, rejected) in enumerate(questions)
    ]
    folder.mkdir()
    (folder / "desc_data.json").write_text(json.dumps(content))
    (folder / "pope_data.json").write_text(json.dumps(asked))
    return folder


@pytest.fixture
def images(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x")
    picture = str(tmp_path / "x.jpg")
    return {str(i): Evidence(image_id=str(i), image=picture, width=1, height=1) for i in range(9)}


@pytest.mark.parametrize("schema", hadpo_pairs.SCHEMAS)
@pytest.mark.parametrize(
    "same",
    [
        ("A dog.", "A dog."),
        ("A dog.", " A  dog.\n"),
        ("A\u200b dog.\ufeff", "A dog."),
        ("Un \u00e9t\u00e9.", "Un e\u0301te\u0301."),
    ],
)
def test_equal_texts_of_published_files(tmp_path, images, schema, same):
    good = ("A dog sits.", "A cat sits.")
    folder = write(tmp_path / "pairs", schema, [good, same], [same, good, good])
    report = Report("skip")
    found = hadpo_pairs.read(folder, schema=schema, images=images, seed=1, report=report)
    assert [(p.chosen, p.rejected) for p in found] == [good] * 3
    assert report.finish()[f"hadpo_pairs: {SAME}"] == 2
    strict = Report()
    hadpo_pairs.read(folder, schema=schema, images=images, seed=1, report=strict)
    with pytest.raises(BadInput, match=rf"(?s)desc_data.json: record 1: {SAME}.*pope_data.json"):
        strict.finish()


@pytest.mark.parametrize("schema", hadpo_pairs.SCHEMAS)
def test_refusals_of_published_files_are_left_out_and_counted(tmp_path, images, schema):
    good = ("A dog sits.", "A cat sits.")
    folder = write(
        tmp_path / "pairs", schema, [good, ("A dog sits.", REFUSALS[0])], [(REFUSALS[2], "No.")]
    )
    report = Report()
    found = hadpo_pairs.read(folder, schema=schema, images=images, seed=1, report=report)
    assert [(p.chosen, p.rejected) for p in found] == [good]
    assert report.finish() == {
        "hadpo_pairs: chosen text is a model's refusal": 1,
        "hadpo_pairs: rejected text is a model's refusal": 1,
    }


def pair(name, chosen, rejected):
    return Pair(
        pair_id=name,
        image_id="1",
        image="",
        instruction="Describe.",
        chosen=chosen,
        rejected=rejected,
        kind="description",
        source="mined",
    )


def test_mined_pairs_are_held_to_the_same(tmp_path):
    counts = Counter()
    given = [
        pair("good", "A dog.", "A cat."),
        pair("same", "A dog.", "A dog.\n"),
        pair("empty", "A dog.", "  "),
        pair("refusal", "A dog.", REFUSALS[1]),
    ]
    assert [p.pair_id for p in _with_preference(given, counts)] == ["good"]
    assert counts == {
        f"pairs left out: {SAME}": 1,
        "pairs left out: an empty text": 1,
        "pairs left out: rejected text is a model's refusal": 1,
    }


def test_own_descriptions_that_say_nothing_are_left_out():
    texts = {"a": "A dog.", "b": "  ", "c": REFUSALS[3]}
    more = {"benchmark": "d", "split": "s", "image_id": "1"}
    questions = [Question(question_id=k, image="", text="?", **more) for k in texts]
    answers = {
        k: Answer(question_id=k, model="base", text=t, tokens=3, finish="stop", **more)
        for k, t in texts.items()
    }
    counts = Counter()
    kept = mine.complete_descriptions(questions, answers, counts)
    assert [answer.text for _, answer in kept] == ["A dog."]
    assert counts == {"descriptions": 3, "descriptions: empty or a refusal, left out": 2}


def corrector(replies):
    """A corrector whose stored replies are these, by the name of their request."""
    chat = ChatModel(ChatSettings(model="m"), Cache(None), is_replay=True)
    made = Corrector(chat)

    def store(requests):
        for request in requests:
            text = json.dumps(replies[request.name])
            chat.cache.put(Reply(key=request.key(chat.settings), text=text))
        return made

    return made, store


THREE = "A dog sits on a mat. A cat sleeps on the sofa. The sky is blue today."


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        ("A dog sits on a mat, a cat sleeps on the sofa, and the sky is blue today.", ""),
        ("On a mat sits a dog. A cat is asleep on the sofa. Today the sky is blue.", ""),
        ("A dog sits on a mat. A cat sleeps.", "sentences lost, left out"),
        ("There are animals.", "sentences lost, left out"),
        (REFUSALS[0], "a refusal, left out"),
        ("", "unreadable"),
    ],
)
def test_rewrites_must_say_it_all(rewrite, reason):
    made, store = corrector({"p/0": {"description": rewrite}})
    store(made.rewrite_requests({"p": THREE}, 1))
    counts = Counter()
    found = made.rewrite({"p": THREE}, 1, counts)
    assert found == {"p": [] if reason else [rewrite]}
    assert counts - Counter({"requests to the corrector": 1}) == (
        {f"rewrites: {reason}": 1} if reason else {}
    )


def test_a_refusal_is_no_correction():
    rulings = [
        {"index": "1", "verdict": "correct", "reason": "", "corrected_sentence": ""},
        {
            "index": 2.0,
            "verdict": "hallucination",
            "reason": "",
            "corrected_sentence": REFUSALS[0],
        },
    ]
    evidence = Evidence(image_id="1", image="", width=1, height=1)
    described = {"p": ("A dog sits. A cat sits.", evidence)}
    made, store = corrector({"p": {"sentences": rulings}})
    store(made.correction_requests(described))
    counts = Counter()
    assert made.correct(described, counts) == {}
    assert counts["descriptions: correction is a refusal, left out"] == 1


def test_a_refusal_is_no_generated_instruction():
    reply = json.dumps(
        [
            {"instruction": "What sits there?", "answer": "A dog."},
            {"instruction": "What else?", "answer": REFUSALS[0]},
            {"instruction": REFUSALS[2], "answer": "A dog."},
        ]
    )
    blocks, rejected = read_blocks(f"Here they are: {reply} {{done}}")
    assert [block.answer for block in blocks] == ["A dog."]
    assert rejected == {"a refusal": 2}


def test_training_leaves_pairs_out_that_are_the_same_once_cut(tiny_llava, tiny_pairs, caplog):
    backbone = tiny_llava()
    start = "There is a red cup. " * 40
    cut = dataclasses.replace(tiny_pairs[0], chosen=start + "A.", rejected=start + "B.")
    equal = dataclasses.replace(tiny_pairs[1], pair_id="twin", rejected=tiny_pairs[1].chosen)
    settings = TrainConfig(lora_rank=4, lora_alpha=8.0, max_length=200, steps=2)
    examples = Examples(backbone, [cut, equal, *tiny_pairs[2:]], settings)
    assert examples.left_out == {
        "chosen and rejected are the same once they are cut to max_length": 1,
        "chosen and rejected are the same": 1,
    }
    assert len(examples) == len(tiny_pairs) - 2
    assert f"2 of {len(tiny_pairs)} records ({cut.pair_id}, twin)" in caplog.text
    with pytest.raises(BadInput, match=r"nothing to learn from 2 of 2 records.*max_length \(200\)"):
        list(trainer.steps(backbone, [cut, equal], settings))
