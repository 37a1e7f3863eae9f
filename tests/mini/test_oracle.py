"""The oracle, which sees only the official files, rules as the exact truth does."""

import json
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

from hadpo.data import Report, shr, visual_genome
from hadpo.judges import oracle
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.mini import build
from hadpo.mini.captions import EmptyClaim, ObjectClaim, SettingClaim, parse, sentence
from hadpo.mini.faults import faulty_caption
from hadpo.mini.files import FIRST_IMAGE_ID, distinct_scenes
from hadpo.mini.world import CATEGORIES, COLOURS, PLACES, SETTINGS, Scene
from hadpo.records import Case
from hadpo.text import sentences
from tests.mini.truth import is_true


def claims_about(scene: Scene, rng: random.Random) -> list[str]:
    """A faulty caption and some claims at random."""
    thing = [rng.choice(tuple(words)) for words in (CATEGORIES, COLOURS, PLACES)]
    others = (
        ObjectClaim(*thing),
        EmptyClaim(rng.choice(PLACES)),
        SettingClaim(rng.choice(tuple(SETTINGS))),
    )
    return [*sentences(faulty_caption(scene, rng)), *(sentence(claim) for claim in others)]


def expected(text: str, scene: Scene) -> tuple[str, str]:
    claim = parse(text)
    assert claim is not None
    if is_true(claim, scene):
        return "correct", ""
    is_absent = isinstance(claim, ObjectClaim) and claim.category not in scene.categories
    return "hallucination", "absent" if is_absent else "attribute"


def test_oracle_agrees_with_the_truth(tmp_path: Path):
    build(tmp_path, seed=3, train_images=30, test_images=20)
    report = Report("error")
    evidence = visual_genome.read(tmp_path / "VG", report)
    facts = shr.facts(tmp_path / "shr", report)
    vocabulary = json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8"))
    judge = oracle.make(vocabulary=from_json(vocabulary))
    rng = random.Random(0)
    labels = set()
    for number, scene in enumerate(islice(distinct_scenes(3), 50), FIRST_IMAGE_ID):
        known = replace(evidence[str(number)], facts=facts[str(number)])
        claims = claims_about(scene, rng)
        case = Case(case_id="a", model="base", claims=tuple(claims), evidence=known)
        for claim, verdict in zip(claims, judge.rule(case), strict=True):
            assert (verdict.label, verdict.kind) == expected(claim, scene), claim
            labels.add((verdict.label, verdict.kind))
    assert len(labels) == 3
