"""RePOPE: the recorded scores of its own script, its reading by letters, one run's two tables."""

import gzip
import json
from dataclasses import replace

import pytest

from hadpo import benchmarks
from hadpo.benchmarks._answers import _same_questions
from hadpo.benchmarks._tally import Benchmark, outcomes, tallies
from hadpo.data import Report
from hadpo.data import pope as data
from hadpo.records import Answer, BadInput, Question
from hadpo.text import yes_no_anywhere

KEYS = {"Precision": "precision", "Recall": "recall", "F1": "f1", "ACC": "accuracy"}
COUNTS = {
    "TP": "true_positives",
    "FP": "false_positives",
    "TN": "true_negatives",
    "FN": "false_negatives",
}
LETTERS = {"yes": "y", "no": "n", None: "-"}


def answer_to(question, text, model="base"):
    return Answer(
        question_id=question.question_id,
        benchmark=question.benchmark,
        split=question.split,
        model=model,
        image_id=question.image_id,
        text=text,
        tokens=2,
        finish="stop",
    )


def folder_of(shared, kind, to):
    """The label files of one kind, unpacked into a folder; the splits that there are."""
    places = {"pope": shared / "golden/pope/labels", "repope": shared / "data/repope"}
    found = []
    for path in sorted(places[kind].glob(f"coco_{kind}_*.json.gz")):
        (to / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
        found.append(path.name.removesuffix(".json.gz").rpartition("_")[2])
    assert found
    return found


def recorded(shared, kind, to):
    """Per set: its questions, the recorded answers to them, and what the official script says."""
    golden = shared / "golden" / "repope"
    said = json.loads(gzip.decompress((golden / "answers.json.gz").read_bytes()))
    expected = json.loads((golden / "expected.json").read_text())
    items = json.loads((golden / "expected_per_item.json").read_text())
    name = {"pope": "POPE", "repope": "RePOPE"}[kind]
    folder_of(shared, kind, to)
    asked = data.read(to, to, Report(asks=False), benchmark=kind)
    for split, scores in expected[name].items():
        questions = [q for q in asked if q.split == split]
        numbers = [q.question_id.rpartition("-")[2] for q in questions]
        assert len(questions) == expected["questions"][name][split]
        answers = [
            answer_to(q, said[split][number])
            for q, number in zip(questions, numbers, strict=True)
            if number in said[split]
        ]
        unparsed = expected["unparsed"][name][split]
        yield split, questions, answers, scores, items[name][split], unparsed


@pytest.mark.parametrize("kind", ["pope", "repope"])
def test_scores_are_the_official_scripts_bit_for_bit(shared, tmp_path, kind):
    """Its script scores POPE's labels by the same reading."""
    for _, questions, answers, scores, letters, unparsed in recorded(shared, kind, tmp_path):
        asked = [replace(q, benchmark="repope") for q in questions]
        found = {m.name: m for m in benchmarks.score("repope", answers, asked, samples=0)}
        for official, name in KEYS.items():
            assert found[name].value == scores[official], official
        assert found["yes_ratio"].value == scores["Yes Ratio"]
        for official, name in COUNTS.items():
            assert found[name].value == scores[official], official
        assert found["no_answer"].value == unparsed / len(answers)
        by_number = sorted(answers, key=lambda a: int(a.question_id.rpartition("-")[2]))
        assert "".join(LETTERS[yes_no_anywhere(a.text)] for a in by_number) == letters


def test_the_reading_is_the_recorded_one(shared):
    replies = json.loads((shared / "golden/repope/compute_answer.json").read_text())
    assert replies
    for reply, answer in replies:
        assert yes_no_anywhere(reply) == (answer if answer in ("yes", "no") else None), reply


def test_every_question_is_popes_of_that_set_and_id(shared, tmp_path):
    both = {}
    for kind in ("pope", "repope"):
        folder_of(shared, kind, tmp_path)
        found = data.read(tmp_path, tmp_path, Report(asks=False), benchmark=kind)
        both[kind] = {q.question_id.removeprefix(f"{kind}-"): q for q in found}
    assert both["repope"].keys() < both["pope"].keys()
    named = {name: Benchmark.named(name) for name in both}
    every = [q for found in both.values() for q in found.values()]
    same = _same_questions(named, every)
    for key, question in both["repope"].items():
        assert same[question.question_id] == f"pope-{key}"
        assert question.text == both["pope"][key].text


def question(number, label, split="random", benchmark="repope", image="1"):
    return Question(
        question_id=f"{benchmark}-{split}-{number}",
        benchmark=benchmark,
        split=split,
        image_id=image,
        image=f"{image}.jpg",
        text="Is there a cup in the image?",
        label=label,
    )


def test_what_is_unanswered_leaves_the_denominators_and_is_counted():
    asked = [question(n, label) for n, label in enumerate(("yes", "no", "yes", "no"))]
    said = ["yes", "Snowy.", "Cups!", "Cups!"]
    answers = [answer_to(q, text) for q, text in zip(asked, said, strict=True)]
    found = {m.name: m for m in benchmarks.score("repope", answers, asked, samples=0)}
    assert (found["accuracy"].value, found["no_answer"].value) == (1.0, 0.5)
    assert (found["f1"].value, found["yes_ratio"].value) == (1.0, 0.5)
    assert (found["strict_accuracy"].value, found["strict_accuracy"].n_unreadable) == (0.25, 3)


def test_nothing_said_yes_is_no_value():
    asked = [question(0, "no"), question(1, "yes")]
    answers = [answer_to(q, "no") for q in asked]
    found = {m.name: m.value for m in benchmarks.score("repope", answers, asked, samples=0)}
    assert (found["precision"], found["f1"], found["accuracy"]) == (None, None, 0.5)


def test_an_outcome_is_right_by_its_own_reading():
    benchmark, asked = Benchmark.named("repope"), [question(0, "yes"), question(1, "no")]
    answers = [answer_to(q, text) for q, text in zip(asked, ("Cups!", "snowy"), strict=True)]
    [found] = outcomes(benchmark, tallies(benchmark, answers, asked), asked)
    assert found.right == "01"  # POPE's reading takes both for a yes


def test_the_answer_of_the_same_set_is_taken():
    asked = [question(7, "yes", split, name) for name in ("pope", "repope") for split in "ab"]
    named = {name: Benchmark.named(name) for name in ("pope", "repope")}
    assert _same_questions(named, asked) == {"repope-a-7": "pope-a-7", "repope-b-7": "pope-b-7"}


def test_a_missing_file_and_a_missing_setting_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"coco_repope_random\.json: no such file"):
        data.read(tmp_path, tmp_path, Report(), benchmark="repope")


