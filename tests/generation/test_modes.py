"""Stopping at the period, one question at a time, and what happens when memory runs out."""

import dataclasses
import logging

import pytest
import torch

from hadpo.generation import Decoding, answering, generate
from hadpo.generation.single import _Stops
from hadpo.records import BadInput, Question
from hadpo.text import yes_no_upstream


class Speller:
    """A backbone whose vocabulary is letters; it answers by the question's own text."""

    image_tokens_depend_on_instruction = False
    is_text_final = True
    end_id = 0

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i)

    def ends(self, ids):
        return ids[..., -1] == self.end_id


@pytest.fixture
def spelling(monkeypatch):
    """`answering` with a decoder that spells each question's text, and counts its batches."""
    batches = []
    full = {"above": 0}

    def answer_group(backbone, group, decoding, prompt, batch):
        for at in range(0, len(group), batch):
            some = group[at : at + batch]
            if full["above"] and len(some) > full["above"]:
                raise torch.OutOfMemoryError("full")
            batches.append(len(some))
            stops = _Stops(backbone, decoding.stop_at)
            for row in some:
                ids = []
                for letter in [*map(ord, row[0].text), 0]:
                    ids.append(letter)
                    if stops(ids) or len(ids) == decoding.max_new_tokens:
                        break
                yield row, ids

    monkeypatch.setattr(answering, "_answer_group", answer_group)
    return batches, full


@pytest.fixture
def questions(tmp_path):
    texts = ["No. Yes it is.", "Yes", "yes 3.5 of them.", "no, not here. A dog"]
    found = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"")
        for split in ("random", "popular"):
            found += [
                Question(
                    question_id=f"{split}-{number}-{i}",
                    benchmark="pope",
                    split=split,
                    image_id=str(number),
                    image=str(path),
                    text=text,
                )
                for i, text in enumerate(texts)
            ]
    return found


FULL = Decoding(name="pope", max_new_tokens=40)


def run(questions, decoding=FULL, **rest):
    found = generate(Speller(), questions, decoding, model="base", **rest)
    return {a.question_id: a for a in found}


def test_the_stop_keeps_what_pope_reads_and_saves_the_rest(spelling, questions):
    whole = run(questions)
    short = run(questions, dataclasses.replace(FULL, stop_at="."))
    assert whole.keys() == short.keys()
    for key, answer in whole.items():
        cut = short[key]
        assert answer.text.startswith(cut.text)
        assert cut.text == answer.text.partition(".")[0] + "." * ("." in answer.text)
        assert yes_no_upstream(cut.text) == yes_no_upstream(answer.text)
        assert cut.finish == "stop"
    assert short["random-0-0"].tokens == 3
    assert sum(a.tokens for a in short.values()) < sum(a.tokens for a in whole.values())


def test_beams_and_backbones_that_rewrite_their_text_are_refused(questions, monkeypatch):
    with pytest.raises(BadInput, match="use 1 beam"):
        dataclasses.replace(FULL, stop_at=".", beams=5)
    monkeypatch.setattr(Speller, "is_text_final", False)
    with pytest.raises(BadInput, match="turn the stop off"):
        run(questions, dataclasses.replace(FULL, stop_at="."))


def test_duplicates_are_answered_once_unless_exact(spelling, questions):
    batches, _ = spelling
    shared = run(questions, batch_questions=8)
    assert batches == [8, 4]  # 12 different questions; the other 12 repeat them
    batches.clear()
    alone = run(questions, batch_questions=8, exact=True)
    assert batches == [1] * 24
    assert alone == shared


def test_out_of_memory_halves_the_batch_and_goes_on(spelling, questions, caplog):
    batches, full = spelling
    expected = run(questions, batch_questions=8)
    batches.clear()
    full["above"] = 3
    caplog.set_level(logging.WARNING)
    assert run(questions, batch_questions=8) == expected
    assert max(batches) <= 3
    assert sum(batches) == 12  # nothing is answered twice
    said = [r.getMessage() for r in caplog.records]
    assert said == [f"out of memory: {n} questions at a time from here on" for n in (4, 2)]


def test_memory_that_is_too_small_for_one_question_is_an_error(spelling, questions, monkeypatch):
    _, full = spelling
    full["above"] = 0.5
    with pytest.raises(torch.OutOfMemoryError):
        run(questions, batch_questions=4)


def test_top_k_top_p_and_banned_runs_are_transformers():
    from transformers import (
        NoRepeatNGramLogitsProcessor,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    from hadpo.generation.decoding import narrowed, penalised

    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        scores = torch.randn(4, 30, generator=generator) * 3
        written = torch.randint(0, 5, (4, seed), generator=generator)
        decoding = Decoding(
            name="x", temperature=1.0, top_k=1 + seed % 7, top_p=(0.3, 0.9, 1.0)[seed % 3]
        )
        expected = TopKLogitsWarper(decoding.top_k)(written, scores)
        if decoding.top_p < 1:
            expected = TopPLogitsWarper(decoding.top_p)(written, expected)
        assert torch.equal(narrowed(scores, decoding), expected.double())
        for size in (2, 3):
            expected = NoRepeatNGramLogitsProcessor(size)(written, scores)
            decoding = Decoding(name="x", no_repeat_ngram=size)
            assert torch.equal(penalised(scores, written, decoding), expected)
    assert torch.equal(narrowed(scores, Decoding(name="x", temperature=1.0)), scores.double())
    assert penalised(scores, written, Decoding(name="x")) is scores


@pytest.mark.parametrize(
    "values",
    [
        {"top_k": -1},
        {"top_p": 0.0, "temperature": 1.0},
        {"top_k": 3},
        {"top_p": 0.5},
        {"no_repeat_ngram": 2, "beams": 2},
    ],
)
def test_decodings_without_a_meaning(values):
    with pytest.raises(BadInput, match="decoding 'x'"):
        Decoding(name="x", **values)
