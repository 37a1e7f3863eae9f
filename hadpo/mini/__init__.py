"""The mini world and its models: small pictures whose content is known exactly, and tiny VLMs.

`build` writes one world in the official formats of Visual Genome, COCO, POPE, SHR and CC-SBU-Align;
`gallery` draws a few pictures to try a model on.
The bias of the models in `weights/` is injected by us; a mini run teaches, it is not a result.
"""

import random
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from hadpo.mini import draw
from hadpo.mini.captions import DESCRIPTION_QUESTIONS, facts, presence_question
from hadpo.mini.files import build, described_boxes, distinct_scenes
from hadpo.mini.world import CATEGORIES, IMAGE_SIZE_PIXELS, PLACES, Scene, weight
from hadpo.records import Evidence, Region


@dataclass(frozen=True)
class Exhibit:
    """A picture that no model was trained on, what is on it, and what to ask about it."""

    name: str
    image: Image.Image
    evidence: Evidence
    questions: tuple[str, ...]


def gallery(count: int = 12, *, seed: int = 1009) -> list[Exhibit]:
    """Exhibits drawn anew; the same seed gives the same."""
    return [
        _exhibit(f"{scene.setting} {number}", scene)
        for number, scene in enumerate(islice(distinct_scenes(seed), count), start=1)
    ]


def _exhibit(name: str, scene: Scene) -> Exhibit:
    evidence = Evidence(
        image_id=name,
        image="",
        width=IMAGE_SIZE_PIXELS,
        height=IMAGE_SIZE_PIXELS,
        regions=tuple(
            Region(x=x, y=y, width=width, height=height, phrase=phrase)
            for (x, y, width, height), phrase in described_boxes(scene)
        ),
        facts=tuple(facts(scene)),
        objects=scene.categories,
    )
    return Exhibit(name, draw.draw(scene), evidence, _questions(name, scene))


def _questions(name: str, scene: Scene) -> tuple[str, ...]:
    """A description, the three likeliest things that are absent, one that is there, a place.

    What is absent but usual in such a place leads astray: the mini base says yes to it, and large
    models as well.
    """
    absent = [category for category in CATEGORIES if category not in scene.categories]
    absent.sort(key=lambda category: -weight(scene.setting, category))
    asked = [*absent[:3], scene.categories[0]]
    empty = [place for place in PLACES if scene.at(place) is None]
    place = random.Random(name).choice(empty)
    return (
        DESCRIPTION_QUESTIONS[0],
        *(presence_question(category) for category in asked),
        f"What is at the {place}?",
    )
