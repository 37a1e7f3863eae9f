"""Preference pairs of a mini world as HA-DPO published its own: files that came with the data.

They are made of the ground truth and of the faults of `faults`, without asking any model: of each
train image a true description beside one with the inventions that its setting provokes, and two
questions, one about an object of the image and one about an absent object that faulty lessons say
yes to. Mined pairs hold a model's own mistakes instead; `prepare.pair_source` chooses.
"""

import random
from collections.abc import Mapping
from pathlib import Path

from hadpo.data import hadpo_pairs
from hadpo.mini.captions import DESCRIPTION_QUESTIONS, perfect_caption, presence_question
from hadpo.mini.faults import false_yes_share, faulty_caption
from hadpo.mini.world import CATEGORIES, Scene
from hadpo.records import Pair

SOURCE = "mini"


def write(folder: Path, train: Mapping[int, Scene], seed: int) -> None:
    """Write the pairs into a folder per schema, in the layout of the released files.

    Args:
        folder: gets a folder for each name in `hadpo_pairs.SCHEMAS`.
        train: scenes by image id.
        seed: of the world; the same seed gives the same files.
    """
    made = [pair for key, scene in train.items() for pair in _pairs(key, scene, seed)]
    for schema in hadpo_pairs.SCHEMAS:
        hadpo_pairs.write(made, folder / schema, schema=schema)


def _pairs(key: int, scene: Scene, seed: int) -> list[Pair]:
    """The description pair, where there is something to invent, and two question pairs."""
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
        source=SOURCE,
    )
