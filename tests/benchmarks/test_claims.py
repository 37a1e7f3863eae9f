"""Object claims: what counts as a claim, which are true, and that silence cannot be hidden."""

import random

import pytest

from hadpo.benchmarks import Benchmark, Known, score
from hadpo.benchmarks.claims import tally
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.mini import captions, files, world
from hadpo.records import Answer, BadInput, Evidence, Question, Region

WORDS = from_json(files.vocabulary())
PICTURE = Evidence(
    image_id="1",
    image="1.png",
    width=96,
    height=96,
    regions=tuple(
        Region(x=0.0, y=0.0, width=1.0, height=1.0, phrase=phrase)
        for phrase in ("a red cup at the top left", "a blue lamp at the center")
    ),
    facts=("The top right is empty.",),
)


def counted(text, evidence: Evidence | None = PICTURE):
    return tally(answer(text), Known(question=None, evidence=evidence, vocabulary=WORDS))


def answer(text, model="base"):
    return Answer(
        question_id="claims-1",
        benchmark="claims",
        split="val",
        model=model,
        image_id="1",
        text=text,
        tokens=9,
        finish="stop",
    )


@pytest.mark.parametrize(
    ("text", "claims", "true", "absent", "place", "attribute", "empty"),
    [
        ("The top left shows a red cup. The center shows a blue lamp.", 2, 2, 0, 0, 0, 0),
        ("The top left shows a red cup. The center shows a red lamp.", 2, 1, 0, 0, 1, 0),
        ("The top right shows a red cup.", 1, 0, 0, 1, 0, 0),
        ("The top right shows a blue cup.", 1, 0, 0, 0, 1, 0),  # colour and place
        ("The center shows a white kite. The top right is empty.", 1, 0, 1, 0, 0, 1),
        ("There is a cup. The top left shows a red cup.", 2, 1, 0, 0, 0, 0),  # one cup, once
        ("The top right is empty. The center is empty.", 0, 0, 0, 0, 0, 2),
        ("There is no kite.", 0, 0, 0, 0, 0, 0),
        ("", 0, 0, 0, 0, 0, 0),
    ],
)
def test_claims_of_a_text(text, claims, true, absent, place, attribute, empty):
    found = counted(text)
    assert found["f1"] == (2 * true, claims + 2)
    assert found["precision"] == (true, claims) and found["recall"] == (true, 2)
    assert found["claims_per_answer"] == (claims, 1)
    errors = ("absent_claims", "place_errors", "attribute_errors")
    assert [found[f"{e}_per_answer"][0] for e in errors] == [absent, place, attribute]
    assert found["wrong_claims_per_answer"] == (absent + place + attribute, 1)
    assert found["empty_sentences_per_answer"] == (empty, 1)


@pytest.mark.parametrize("seed", range(20))
def test_a_perfect_caption_of_the_mini_world_claims_every_object_truly(seed):
    rng = random.Random(seed)
    scene = world.sample(rng)
    regions = tuple(
        Region(x=float(x), y=float(y), width=float(w), height=float(h), phrase=phrase)
        for (x, y, w, h), phrase in files.described_boxes(scene)
    )
    evidence = Evidence(
        image_id="1",
        image="",
        width=96,
        height=96,
        regions=regions,
        facts=tuple(captions.facts(scene)),
    )
    found = counted(captions.perfect_caption(scene, rng), evidence)
    n = len(scene.objects)
    assert found["f1"] == (2 * n, 2 * n) and found["wrong_claims_per_answer"] == (0, 1)


def test_true_sentences_about_emptiness_change_no_rate():
    bare = counted("The top left shows a red cup. The center shows a white kite.")
    padded = counted(
        "The top left shows a red cup. The center shows a white kite. The top right is empty."
    )
    for name in ("f1", "precision", "recall", "wrong_claims_per_answer"):
        assert bare[name] == padded[name]


def test_the_metrics_are_ratios_over_all_answers():
    assert Benchmark.named("claims").SAME_QUESTIONS_AS == "shr"
    question = Question(
        question_id="claims-1",
        benchmark="claims",
        split="val",
        image_id="1",
        image="1.png",
        text="Describe this image in detail.",
    )
    texts = {"base": "There is a cup. There is a kite.", "merged": "There is a cup."}
    answers = [answer(text, model) for model, text in texts.items()]
    found = score("claims", answers, [question], (), {"1": PICTURE}, WORDS, samples=0)
    values = {(m.model, m.name): m.value for m in found}
    assert values["base", "f1"] == 0.5 and values["base", "precision"] == 0.5
    assert values["merged", "f1"] == pytest.approx(2 / 3) and values["merged", "recall"] == 0.5


def test_an_image_of_which_nothing_is_known_is_refused():
    with pytest.raises(BadInput, match="no evidence of image 1"):
        counted("There is a cup.", evidence=None)
