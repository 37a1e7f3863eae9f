"""Ranked pairs: the best against the worst text of an image, and what the controls learn from."""

from collections import Counter
from dataclasses import replace
from typing import Literal

import pytest

from hadpo.config import PrepareConfig
from hadpo.judges import oracle
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.pairs import mine, ranked
from hadpo.records import Answer, Evidence, Region, Verdict

WORDS = from_json({"objects": ["cup", "kite", "dog", "lamp", "hat"]})
SETTINGS = PrepareConfig(
    pair_source="ranked", description_images=2, samples_per_image=3, temperature=1.0
)


def image(key, *names):
    regions = tuple(Region(x=0.0, y=0.0, width=1.0, height=1.0, phrase=name) for name in names)
    return Evidence(image_id=key, image=f"{key}.png", width=9, height=9, regions=regions)


def rank(texts, *, judge=None, finish: Literal["stop", "length"] = "stop"):
    """The ranking of texts by image; every image shows a cup and a dog."""
    images = {key: image(key, "a cup", "a dog") for key in texts}
    n = max(map(len, texts.values()))
    groups = ranked.sample_questions([*images.values()], replace(SETTINGS, samples_per_image=n))
    answers = {
        question.question_id: Answer(
            question_id=question.question_id,
            benchmark="description",
            split="sampled",
            model="base",
            image_id=question.image_id,
            text=texts[question.image_id][number],
            tokens=5,
            finish=finish,
        )
        for number, group in enumerate(groups.values())
        for question in group
    }
    questions = [question for group in groups.values() for question in group]
    counts = Counter()
    judge = judge or oracle.make(vocabulary=WORDS)
    judged = mine.judge_descriptions(questions, answers, images, judge, counts)
    return ranked.rank(judged, counts), counts


def test_every_sample_of_an_image_asks_the_same_under_an_id_of_its_own():
    groups = ranked.sample_questions([image("a"), image("b")], SETTINGS)
    assert list(groups) == ["sampled 1", "sampled 2", "sampled 3"]
    for column in zip(*groups.values(), strict=True):
        assert len({q.text for q in column}) == 1 and len({q.image_id for q in column}) == 1
    ids = [q.question_id for group in groups.values() for q in group]
    assert ids[:3] == ["description-a-1", "description-b-1", "description-a-2"]
    assert len(set(ids)) == 6


def test_the_smallest_share_of_false_sentences_is_chosen_and_the_largest_rejected():
    found, counts = rank(
        {"a": ["A cup. A kite. A hat.", "A cup. A dog. A kite.", "A kite. A hat."]}
    )
    [pair] = found.pairs
    assert (pair.chosen, pair.rejected) == ("A cup. A dog. A kite.", "A kite. A hat.")
    assert (pair.pair_id, pair.kind, pair.image) == ("description-a", "description", "a.png")
    [true] = found.controls["sft_true"]
    assert true == replace(pair, chosen="A cup. A dog.")
    assert found.controls["sft_flawless"] == []
    assert counts["sentences"] == 8 and counts["sentences: correct"] == 3
    assert counts["sentences: hallucination absent"] == 5


def test_entirely_true_texts_are_left_out_of_the_pairs_and_kept_for_their_control():
    found, counts = rank({"a": ["A cup.", "A cup. A kite.", "A kite. A hat."]})
    [pair] = found.pairs
    assert (pair.chosen, pair.rejected) == ("A cup. A kite.", "A kite. A hat.")
    [flawless] = found.controls["sft_flawless"]
    assert (flawless.chosen, flawless.rejected) == ("A cup.", "A kite. A hat.")
    assert counts["descriptions: nothing false, left out"] == 1


@pytest.mark.parametrize(
    ("texts", "count", "flawless"),
    [
        (["A cup.", "A dog."], "images: no text with a false sentence, left out", 0),
        (["A kite.", "A hat."], "images: no text better than another, left out", 0),
        (["A cup.", "A kite."], "images: no text better than another, left out", 1),
    ],
)
def test_an_image_without_an_order_gives_no_pair_and_is_counted(texts, count, flawless):
    found, counts = rank({"a": texts})
    assert found.pairs == [] and found.controls["sft_true"] == []
    assert counts[count] == 1
    assert len(found.controls["sft_flawless"]) == flawless


def test_a_chosen_text_without_a_true_sentence_gives_nothing_to_its_control():
    texts = ["Hm. A kite.", "A kite. A hat."]  # "Hm" cannot be judged
    found, counts = rank({"a": texts})
    assert [pair.chosen for pair in found.pairs] == ["Hm. A kite."]
    assert found.controls["sft_true"] == []
    assert counts["sft_true: no true sentence in the chosen text, left out"] == 1


def test_texts_that_the_judge_could_not_be_read_on_or_that_were_cut_off_take_no_part():
    class Half:
        def rule(self, case):
            label = "unparsed" if "hat" in case.claims[-1] else "hallucination"
            return [
                Verdict(case_id=case.case_id, model=case.model, claim=claim, label=label)
                for claim in case.claims
            ]

    found, counts = rank({"a": ["A cup.", "A hat.", "A dog."]}, judge=Half())
    assert counts["descriptions: judge unreadable, left out"] == 1 and found.pairs == []
    found, counts = rank({"a": ["A cup. A kite.", "A hat."]}, finish="length")
    assert counts["descriptions: not finished, left out"] == 2 and found.pairs == []
