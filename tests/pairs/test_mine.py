import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo.judges import oracle
from hadpo.judges.oracle.vocabulary import Vocabulary, from_json, true_sentences
from hadpo.mini import captions, faults, files, world
from hadpo.pairs.mine import correct_description
from hadpo.records import Case, Evidence, Region
from hadpo.text import sentences
from tests.mini.truth import is_true

MINI = from_json(files.vocabulary())


def image_of(scene):
    regions = tuple(
        Region(x=float(x), y=float(y), width=float(w), height=float(h), phrase=phrase)
        for (x, y, w, h), phrase in files.described_boxes(scene)
    )
    facts = tuple(captions.facts(scene))
    return Evidence(image_id="1", image="", width=9, height=9, regions=regions, facts=facts)


def correct(description, evidence, known=MINI):
    claims = tuple(sentences(description))
    case = Case(case_id="q", model="base", claims=claims, evidence=evidence)
    verdicts = oracle.make(vocabulary=known).rule(case)
    return correct_description(
        description, verdicts, true_sentences(evidence, known), known
    ), verdicts


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_faulty_captions_become_true_and_stay_as_long_and_in_order(seed):
    rng = random.Random(seed)
    scene, other = world.sample(rng), world.sample(rng)
    for own in (faults.faulty_caption(scene, rng), captions.perfect_caption(other, rng)):
        found, verdicts = correct(own, image_of(scene))
        before, after = sentences(own), sentences(found)
        assert len(after) == len(before)
        for old, new, verdict in zip(before, after, verdicts, strict=True):
            assert is_true(captions.parse(new), scene), new
            if verdict.label == "correct":
                assert new == old
        places = [getattr(captions.parse(line), "place", None) for line in after]
        assert places == [getattr(captions.parse(line), "place", None) for line in before]
        assert captions.parse(after[0]) is not None


WORDS = {"objects": ["cup", "kite", "dog", "lamp"], "attributes": {"colour": ["red", "blue"]}}
KNOWN = from_json(WORDS)
PHOTO = Evidence(
    image_id="1",
    image="",
    width=9,
    height=9,
    regions=tuple(
        Region(x=0.0, y=0.0, width=1.0, height=1.0, phrase=phrase)
        for phrase in ("a red cup", "a dog on a mat", "a blue lamp")
    ),
    facts=("It is calm.", "The lamp is off."),
)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        # a wrong attribute is put right
        ("There is a blue cup. Nice.", "There is a red cup. Nice."),
        # an absent object gives way to one that the text misses
        ("A cup. A dog. A kite.", "A cup. A dog. There is a blue lamp."),
        # nothing is missed: a sentence that says something new of what is there
        ("A cup. A dog. A lamp. A kite.", "A cup. A dog. A lamp. There is a red cup."),
        # blanks and lines stay; a repeat is treated like its first
        ("A kite.\n\nCalm.  A kite.", "There is a red cup.\n\nCalm.  There is a red cup."),
        ("A dog.", "A dog."),
        ("", ""),
    ],
)
def test_without_places(own, expected):
    assert correct(own, PHOTO, KNOWN)[0] == expected


def test_no_truth_left_is_none():
    own = "A kite. A red kite. A blue kite. A kite flies. Kites fly. Two kites."
    assert correct(own, PHOTO, KNOWN)[0] is None


def test_nothing_known_leaves_the_text_alone():
    assert correct("A kite. A dog.", PHOTO, Vocabulary())[0] == "A kite. A dog."
