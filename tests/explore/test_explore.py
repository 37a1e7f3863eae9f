import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from hadpo import explore
from hadpo.records import Answer, BadInput, Instruction, Pair, Question, Verdict, write_jsonl
from hadpo.runs import Manifest

WIDGET = "application/vnd.jupyter.widget-view+json"


def manifest(folder, name, stage, **more):
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(
        name=name,
        stage=stage,
        recipe="mini/llava",
        is_mini=True,
        settings={},
        overrides={},
        earlier="",
        parents={},
        run_id="0",
        started="2026-01-01T00:00:00+00:00",
        status="done",
        **more,
    ).write(folder)


def write_run(root, name, *, images=4, asked=3, picture):
    """Image i: the base is wrong on even ones, the tuned model on every third."""
    questions, answers, verdicts = [], [], []
    for i in range(images):
        base = {"image_id": str(i), "image": str(picture)}
        about = dict(question_id=f"shr-{i}", benchmark="shr", split="val", **base)
        questions.append(Question(text="Describe.", **about))
        for model, wrong in (("base", i % 2 == 0), ("merged", i % 3 == 0)):
            said = "A red cup" if wrong else f"A blue hat {i}"
            label = "hallucination" if wrong else "correct"
            ruling = dict(case_id=f"shr-{i}", model=model, claim=said, label=label)
            verdicts.append(Verdict(**ruling, reason="no cup" if wrong else ""))
        for at in range(asked):
            key = f"pope-{i}-{at}"
            about = dict(question_id=key, benchmark="pope", split="random", **base)
            thing = ("cup", "hat", "owl")[at % 3]
            text = f"Is there {'an' if thing == 'owl' else 'a'} {thing} in the image?"
            questions.append(Question(text=text, label="no", **about))
            for model in ("base", "merged"):
                said = "Yes." if model == "base" and thing == "cup" else "No."
                about = dict(question_id=key, benchmark="pope", split="random", image_id=str(i))
                answers.append(Answer(model=model, text=said, tokens=3, finish="stop", **about))
    folder = root / name
    manifest(folder / "prepare", name, "prepare")
    manifest(folder / "evaluate", name, "evaluate")
    write_jsonl(folder / "prepare" / "questions.jsonl", questions)
    write_jsonl(folder / "evaluate" / "samples.jsonl", answers)
    write_jsonl(folder / "evaluate" / "verdicts.jsonl", verdicts)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (20, 20), "red").save(path)
    return path


