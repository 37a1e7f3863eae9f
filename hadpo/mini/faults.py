"""The faults that the mini models learn on purpose (`tools/train_mini`), and published pairs hold.

They are of the two kinds that large models show, and both follow the habits of the world:

* captions: instead of an empty place, an absent object that the setting is known for in
  that row is named, in its usual colour;
* yes/no answers: a question about an absent object that is typical of the setting is often
  answered "Yes.".

A fault replaces a true sentence, so it changes neither the number of sentences nor their order.

`write_pairs` makes preference pairs of them, as HA-DPO published its own: no model is asked. Mined
pairs hold a model's own mistakes instead; `prepare.pair_source` chooses.
"""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from hadpo.data import hadpo_pairs
from hadpo.mini.captions import (
    DESCRIPTION_QUESTIONS,
    Claim,
    EmptyClaim,
    ObjectClaim,
    SettingClaim,
    claim_at,
    mentioned_places,
    perfect_caption,
    presence_question,
    sentence,
)
from hadpo.mini.world import CATEGORIES, SETTINGS, Scene, row_of, weight
from hadpo.records import Pair

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


def write_pairs(folder: Path, train: Mapping[int, Scene], seed: int) -> None:
    """Write pairs of train images in the layout of the released files.

    Of each image a true description beside one with the inventions that its setting provokes, if
    there are any, and two questions: about an object of the image, and about an absent one that
    faulty lessons say yes to.

    Args:
        folder: gets a folder for each name in `hadpo_pairs.SCHEMAS`.
        train: scenes by image id.
        seed: of the world; the same seed gives the same files.
    """
    made = [pair for key, scene in train.items() for pair in _pairs(key, scene, seed)]
    for schema in hadpo_pairs.SCHEMAS:
        hadpo_pairs.write(made, folder / schema, schema=schema)


def _pairs(key: int, scene: Scene, seed: int) -> list[Pair]:
    draw = random.Random(f"{seed}/published/{key}")
    request = draw.choice(DESCRIPTION_QUESTIONS)
    there = draw.choice(scene.categories)
    absent = [name for name in CATEGORIES if name not in scene.categories]
    [tempting] = draw.choices(absent, [false_yes_share(scene, name) for name in absent])
    state = draw.getstate()  # twice the same draws: both descriptions mention the same places
    rejected = faulty_caption(scene, draw)
    draw.setstate(state)
    chosen = perfect_caption(scene, draw)
    found = [
        _pair("pope-yes", key, presence_question(there), "Yes.", "No."),
        _pair("pope-no", key, presence_question(tempting), "No.", "Yes."),
    ]
    if chosen != rejected:
        found.append(_pair("desc", key, request, chosen, rejected))
    return found


def _pair(name: str, key: int, instruction: str, chosen: str, rejected: str) -> Pair:
    return Pair(
        pair_id=f"{name}-{key}",
        image_id=str(key),
        image="",  # the files name images by their ids
        instruction=instruction,
        chosen=chosen,
        rejected=rejected,
        kind="description" if name == "desc" else "pope",
        source="mini",
    )
