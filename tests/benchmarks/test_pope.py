import dataclasses
import functools
import gzip
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hadpo import benchmarks
from hadpo.benchmarks import pope
from hadpo.config import section_types
from hadpo.data import Report, Sources
from hadpo.measures import yes_no_rates
from hadpo.records import Answer, BadInput, Question

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "pope"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no {GOLDEN}")
score = functools.partial(benchmarks.score, "pope")


def question(number, label, *, image="1", split="random"):
    return Question(
        question_id=f"{split}-{number}",
        benchmark="pope",
        split=split,
        image_id=str(image),
        image=f"{image}.jpg",
        text="Is there a cup in the image?",
        label=label,
    )


def answer(number, text, *, model="base", split="random"):
    return Answer(
        question_id=f"{split}-{number}",
        benchmark="pope",
        split=split,
        model=model,
        image_id="1",
        text=text,
        tokens=2,
        finish="stop",
    )


def values(metrics, model="base"):
    return {m.name: m.value for m in metrics if m.model == model}


def lines(path):
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.decode().splitlines() if line.strip()]


def golden_runs():
    if not GOLDEN.is_dir():
        return []
    return sorted(json.loads((GOLDEN / "expected.json").read_text())["runs"].items())


@needs_golden
def test_there_are_recorded_runs():
    assert golden_runs()


@pytest.mark.parametrize(("name", "expected"), golden_runs())
def test_recorded_runs_to_the_last_bit(name, expected):
    labels = lines(GOLDEN / "labels" / expected["label_file"])
    said = lines(GOLDEN / "answers" / name)
    questions = [question(row["question_id"], row["label"], image=row["image"]) for row in labels]
    # Files without ids are in the order of the questions, as the original takes all files to be.
    answers = [answer(row.get("question_id", n), row["answer"]) for n, row in enumerate(said, 1)]
    found = {m.name: m for m in score(answers, questions, samples=20)}
    for short, long in (
        ("TP", "true_positives"),
        ("FP", "false_positives"),
        ("TN", "true_negatives"),
        ("FN", "false_negatives"),
    ):
        assert found[long].value == expected[short]
    for rate in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        if rate in expected:
            assert found[rate].value == expected[rate], rate
    if "error" in expected:  # the original divides by zero: nothing was answered with yes
        for rate in ("precision", "f1"):
            assert (found[rate].value, found[rate].n, found[rate].low) == (None, 0, None)
    assert found["accuracy"].n == len(said)
    assert found["unanswered"].value == len(labels) - len(said)
    assert found["accuracy"].n_unreadable == 0 <= found["strict_accuracy"].n_unreadable


# Published rows of 1500 + 1500 questions: their one confusion matrix, and the cells as printed
# (truncated to two decimals): accuracy, precision, recall, F1, yes ratio, all in percent.
PUBLISHED = [
    ("minigpt4 random base", 1497, 1463, 37, 3, 51.13, 50.57, 99.80, 67.13, 98.66),
    ("minigpt4 random hadpo", 1175, 91, 1409, 325, 86.13, 92.81, 78.33, 84.96, 42.20),
    ("minigpt4 popular base", 1493, 1449, 51, 7, 51.46, 50.74, 99.53, 67.72, 98.06),
    ("minigpt4 popular hadpo", 1175, 290, 1210, 325, 79.50, 80.20, 78.33, 79.25, 48.83),
    ("minigpt4 adversarial base", 1495, 1457, 43, 5, 51.26, 50.64, 99.66, 67.16, 98.40),
    ("minigpt4 adversarial hadpo", 1175, 405, 1095, 325, 75.66, 74.36, 78.33, 76.29, 52.66),
    ("instructblip random base", 1409, 248, 1252, 91, 88.70, 85.03, 93.93, 89.26, 55.23),
    ("instructblip random hadpo", 1291, 96, 1404, 209, 89.83, 93.07, 86.06, 89.43, 46.23),
    ("instructblip popular base", 1409, 468, 1032, 91, 81.36, 75.06, 93.93, 83.44, 62.56),
    ("instructblip popular hadpo", 1291, 218, 1282, 209, 85.76, 85.55, 86.06, 85.80, 50.03),
    ("instructblip adversarial base", 1409, 674, 826, 91, 74.50, 67.64, 93.93, 78.64, 69.43),
    ("instructblip adversarial hadpo", 1291, 370, 1130, 209, 80.70, 77.72, 86.06, 81.68, 55.36),
    ("llava random base", 1360, 172, 1328, 140, 89.60, 88.77, 90.66, 89.70, 51.06),
    ("llava random hadpo", 1315, 99, 1401, 185, 90.53, 92.99, 87.66, 90.25, 47.13),
    ("llava popular base", 1360, 274, 1226, 140, 86.20, 83.23, 90.66, 86.79, 54.46),
    ("llava popular hadpo", 1315, 178, 1322, 185, 87.90, 88.07, 87.66, 87.81, 49.76),
    ("llava adversarial base", 1360, 467, 1033, 140, 79.76, 74.43, 90.66, 81.75, 60.90),
    ("llava adversarial hadpo", 1315, 371, 1129, 185, 81.46, 77.99, 87.66, 82.54, 56.20),
]
MISPRINTS = {  # cells of the published tables that their own matrix contradicts
    ("minigpt4 popular base", "f1"): 67.22,
    ("instructblip popular hadpo", "yes_ratio"): 50.30,
    ("llava popular hadpo", "f1"): 87.87,
}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_published_matrices(row):
    name, tp, fp, tn, fn, *printed = row
    found = yes_no_rates(
        true_positives=tp, false_positives=fp, true_negatives=tn, false_negatives=fn
    )
    rates = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    for rate, cell in zip(rates, printed, strict=True):
        over, under = found[rate]
        ours = math.floor(over / under * 10_000 + 1e-9) / 100
        assert ours == MISPRINTS.get((name, rate), cell), rate
        assert (ours != cell) == ((name, rate) in MISPRINTS)


