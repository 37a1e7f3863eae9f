"""The per-image sums that a run keeps are those of the benchmarks' own scores."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from hadpo import benchmarks
from hadpo.benchmarks._tally import Benchmark, outcomes, tallies
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.records import (
    Answer,
    BadInput,
    Evidence,
    Metric,
    Outcome,
    Question,
    Verdict,
    read_jsonl,
    write_jsonl,
)
from hadpo.text import sentences

SAID = ("Yes.", "No.", "NO", "no, there is none", "Yes, there is", "")
TEXTS = (
    "A red cup. A blue ball. A red cup.",
    "There is a cup at the top left",
    "Mr. Smith waves. He is tall.  Two spaces.",
    "",
)


def answer(question: Question, text: str, model: str = "base") -> Answer:
    return Answer(
        question_id=question.question_id,
        benchmark=question.benchmark,
        split=question.split,
        model=model,
        image_id=question.image_id,
        text=text,
        tokens=3,
        finish="stop",
    )


def question(at: int, benchmark: str, split: str, label: str | None = None) -> Question:
    return Question(
        question_id=f"{benchmark}-{at}",
        benchmark=benchmark,
        split=split,
        image_id=str(at // 3),
        image="x.png",
        text="?",
        label=label,
    )


def outcomes_of(
    name: str, answers: list[Answer], questions: list[Question], *known
) -> list[Outcome]:
    benchmark = Benchmark.named(name)
    return outcomes(benchmark, tallies(benchmark, answers, questions, *known), questions)


def values(outcomes: list[Outcome], split: str) -> dict[str, float | None]:
    found = {}
    for outcome in outcomes:
        for name, (over, under) in outcome.sums.items():
            if outcome.split == split:
                assert len(over) == len(under) == len(outcome.images)
                found[name] = sum(over) / sum(under) if sum(under) else None
    return found


def agree(found: dict[str, float | None], scored: list[Metric], split: str) -> None:
    values_ = {m.name: m.value for m in scored if m.split == split}
    assert {name: values_[name] for name in found} == pytest.approx(found)


def test_pope_sums_add_up_to_its_metrics():
    draw = random.Random(3)
    questions = [question(i, "pope", "random", "yes" if i % 2 else "no") for i in range(60)]
    answers = [answer(q, draw.choice(SAID)) for q in questions]
    found = values(outcomes_of("pope", answers, questions), "random")
    assert set(found) == {"accuracy", "precision", "recall", "f1", "yes_ratio", "words_per_answer"}
    agree(found, benchmarks.score("pope", answers, questions, samples=0), "random")


def test_shr_sums_add_up_to_its_metrics():
    draw = random.Random(4)
    questions = [question(3 * i, "shr", "val") for i in range(20)]
    answers = [answer(q, draw.choice(TEXTS)) for q in questions]
    labels = ("correct", "hallucination", "cannot judge", "unparsed")
    verdicts = [
        Verdict(
            case_id=a.question_id,
            model="base",
            claim=f"{sentence}.",
            label=(label := draw.choice(labels)),
            kind=draw.choice(("absent", "attribute")) if label == "hallucination" else "",
        )
        for a in answers
        for sentence in sentences(a.text)
    ]
    nothing = from_json({"objects": [], "attributes": {}, "scenes": []})
    found = values(outcomes_of("shr", answers, questions, verdicts, {}, nothing), "val")
    assert {"hallucinated_sentence_ratio", "words_per_answer", "distinct_2"} <= found.keys()
    agree(
        found, benchmarks.score("shr", answers, questions, verdicts, {}, nothing, samples=0), "val"
    )


def test_gavie_sums_add_up_to_its_metrics_over_all_and_by_task():
    draw = random.Random(5)
    questions = [question(i, "gavie", draw.choice(("colour", "place"))) for i in range(40)]
    answers = [answer(q, draw.choice(TEXTS)) for q in questions]
    verdicts = [
        Verdict(
            case_id=a.question_id,
            model="base",
            claim=a.text,
            label=(label := draw.choice(("scored", "scored", "unparsed"))),
            scores={"relevancy": draw.randint(0, 10), "accuracy": draw.randint(0, 10)}
            if label == "scored"
            else {},
        )
        for a in answers
    ]
    found = outcomes_of("gavie", answers, questions, verdicts)
    scored = benchmarks.score("gavie", answers, questions, verdicts, samples=0)
    assert {outcome.split for outcome in found} == {"all", "colour", "place"}
    for split in ("all", "colour", "place"):
        assert set(values(found, split)) == {"relevancy", "accuracy", "words_per_answer"}
        agree(values(found, split), scored, split)


def test_chair_sums_add_up_to_its_metrics():
    draw = random.Random(6)
    questions = [question(3 * i, "chair", "val") for i in range(20)]
    answers = [answer(q, draw.choice(TEXTS)) for q in questions]
    evidence = {
        q.image_id: Evidence(
            image_id=q.image_id, image="x.png", width=4, height=4, objects=("cup", "man")
        )
        for q in questions
    }
    words = {"objects": [], "attributes": {}, "scenes": []}
    vocabulary = replace(from_json(words), synonyms={"cup": "cup", "ball": "ball", "man": "man"})
    found = outcomes_of("chair", answers, questions, [], evidence, vocabulary)
    scored = benchmarks.score("chair", answers, questions, [], evidence, vocabulary, samples=0)
    assert {"plain_i", "plain_s", "plain_recall"} <= values(found, "val").keys()
    agree(values(found, "val"), scored, "val")


def test_right_answers_stand_in_the_order_of_the_ids_and_questions_have_a_hash():
    questions = [question(i, "pope", "random", "yes") for i in (2, 0, 1)]
    answers = [answer(q, text) for q, text in zip(questions, ("Yes.", "No.", "Yes."), strict=True)]
    (found,) = outcomes_of("pope", answers, questions)
    assert (found.right, found.n_questions) == ("011", 3)
    (again,) = outcomes_of("pope", answers[::-1], questions)
    assert again.questions == found.questions
    other = [replace(questions[0], text="Is it?"), *questions[1:]]
    (changed,) = outcomes_of("pope", answers, other)
    assert changed.questions != found.questions


def test_an_outcome_is_read_back_as_it_was_written(tmp_path: Path):
    questions = [question(i, "pope", "random", "yes") for i in range(4)]
    answers = [answer(q, "Yes.") for q in questions]
    found = outcomes_of("pope", answers, questions)
    write_jsonl(tmp_path / "outcomes.jsonl", found)
    (again,) = read_jsonl(tmp_path / "outcomes.jsonl", Outcome)
    assert [list(map(list, again.sums["f1"]))] == [list(map(list, found[0].sums["f1"]))]
    assert again.images == found[0].images == ("0", "1")


def test_an_answer_to_an_unknown_question_is_refused():
    known, other = question(0, "pope", "random", "yes"), question(9, "pope", "random", "no")
    rows = tallies(Benchmark.named("pope"), [answer(other, "Yes.")], [other])
    with pytest.raises(BadInput, match="unknown question: pope-9"):
        outcomes(Benchmark.named("pope"), rows, [known])
