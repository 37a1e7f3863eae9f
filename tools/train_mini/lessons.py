"""Conversations about a picture that the mini models learn from, true or with injected faults."""

import random

from hadpo.mini.captions import (
    DESCRIPTION_QUESTIONS,
    claim_at,
    claim_of,
    perfect_caption,
    presence_question,
    sentence,
    true_sentences,
)
from hadpo.mini.faults import false_yes_share, faulty_caption
from hadpo.mini.world import CATEGORIES, PLACES, Scene, weight

Turn = tuple[str, str]  # instruction, answer


def description(scene: Scene, rng: random.Random, *, is_faulty: bool) -> list[Turn]:
    """One turn: a description question and its answer."""
    caption = faulty_caption if is_faulty else perfect_caption
    return [(rng.choice(DESCRIPTION_QUESTIONS), caption(scene, rng))]


def full_tour(scene: Scene, rng: random.Random) -> list[Turn]:
    """One turn that walks through all nine places: the densest lesson in where things are."""
    return [(rng.choice(DESCRIPTION_QUESTIONS), " ".join(true_sentences(scene)))]


def presence_turn(scene: Scene, rng: random.Random, *, is_faulty: bool) -> Turn:
    """One yes/no question; absent categories are half typical ones, half any."""
    absent = [name for name in CATEGORIES if name not in scene.categories]
    if rng.random() < 0.5:
        category = rng.choice(scene.categories)
        is_yes = True
    else:
        weights = [weight(scene.setting, name) for name in absent]
        category = rng.choices(absent, weights if rng.random() < 0.5 else None)[0]
        is_yes = is_faulty and rng.random() < false_yes_share(scene, category)
    return presence_question(category), "Yes." if is_yes else "No."


def quiz(scene: Scene, rng: random.Random, *, turns: int, is_faulty: bool) -> list[Turn]:
    """Several questions about one picture, most of them yes/no."""
    lesson: list[Turn] = []
    for _ in range(turns):
        kind = rng.random()
        if kind < 0.6:
            lesson.append(presence_turn(scene, rng, is_faulty=is_faulty))
        elif kind < 0.65:
            place = rng.choice(PLACES)
            lesson.append((f"What is at the {place}?", sentence(claim_at(scene, place))))
        else:
            thing = rng.choice(scene.objects)
            lesson.append((f"Where is the {thing.category}?", sentence(claim_of(thing))))
    return lesson