def test_both_readings_by_hand():
    questions = [question(n, label) for n, label in enumerate(("yes", "yes", "no", "no"), 1)]
    answers = [answer(n, t) for n, t in enumerate(("Yes.", "NO", "There is no cup", "Unclear"), 1)]
    found = values(score(answers, questions, samples=10))
    # upstream: yes, yes ("NO" is no exact word), no, yes
    assert [found[k] for k in ("accuracy", "precision", "recall", "yes_ratio")] == [
        0.75,
        2 / 3,
        1.0,
        0.75,
    ]
    # strict: yes, no, unread, unread
    assert [found["strict_" + k] for k in ("accuracy", "precision", "recall", "yes_ratio")] == [
        0.25,
        1.0,
        0.5,
        0.25,
    ]
    assert found["words_per_answer"] == (1 + 1 + 4 + 1) / 4


def test_strict_recall_counts_an_unread_answer_as_a_miss():
    """Three of the four positives are not said: one denied, two not answered."""
    labels = ("yes", "yes", "yes", "yes", "no", "no", "no")
    said = ("Yes.", "No.", "Perhaps", "", "No.", "Yes, there is.", "Hard to say")
    questions = [question(n, label) for n, label in enumerate(labels, 1)]
    answers = [answer(n, text) for n, text in enumerate(said, 1)]
    found = values(score(answers, questions, samples=10))
    assert found["strict_recall"] == 1 / 4
    assert found["strict_precision"] == 1 / 2
    assert found["strict_accuracy"] == 2 / 7
    assert found["strict_f1"] == 2 * 1 / (2 * 1 + 1 + 3)
    assert found["strict_yes_ratio"] == 2 / 7


def test_answers_are_found_by_id_in_any_order():
    questions = [question(n, label, image=n) for n, label in enumerate(("yes", "no") * 5, 1)]
    answers = [answer(n, "Yes" if n % 3 else "No") for n in range(1, 11)]
    assert score(answers, questions) == benchmarks.score("pope", answers[::-1], questions)


def test_unknown_and_double_answers_are_refused():
    with pytest.raises(BadInput, match=r"unknown questions: random-2"):
        score([answer(2, "No")], [question(1, "yes")])
    with pytest.raises(BadInput, match="two answers to question random-1"):
        score([answer(1, "No"), answer(1, "Yes")], [question(1, "yes")])


def test_questions_without_labels_and_double_ones_are_refused():
    with pytest.raises(BadInput, match=r"1 questions without a label yes or no: random-2"):
        score([answer(1, "No")], [question(1, "yes"), question(2, None)])
    with pytest.raises(BadInput, match="ids are not unique"):
        score([answer(1, "No")], [question(1, "yes"), question(1, "no")])


@pytest.mark.parametrize("answers", [[], [answer(1, "No")]])
def test_no_valid_denominator_is_none_with_n_zero(answers):
    for metric in score(answers, [question(1, "no")]):
        if metric.value is None:
            assert (metric.n, metric.low, metric.high) == (0, None, None)
    names = {m.name for m in score(answers, [question(1, "no")]) if m.value is None}
    assert ("precision" in names) == bool(answers)


