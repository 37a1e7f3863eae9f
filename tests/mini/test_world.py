"""The world: its scenes, its pictures and its language agree with each other."""

import random
from itertools import islice

import numpy as np
import pytest

from hadpo.mini.captions import (
    EmptyClaim,
    ObjectClaim,
    SettingClaim,
    facts,
    parse,
    perfect_caption,
    sentence,
    true_sentences,
)
from hadpo.mini.draw import SPRITES, draw
from hadpo.mini.faults import faulty_caption
from hadpo.mini.world import (
    CATEGORIES,
    CELL_SIZE_PIXELS,
    COLOURS,
    SETTINGS,
    Scene,
    SceneObject,
    cell,
    is_held_out,
    scenes,
)
from hadpo.text import sentences
from tests.mini.truth import is_true


def sample(count: int, *, seed: int = 0, held_out: bool = True) -> list[Scene]:
    return list(islice(scenes(seed, held_out=held_out), count))


def test_scenes_keep_the_rules_of_the_world():
    for scene in sample(300):
        assert 2 <= len(scene.objects) <= 5
        assert len(set(scene.categories)) == len(scene.categories)
        assert len({thing.place for thing in scene.objects}) == len(scene.objects)
        for thing in scene.objects:
            left, top, _, _ = cell(thing.place)
            x, y, width, height = thing.box
            assert left <= x and x + width <= left + CELL_SIZE_PIXELS
            assert top <= y and y + height <= top + CELL_SIZE_PIXELS


def test_same_seed_gives_the_same_scenes_and_another_seed_does_not():
    assert sample(20, seed=3) == sample(20, seed=3)
    assert sample(20, seed=3) != sample(20, seed=4)


def test_held_out_scenes_are_never_shown_to_the_base():
    assert all(is_held_out(scene) for scene in sample(100))
    assert not any(is_held_out(scene) for scene in sample(100, held_out=False))


def test_settings_and_sprites_know_every_category():
    assert set(SPRITES) == set(CATEGORIES)
    assert all(set(habits) <= set(CATEGORIES) for habits in SETTINGS.values())


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_an_objects_cell_contains_its_colour_and_other_cells_do_not(category, colour):
    thing = SceneObject(category, colour, "center", 35, 35, 26, is_small=False, is_mirrored=False)
    pixels = np.asarray(draw(Scene("street", (thing,), 0, 0)), dtype=float)
    near = np.abs(pixels - COLOURS[colour]).max(axis=2) < 16
    inside = near[32:64, 32:64].sum()
    assert inside >= 30
    assert near.sum() == inside


def test_the_same_scene_gives_the_same_pixels():
    [scene] = sample(1)
    assert draw(scene).tobytes() == draw(scene).tobytes()


def test_every_true_sentence_parses_to_what_made_it():
    for scene in sample(100):
        claims = [parse(text) for text in true_sentences(scene)]
        assert [sentence(claim) for claim in claims if claim] == true_sentences(scene)
        assert all(claim and is_true(claim, scene) for claim in claims)


def test_false_sentences_are_false():
    thing = SceneObject("cup", "red", "center", 35, 35, 26, is_small=False, is_mirrored=False)
    scene = Scene("park", (thing,), 0, 0)
    assert is_true(ObjectClaim("cup", "red", "center"), scene)
    for claim in (
        ObjectClaim("cup", "blue", "center"),
        ObjectClaim("hat", "red", "center"),
        ObjectClaim("cup", "red", "top left"),
        EmptyClaim("center"),
        SettingClaim("beach"),
    ):
        assert not is_true(claim, scene)


@pytest.mark.parametrize(
    "text",
    ["", "Yes.", "The top shows a red cup.", "The center shows a red cup and a hat.", "A red cup."],
)
def test_other_sentences_do_not_parse(text):
    assert parse(text) is None


def test_perfect_captions_are_true_and_name_every_object():
    rng = random.Random(0)
    for scene in sample(100):
        claims = [parse(text) for text in sentences(perfect_caption(scene, rng))]
        assert all(claim and is_true(claim, scene) for claim in claims)
        named = {claim.category for claim in claims if isinstance(claim, ObjectClaim)}
        assert named == set(scene.categories)


def test_faulty_captions_differ_from_perfect_ones_in_inventions_only():
    wrong = total = 0
    positions = set()
    for number, scene in enumerate(sample(300)):
        # The caption speaks of the same places whatever is invented: compare with the truth there.
        claims = [parse(t) for t in sentences(faulty_caption(scene, random.Random(number)))]
        for index, claim in enumerate(claims):
            assert claim is not None
            total += 1
            if not is_true(claim, scene):
                assert isinstance(claim, ObjectClaim)
                assert claim.category not in scene.categories
                assert scene.at(claim.place) is None
                wrong += 1
                positions.add(index)
        named = [claim.category for claim in claims if isinstance(claim, ObjectClaim)]
        assert len(set(named)) == len(named)
    assert 0.15 < wrong / total < 0.35
    assert positions >= {1, 2, 3, 4, 5, 6}


def test_facts_count_objects_and_empty_places():
    for scene in sample(30):
        lines = facts(scene)
        assert len(lines) == 2 + 9 - len(scene.objects)
        assert all(parse(line) and is_true(parse(line), scene) for line in lines[1:])