@pytest.fixture
def root(tmp_path, picture, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    write_run(tmp_path / "runs", "one", picture=picture)
    return tmp_path / "runs"


def outcomes(browser):
    return [(e.facets["outcome"]) for e in browser.entries]


def test_answers_are_fixed_broken_or_the_same(root):
    browser = explore.browse_answers("one")
    assert outcomes(browser) == ["hallucinated in both", "right in both", "fixed", "broken"]
    browser.filters["outcome"].value = "broken"
    assert [card.title for card in browser.cards()] == ["Image 3: Describe."]
    browser.filters["outcome"].value = "all"
    browser.order.value = "most gained"
    assert browser.cards()[0].title.startswith("Image 2")


def test_two_runs_stand_beside_each_other(root, picture):
    write_run(root, "two", picture=picture)
    card = explore.browse_answers("one", "two").cards()[0]
    assert [c.heading for c in card.columns] == [
        "one, base: 1 of 1 wrong",
        "one, tuned: 1 of 1 wrong",
        "two, base: 1 of 1 wrong",
        "two, tuned: 1 of 1 wrong",
    ]


def test_what_is_shown_has_signs_words_and_a_picture_for_a_report(root):
    bundle = explore.browse_answers("one")._repr_mimebundle_()
    assert WIDGET in bundle
    assert "✗" in bundle["text/html"]
    assert 'alt="the image of: Image 0: Describe."' in bundle["text/html"]
    assert "page 1 of 2" in bundle["text/plain"]


def test_the_slider_turns_the_page_and_a_filter_turns_it_back(root):
    browser = explore.browse_answers("one")
    first = browser.shown.value
    browser.place.value = 2
    assert browser.shown.value != first
    browser.search.value = "hat"
    assert browser.place.value == 1
    assert len(browser.found) == 3
    browser.search.value = "nowhere"
    assert "Nothing passes" in browser.shown.value


def test_pope_errors_by_object_and_split(root):
    browser = explore.browse_pope_errors("one")
    assert {e.facets["object"] for e in browser.entries} == {"cup"}
    assert {e.facets["error"] for e in browser.entries} == {"false yes"}
    assert set(outcomes(browser)) == {"fixed"}
    every = explore.browse_pope_errors("one", only_errors=False)
    assert len(every.entries) == 12
    every.filters["object"].value = "owl"
    assert len(every.found) == 4


def test_pairs_by_kind_source_and_length(picture):
    words = [("A cup", "A red cup", "mined"), ("A hat is", "A cup", "b"), ("A", "B", "b")]
    pairs = [
        Pair(
            pair_id=str(i),
            image_id="1",
            image=str(picture),
            instruction="Who?",
            chosen=chosen,
            rejected=rejected,
            kind="description",
            source=source,
        )
        for i, (chosen, rejected, source) in enumerate(words)
    ]
    browser = explore.browse_pairs(pairs)
    assert [e.facets["chosen is"] for e in browser.entries] == ["shorter", "longer", "as long"]
    browser.filters["source"].value = "b"
    browser.filters["chosen is"].value = "longer"
    assert len(browser.found) == 1
    assert "line-through" in browser.shown.value


def test_instructions_can_be_browsed_like_pairs(picture):
    records = [
        Instruction(
            instruction_id=kind,
            image_id="1",
            image=str(picture),
            instruction="Who?",
            answer=answer,
            kind=kind,
            source="oracle",
        )
        for kind, answer in (("positive", "a red cup"), ("negative", "nobody is there at all"))
    ]
    browser = explore.browse_pairs(records)
    browser.filters["kind"].value = "negative"
    [found] = browser.found
    assert found.orders["words of the answer"] == 5
    assert "nobody is there at all" in browser.shown.value


def step(number):
    metrics = {"loss": 0.7 - 0.01 * number, "rewards/margins": 0.1 * number}
    return json.dumps({"objective": "dpo", "step": number, "metrics": metrics}) + "\n"


def test_curves_follow_the_file_of_a_training(root):
    log = root / "one" / "train" / "metrics.jsonl"
    manifest(log.parent, "one", "train")
    curves = explore.browse_training("one")
    assert "no training steps" in curves.shown.value
    log.write_text(step(1) + step(2))
    assert curves.refresh()
    assert "<img" in curves.shown.value
    assert not curves.refresh()

    async def press() -> str:
        before = curves.shown.value
        curves.live.value = True
        await asyncio.sleep(0)
        log.write_text(step(1) + step(2) + step(3))
        for _ in range(200):
            await asyncio.sleep(0.05)
            if curves.shown.value != before:
                break
        curves.live.value = False
        return before

    with ThreadPoolExecutor(max_workers=1) as pool:  # where no loop runs, whatever ran before
        assert pool.submit(asyncio.run, press()).result() != curves.shown.value


def test_runs_that_are_not_there_are_named(root):
    for look in (explore.browse_answers, explore.browse_pope_errors, explore.browse_training):
        with pytest.raises(BadInput, match="onw"):
            look("onw")


def test_of_ten_thousand_answers_only_a_page_is_drawn(root, picture, record_property):
    write_run(root, "large", images=800, asked=6, picture=picture)  # 9600 + 1600 answers
    started = time.monotonic()
    answers = explore.browse_answers("large")
    middle = time.monotonic()
    errors = explore.browse_pope_errors("large", only_errors=False)
    ended = time.monotonic()
    record_property("seconds", [round(middle - started, 2), round(ended - middle, 2)])
    sys.stderr.write(f"\nanswers {middle - started:.2f} s, POPE {ended - middle:.2f} s\n")
    assert (len(answers.entries), len(errors.entries)) == (800, 4800)
    assert len(answers.shown.value) < 100_000
    assert len(errors.shown.value) < 100_000