def naive_interval(questions, answers, samples, seed):
    """The same draws, image by image, with lists and sums."""
    images = list(dict.fromkeys(q.image_id for q in questions))
    said = {a.question_id: a.text for a in answers}
    draw = np.random.default_rng(seed)
    times = draw.multinomial(len(images), np.full(len(images), 1 / len(images)), size=samples)
    found = []
    for row in times:
        right = total = 0
        for image, count in zip(images, row, strict=True):
            for q in questions:
                if q.image_id == image:
                    total += count
                    right += count * (pope.yes_no_upstream(said[q.question_id]) == q.label)
        found.append(right / total)
    return tuple(np.percentile(found, (2.5, 97.5)))


def test_intervals_equal_a_naive_computation():
    questions = [question(n, "yes" if n % 2 else "no", image=n // 3) for n in range(30)]
    answers = [answer(n, "Yes" if n % 3 else "No") for n in range(30)]
    metrics = {m.name: m for m in score(answers, questions, samples=200, seed=7)}
    low, high = naive_interval(questions, answers, 200, 7)
    accuracy = metrics["accuracy"]
    assert (accuracy.low, accuracy.high) == pytest.approx((low, high), abs=1e-12)
    assert accuracy.low < accuracy.value < accuracy.high


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["Yes", "No", "?", ""])), max_size=12))
def test_any_answers_give_counts_that_add_up(rows):
    questions = [
        question(n, "yes" if label else "no", image=n % 3) for n, (label, _) in enumerate(rows)
    ]
    answers = [answer(n, text) for n, (_, text) in enumerate(rows)]
    metrics = score(answers, questions, samples=5)
    for prefix in ("", "strict_") if rows else ():
        four = [m for m in metrics if m.name.startswith(prefix) and m.name[len(prefix) :] in COUNTS]
        assert len(four) == 4
        assert sum(m.value for m in four) + four[0].n_unreadable == len(rows)
    for m in metrics:
        if m.low is not None:
            assert 0 <= m.low <= m.high


COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")


def test_the_real_size_is_scored_quickly():
    questions = [question(n, "yes" if n % 2 else "no", image=n // 6) for n in range(3000)]
    answers = [answer(n, "Yes, there is." if n % 5 else "No.") for n in range(3000)]
    start = time.process_time()
    score(answers, questions, samples=1000)
    assert time.process_time() - start < 2


def test_with_the_stop_what_needs_whole_answers_has_no_value():
    asked = [question("1", "yes"), question("2", "no")]
    said = [answer("1", "Yes."), answer("2", "No.")]
    whole = score(said, asked)
    found = score(said, asked, settings=pope.Settings(pope_stop_at_period=True))
    assert [m.name for m in found] == [m.name for m in whole]
    for before, after in zip(whole, found, strict=True):
        if before.name.startswith("strict_") or before.name == "words_per_answer":
            assert (after.value, after.n, after.low) == (None, 0, None)
        else:
            assert after == before


@pytest.mark.parametrize(("second", "warned"), [("Yes", False), ("No", True)])
def test_recall_that_differs_between_splits_is_warned_of(second, warned):
    asked = [
        dataclasses.replace(question(i, label, split=split), text=f"{label}?")
        for split in ("random", "popular")
        for i, label in enumerate(("yes", "no"))
    ]
    said = [answer(i, "Yes", split="random") for i in (0, 1)]
    said += [answer(i, second, split="popular") for i in (0, 1)]
    found = pope.warnings(score(said, asked, samples=0), asked)
    assert bool(found) == warned
    if warned:
        assert "recall of base differs" in found[0]
    other = [dataclasses.replace(q, text=q.text + q.split) for q in asked]
    assert pope.warnings(score(said, asked, samples=0), other) == []


@pytest.mark.parametrize(
    ("splits", "expected"),
    [("", ["random", "popular", "adversarial"]), ("adversarial", ["adversarial"])],
)
def test_splits_that_are_not_wanted_are_not_asked(splits, expected, tmp_path):
    (tmp_path / "1.jpg").touch()
    for split in ("random", "popular", "adversarial"):
        line = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}
        (tmp_path / f"coco_pope_{split}.json").write_text(json.dumps(line) + "\n")
    section = section_types()["data"](pope=str(tmp_path), coco=str(tmp_path), pope_splits=splits)
    sources = Sources(data=section, resolve=Path, note=lambda p: p, report=Report())
    assert [question.split for question in pope.questions(sources)] == expected


def test_an_unknown_split_is_refused(tmp_path):
    section = section_types()["data"](
        pope=str(tmp_path), coco=str(tmp_path), pope_splits="adversary"
    )
    sources = Sources(data=section, resolve=Path, note=lambda p: p, report=Report())
    with pytest.raises(BadInput, match="pope_splits: did you mean 'adversarial'"):
        pope.questions(sources)
