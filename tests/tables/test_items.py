"""The per-image sums behind our intervals are those of the benchmarks' own scores."""

import random

import pytest

from hadpo.benchmarks import pope, shr
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.records import Answer, Question, Verdict
from hadpo.tables import items_of
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


def values(answers, questions, verdicts) -> dict[str, float]:
    found = {}
    for (_, _, name, _), sums in items_of(answers, questions, verdicts).items():
        top, bottom = (sum(s[i] for s in sums.values()) for i in (0, 1))
        found[name] = top / bottom
    return found


def test_pope_items_add_up_to_pope_metrics():
    draw = random.Random(3)
    questions = [question(i, "pope", "random", "yes" if i % 2 else "no") for i in range(60)]
    answers = [answer(q, draw.choice(SAID)) for q in questions]
    scored = {m.name: m.value for m in pope.score(answers, questions, samples=0)}
    found = values(answers, questions, [])
    assert set(found) == {"accuracy", "precision", "recall", "f1", "yes_ratio", "words_per_answer"}
    assert {name: scored[name] for name in found} == pytest.approx(found)


def test_shr_items_add_up_to_shr_metrics():
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
    scored = {
        m.name: m.value for m in shr.score(answers, questions, verdicts, {}, nothing, samples=0)
    }
    found = values(answers, questions, verdicts)
    assert {"hallucinated_sentence_ratio", "words_per_answer", "repeated_sentences_per_answer"} <= (
        found.keys()
    )
    assert {name: scored[name] for name in found} == pytest.approx(found)


def test_a_text_cut_down_to_nothing_still_counts_as_an_answer():
    questions = [question(3 * i, "shr", "val") for i in range(2)]
    answers = [answer(q, "A cup. A ball.") for q in questions]
    place = {"case_id": "shr-0", "label": "correct"}
    verdicts = [Verdict(model="base", claim="A cup.", **place)]
    verdicts += [Verdict(model="base_cut", claim="A cup.", **place)]
    found = items_of(answers, questions, verdicts)
    assert found["shr", "val", "sentences_per_answer", "base_cut"] == {"0": (1, 1), "1": (0, 1)}
    ratio = found["shr", "val", "hallucinated_sentence_ratio", "base_cut"]
    assert ratio == {"0": (0, 1), "1": (0, 0)}
