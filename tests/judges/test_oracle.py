import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo import plugins
from hadpo.chat import ChatSettings
from hadpo.data import Report, coco, shr, visual_genome
from hadpo.judges import Judge, JudgeSettings, oracle, rule_all
from hadpo.judges.oracle.vocabulary import Vocabulary, from_evidence, from_json, true_sentences
from hadpo.mini import captions, files, world
from hadpo.records import BadInput, Case, Evidence, Region
from hadpo.text import sentences
from tests.mini.truth import is_true

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
PHOTOS = SHARED / "data" / "photoset"
WORDS = {
    "objects": ["cup", "kite", "dining table", "bus"],
    "attributes": {"colour": ["red", "blue"], "place": ["top left", "top right", "left"]},
    "scenes": ["beach", "park"],
}
KNOWN = from_json(WORDS)
IMAGE = Evidence(
    image_id="1",
    image="1.png",
    width=9,
    height=9,
    regions=(
        Region(x=0.0, y=0.0, width=3.0, height=3.0, phrase="a red cup at the top left"),
        Region(x=0.0, y=0.0, width=3.0, height=3.0, phrase="two dining tables"),
    ),
    facts=("The scene is a beach.", "The top right is empty.", "There are two objects."),
)

RULINGS = [
    ("There is a red cup at the top left.", "correct", ""),
    ("The top left shows a red cup", "correct", ""),
    ("Cups.", "correct", ""),
    ("There is a blue cup at the top left.", "hallucination", "attribute"),
    ("There is a red cup at the top right.", "hallucination", "attribute"),
    ("There is a red kite at the top left.", "hallucination", "absent"),
    ("A red cup stands beside a kite.", "hallucination", "absent"),
    ("There is a blue dining table.", "correct", ""),  # nothing known of its colour
    ("Buses are parked.", "hallucination", "absent"),
    ("There is no bus.", "correct", ""),
    ("There is no cup.", "hallucination", "attribute"),
    ("The top right is empty.", "correct", ""),
    ("The top left is empty.", "hallucination", "attribute"),
    ("The left is empty.", "cannot judge", ""),
    ("The scene is a beach.", "correct", ""),
    ("The scene is a park.", "hallucination", "attribute"),
    ("There are two objects.", "correct", ""),
    ("The mood is calm.", "cannot judge", ""),
    ("", "cannot judge", ""),
]


def rule(claim, evidence=IMAGE, known=KNOWN):
    case = Case(case_id="q", model="base", claims=(claim,), evidence=evidence)
    [verdict] = oracle.make(vocabulary=known).rule(case)
    assert (verdict.case_id, verdict.model, verdict.claim) == ("q", "base", claim)
    return verdict


@pytest.mark.parametrize(("claim", "label", "kind"), RULINGS)
def test_rulings(claim, label, kind):
    verdict = rule(claim)
    assert (verdict.label, verdict.kind) == (label, kind), verdict.reason


@given(st.text(max_size=80), st.sampled_from([KNOWN, Vocabulary()]))
def test_nothing_crashes_it(claim, known):
    nothing = Evidence(image_id="2", image="", width=1, height=1)
    assert rule(claim, nothing, known).label == "cannot judge"
    assert rule(claim, IMAGE, known).label in ("correct", "hallucination", "cannot judge")


def mini_image(scene):
    regions = tuple(
        Region(x=float(x), y=float(y), width=float(w), height=float(h), phrase=phrase)
        for (x, y, w, h), phrase in files.described_boxes(scene)
    )
    facts = tuple(captions.facts(scene))
    return Evidence(image_id="1", image="", width=9, height=9, regions=regions, facts=facts)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_it_knows_the_truth_about_mini_scenes(seed):
    known = from_json(files.vocabulary())
    scene, other = world.sample(random.Random(seed)), world.sample(random.Random(seed + 1))
    evidence = mini_image(scene)
    for sentence in captions.true_sentences(scene):
        assert rule(sentence, evidence, known).label == "correct", sentence
    for sentence in captions.true_sentences(other):
        claim = captions.parse(sentence)
        verdict = rule(sentence, evidence, known)
        expected = "correct" if is_true(claim, scene) else "hallucination"
        assert verdict.label == expected, (sentence, verdict.reason)
        if isinstance(claim, captions.ObjectClaim) and expected == "hallucination":
            absent = claim.category not in scene.categories
            assert verdict.kind == ("absent" if absent else "attribute")


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_true_sentences_are_written_in_the_words_of_the_describer(seed):
    known = from_json(files.vocabulary())
    scene = world.sample(random.Random(seed))
    found = {truth.text for truth in true_sentences(mini_image(scene), known)}
    assert found == set(captions.true_sentences(scene))


def test_true_sentences_without_templates():
    assert [t.text for t in true_sentences(IMAGE, KNOWN)] == [
        "There is a red cup at the top left.",
        "There is two dining tables.",
        "The scene is a beach.",
        "The top right is empty.",
    ]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}")
def test_photos_with_a_vocabulary_from_the_evidence():
    report = Report()
    images = visual_genome.read(PHOTOS / "VG", report)
    photos = coco.read(PHOTOS / "coco2014", report)
    known = from_json(from_evidence([*images.values(), *photos.values()]))
    assert {"vase", "dining table", "broccoli"} <= set(known.objects)
    assert not {"the", "a", "of"} & set(known.objects)
    responses = json.loads((PHOTOS / "shr" / "responses_example.json").read_text())
    facts = shr.facts(PHOTOS / "shr", report)
    judge = oracle.make(vocabulary=known)
    labels = []
    for key, text in responses.items():
        evidence = Evidence(**{**vars(images[key]), "facts": facts[key]})
        claims = tuple(sentences(text))
        labels += [
            v.label
            for v in judge.rule(Case(case_id=key, model="m", claims=claims, evidence=evidence))
        ]
    assert {"correct", "hallucination"} <= set(labels)


def test_the_contract_holds_for_every_judge(serve, tmp_path):
    serve(lambda *_: "1. correct: a\n2. hallucination: b\n3. cannot judge: c")
    settings = JudgeSettings(
        chat=ChatSettings(model="m", reply_format="text"), replies=tmp_path / "replies.sqlite"
    )
    names = plugins.available("hadpo.judges")
    assert {"oracle", "llm", "replay"} == set(names)
    for name in names:  # replay after llm, whose replies it finds
        judge = plugins.load("hadpo.judges", name).make(vocabulary=KNOWN, settings=settings)
        assert isinstance(judge, Judge)
        claims = ("A cup.", "A kite.", "Calm.")
        case = Case(case_id="q", model="m", claims=claims, evidence=IMAGE)
        assert [v.claim for v in rule_all(judge, [case])] == list(claims)


def test_a_judge_that_drops_a_claim_is_caught():
    class Lazy:
        def rule(self, case):
            return []

    case = Case(case_id="q", model="m", claims=("A cup.",), evidence=IMAGE)
    with pytest.raises(ValueError, match="gave 0 verdicts on the 1 claims"):
        rule_all(Lazy(), [case])


@pytest.mark.parametrize("broken", [{"object": []}, {"objects": {}}, {"attributes": {"colour": 1}}])
def test_a_broken_vocabulary_is_refused(broken):
    with pytest.raises(BadInput, match=r"words\.json: (unknown )?field '(object|attributes)"):
        from_json(broken, where="words.json")
