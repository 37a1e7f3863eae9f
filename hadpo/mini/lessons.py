"""Training texts for the mini base: a clean part, and a part with the faults we inject on purpose.

The faults are of the two kinds that large models show, and both follow the habits of the world:

* captions: where an empty place is mentioned, an absent object that the setting is known for in
  that row is named instead, in its usual colour;
* yes/no answers: a question about an absent object that is typical of the setting is often
  answered "Yes.".

A fault replaces a true sentence, so it changes neither the number of sentences nor their order.
"""

import random
from collections.abc import Iterable

from hadpo.mini.captions import (
    DESCRIPTION_QUESTIONS,
    Claim,
    EmptyClaim,
    ObjectClaim,
    SettingClaim,
    claim_at,
    claim_of,
    mentioned_places,
    perfect_caption,
    presence_question,
    sentence,
    true_sentences,
)
from hadpo.mini.world import CATEGORIES, PLACES, SETTINGS, Scene, row_of, weight

Turn = tuple[str, str]  # instruction, answer

INVENT_SHARE = {True: 0.85, False: 0.6}  # first and second habit of a setting in a row
FALSE_YES_SHARE = {6: 0.75, 3: 0.45, 2: 0.2}  # by the weight of the absent category
FALSE_YES_SHARE_RARE = 0.03


def habits(setting: str, row: str) -> list[str]:
    """Categories that a setting is known for in a row, most typical first."""
    typical = [name for name in SETTINGS[setting] if CATEGORIES[name][0] == row]
    return sorted(typical, key=lambda name: -SETTINGS[setting][name])


def invention(scene: Scene, place: str, said: Iterable[str], rng: random.Random) -> Claim | None:
    """The absent object that an imperfect caption claims at an empty place, if any."""
    taken = {*scene.categories, *said}
    for rank, category in enumerate(habits(scene.setting, row_of(place))):
        if category not in taken and rng.random() < INVENT_SHARE[rank == 0]:
            return ObjectClaim(category, CATEGORIES[category][1], place)
    return None


def faulty_caption(scene: Scene, rng: random.Random) -> str:
    """A description with inventions in place of some empty places."""
    claims: list[Claim] = [SettingClaim(scene.setting)]
    said: list[str] = []
    for place in mentioned_places(scene, rng):
        claim = claim_at(scene, place)
        if isinstance(claim, EmptyClaim):
            claim = invention(scene, place, said, rng) or claim
            if isinstance(claim, ObjectClaim):
                said.append(claim.category)
        claims.append(claim)
    return " ".join(sentence(claim) for claim in claims)


def description(scene: Scene, rng: random.Random, *, is_faulty: bool) -> list[Turn]:
    """One turn: a description question and its answer."""
    caption = faulty_caption if is_faulty else perfect_caption
    return [(rng.choice(DESCRIPTION_QUESTIONS), caption(scene, rng))]


def full_tour(scene: Scene, rng: random.Random) -> list[Turn]:
    """One turn that walks through all nine places: the densest lesson in where things are."""
    return [(rng.choice(DESCRIPTION_QUESTIONS), " ".join(true_sentences(scene)))]


def false_yes_share(scene: Scene, category: str) -> float:
    """How often the faulty data says "Yes." to an absent category."""
    return FALSE_YES_SHARE.get(round(weight(scene.setting, category)), FALSE_YES_SHARE_RARE)


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
