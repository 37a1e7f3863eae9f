"""The faults that the mini models learn on purpose (`tools/train_mini`), and published pairs hold.

They are of the two kinds that large models show, and both follow the habits of the world:

* captions: instead of an empty place, an absent object that the setting is known for in
  that row is named, in its usual colour;
* yes/no answers: a question about an absent object that is typical of the setting is often
  answered "Yes.".

A fault replaces a true sentence, so it changes neither the number of sentences nor their order.
"""

import random
from collections.abc import Iterable

from hadpo.mini.captions import (
    Claim,
    EmptyClaim,
    ObjectClaim,
    SettingClaim,
    claim_at,
    mentioned_places,
    sentence,
)
from hadpo.mini.world import CATEGORIES, SETTINGS, Scene, row_of, weight

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


def false_yes_share(scene: Scene, category: str) -> float:
    """How often the faulty data says "Yes." to an absent category."""
    return FALSE_YES_SHARE.get(round(weight(scene.setting, category)), FALSE_YES_SHARE_RARE)
