import functools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hadpo import benchmarks
from hadpo.benchmarks import shr
from hadpo.data import shr as data
from hadpo.judges import oracle
from hadpo.judges._sentences import read_upstream
from hadpo.judges.oracle.vocabulary import Vocabulary, from_json
from hadpo.records import Answer, BadInput, Evidence, Region
from hadpo.text import sentences

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "shr" / "shr_cases.json"
needs_golden = pytest.mark.skipif(not GOLDEN.is_file(), reason=f"no {GOLDEN}")

WORDS = from_json({"objects": ["cup", "kite", "dog"], "attributes": {"colour": ["red", "blue"]}})
SETTINGS = shr.Settings()
scored_all = functools.partial(benchmarks.score, "shr")


def image(key, *phrases):
    regions = tuple(
        Region(x=0.0, y=0.0, width=1.0, height=1.0, phrase=phrase) for phrase in phrases
    )
    return Evidence(image_id=key, image=f"{key}.jpg", width=9, height=9, regions=regions)


EVIDENCE = {"1": image("1", "a red cup", "a dog"), "2": image("2", "a blue kite"), "3": image("3")}
QUESTIONS = data.questions(["1", "2", "3"], EVIDENCE)


def answer(key, text, *, model="base", tokens=5, finish="stop"):
    return Answer(
        question_id=f"shr-{key}",
        benchmark="shr",
        split="val",
        model=model,
        image_id=key,
        text=text,
        tokens=tokens,
        finish=finish,
    )


def judged(answers, evidence=EVIDENCE, words=WORDS):
    judge = oracle.make(vocabulary=words)
    return [v for case in shr.cases(answers, {}, evidence, SETTINGS) for v in judge.rule(case)]


def score(answers, verdicts=None, **rest):
    verdicts = judged(answers) if verdicts is None else verdicts
    metrics = benchmarks.score(
        "shr", answers, QUESTIONS, verdicts, EVIDENCE, WORDS, **({"samples": 50} | rest)
    )
    return {m.name: m for m in metrics}


def test_questions_ask_the_papers_words_once_per_image():
    assert [q.image_id for q in QUESTIONS] == ["1", "2", "3"]
    assert {q.text for q in QUESTIONS} == {"Describe this image in detail."}
    assert QUESTIONS[0].image == "1.jpg" and QUESTIONS[0].label is None
    with pytest.raises(BadInput, match="does not have: 8, 9"):
        data.questions(["1", "8", "9"], EVIDENCE)


def test_metrics_by_hand():
    answers = [
        # correct, wrong colour, absent, cannot judge; the last repeats the first
        answer("1", "There is a red cup. There is a blue cup. A kite. Calm. There is a red cup."),
        answer("2", "There is a blue kite.", finish="length"),
    ]
    found = score(answers)
    expected = {
        "hallucinated_sentence_ratio": (2 / 5, 5),
        "absent_sentence_ratio": (1 / 5, 5),
        "attribute_sentence_ratio": (1 / 5, 5),
        "hallucinated_word_ratio": ((5 + 2) / (5 + 5 + 2 + 1 + 5), 18),
        "hallucinated_sentence_ratio_per_image": ((2 / 4 + 0) / 2, 2),
        "cannot_judge_ratio": (1 / 5, 5),
        "sentences_per_answer": (5 / 2, 2),
        "words_per_answer": (18 / 2, 2),
        "tokens_per_answer": (5.0, 2),
        "hallucinated_sentences_per_answer": (1.0, 2),
        "repeated_sentences_per_answer": (0.5, 2),
        "unfinished_ratio": (0.5, 2),
        "object_recall": (2 / 3, 3),  # cup and kite are named, the dog is not
        "unanswered": (1.0, 3),
    }
    for name, (value, n) in expected.items():
        assert (found[name].value, found[name].n) == (pytest.approx(value, abs=1e-15), n), name
    assert found["distinct_1"].value == pytest.approx((9 / 18 + 1) / 2)
    ratio = found["hallucinated_sentence_ratio"]
    assert ratio.low <= ratio.value <= ratio.high


def test_unparsed_rulings_leave_the_ratio_and_are_counted():
    answers = [answer("1", "A cup. A kite."), answer("2", "A kite.")]
    verdicts = judged(answers)
    verdicts[1] = replace(verdicts[1], label="unparsed", kind="")
    found = score(answers, verdicts)
    ratio = found["hallucinated_sentence_ratio"]
    assert (ratio.value, ratio.n, ratio.n_unreadable) == (0.0, 2, 1)
    assert found["sentences_per_answer"].value == 1.5
    from_rulings = {
        *("hallucinated_sentence_ratio", "absent_sentence_ratio", "attribute_sentence_ratio"),
        *("hallucinated_word_ratio", "hallucinated_sentence_ratio_per_image", "cannot_judge_ratio"),
        *("hallucinated_sentences_per_answer", "hallucinated_words_per_answer"),
    }
    assert {name for name, m in found.items() if m.n_unreadable} == from_rulings
    assert {found[name].n_unreadable for name in from_rulings} == {1}