def test_the_mean_of_the_sets_is_a_split_of_its_own():
    """Two sets of unlike size: the mean is of the sets, not of all answers together."""
    labels = {"random": "yyyn", "popular": "yn"}
    asked = [
        Question(
            question_id=f"repope-{split}-{at}",
            benchmark="repope",
            split=split,
            image_id=f"photo {at}",
            image="",
            text="?",
            label={"y": "yes", "n": "no"}[letter],
        )
        for split, letters in labels.items()
        for at, letter in enumerate(letters)
    ]
    texts = ["yes", "yes", "no", "yes", "yes", "no"]
    answers = [answer_to(q, t) for q, t in zip(asked, texts, strict=True)]
    metrics = benchmarks.score("repope", answers[:-1], asked, samples=200)
    found = {(m.split, m.name): m for m in metrics}
    assert found["random", "accuracy"].value == 2 / 4
    assert found["popular", "accuracy"].value == 1
    mean = found["mean", "accuracy"]
    assert (mean.value, mean.n) == (3 / 4, 5)
    assert mean.low < mean.value <= mean.high <= 1
    f1 = [found[split, "f1"].value for split in labels]
    assert found["mean", "f1"].value == sum(f1) / 2
    assert (found["mean", "unanswered"].value, found["mean", "unanswered"].n) == (1, 6)
    assert ("mean", "true_positives") not in found
    alone = benchmarks.score("repope", answers[:4], asked[:4], samples=0)
    assert {m.split for m in alone} == {"random"}