@pytest.mark.parametrize("answers", [[answer("1", "")], [answer("3", "...")]])
def test_empty_answers_have_no_ratio(answers):
    found = score(answers)
    for name in ("hallucinated_sentence_ratio", "distinct_4", "hallucinated_word_ratio"):
        assert (found[name].value, found[name].n, found[name].low) == (None, 0, None)
    assert found["sentences_per_answer"].value == 0
    assert score([]) == {}


def test_verdicts_must_fit_the_answers():
    answers = [answer("1", "A cup. A kite.")]
    with pytest.raises(BadInput, match=r"base, shr-1: 1 verdicts on 2 sentences"):
        score(answers, judged(answers)[:1])
    with pytest.raises(BadInput, match="no evidence of image 9"):
        shr.cases([answer("9", "A cup.")], {}, EVIDENCE, SETTINGS)


@needs_golden
def test_recorded_aggregates():
    golden = json.loads(GOLDEN.read_text())
    by_id = {case["id"]: case for case in golden["cases"]}
    names = {
        "sents_per_image": "sentences_per_answer",
        "words_per_image": "words_per_answer",
        "hal_sents_per_image": "hallucinated_sentences_per_answer",
        "hal_words_per_image": "hallucinated_words_per_answer",
        "hal_sents_ratio": "hallucinated_sentence_ratio",
        "hal_words_ratio": "hallucinated_word_ratio",
    }
    assert golden["aggregates"]
    for name, expected in golden["aggregates"].items():
        chosen = [by_id[key] for key in expected["ids"]]
        evidence = {str(case["id"]): image(str(case["id"])) for case in chosen}
        answers = [answer(str(case["id"]), case["model_response"]) for case in chosen]
        verdicts = [
            verdict
            for one, case in zip(shr.cases(answers, {}, evidence, SETTINGS), chosen, strict=True)
            for verdict in read_upstream(case["judge"], one)
        ]
        metrics = scored_all(answers, [], verdicts, evidence, Vocabulary(), samples=10)
        found = {m.name: m.value for m in metrics}
        if "error" in expected:  # the original divides by zero
            assert found.get("hallucinated_sentence_ratio") is None
            continue
        assert expected["result"]["num_images"] == len(answers)
        for theirs, ours in names.items():
            assert round(found[ours], 3) == expected["result"][theirs], (name, theirs)


TEXTS = st.lists(st.sampled_from(["A cup", "A kite", "A dog sits", "Calm"]), max_size=6)


@given(TEXTS, TEXTS)
def test_cut_has_the_sentences_of_the_tuned_model_and_no_more(base, tuned):
    one = [answer("1", ". ".join(base) + ("." if base else ""))]
    other = [answer("1", ". ".join(tuned), model="merged")]
    [cut] = shr.cut(one, other, SETTINGS)
    assert cut.model == "base_cut"
    count = len(sentences(other[0].text))
    assert sentences(cut.text) == sentences(one[0].text)[:count]
    is_whole = cut.text == one[0].text
    assert cut.tokens == (5 if is_whole else 0)


def test_the_cut_control_has_no_numbers_about_generation():
    long = [answer("1", "A cup. A kite."), answer("2", "A kite.", tokens=3, finish="length")]
    short = [answer(key, "A cup.", model="merged") for key in "12"]
    found = score(cut := shr.cut(long, short, SETTINGS))
    assert [a.text for a in cut] == ["A cup.", "A kite."]  # one is cut, the other whole
    for name in ("tokens_per_answer", "unfinished_ratio"):
        metric = found[name]
        assert (metric.value, metric.n, metric.low, metric.high) == (None, 0, None, None)
    assert (found["sentences_per_answer"].value, found["sentences_per_answer"].n) == (1.0, 2)
    assert score(long)["tokens_per_answer"].value == 4.0
    assert score(long)["unfinished_ratio"].value == 0.5


def test_cut_keeps_only_images_that_both_described():
    assert shr.cut([answer("1", "A cup.")], [answer("2", "A cup.", model="merged")], SETTINGS) == []


def test_intervals_shrink_with_more_images():
    def width(images):
        answers = [answer(str(k), "A cup. A kite." if k % 2 else "A cup.") for k in range(images)]
        evidence = {str(k): image(str(k), "a cup") for k in range(images)}
        verdicts = judged(answers, evidence)
        metrics = scored_all(answers, [], verdicts, evidence, WORDS, samples=400)
        [m] = [m for m in metrics if m.name == "hallucinated_sentence_ratio"]
        assert m.value == pytest.approx(1 / 3, abs=0.02)
        return m.high - m.low

    assert width(400) < 0.5 * width(40)


def test_unjudged_verdicts_of_another_model_do_not_count():
    answers = [answer("1", "A cup."), answer("1", "A kite.", model="merged")]
    metrics = benchmarks.score(
        "shr", answers, QUESTIONS, judged(answers), EVIDENCE, WORDS, samples=5
    )
    ratio = {m.model: m.value for m in metrics if m.name == "hallucinated_sentence_ratio"}
    assert ratio == {"base": 0.0, "merged": 1.0}
