"""Where inventions come from: what stands together in the world, and what the model invents."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hadpo.classroom.evidence import known_images, oracle_of, own_descriptions
from hadpo.figures import Figure, heat_maps
from hadpo.runs import Run
from hadpo.text import sentences


@dataclass(frozen=True, eq=False)
class Habits:
    """Shares of images by scene and object: where it is, and where it is absent but said."""

    scenes: list[str]
    objects: list[str]
    present: np.ndarray  # scenes x objects: share of the scene's images that have the object
    invented: np.ndarray  # ... share of its images without the object whose description has it
    is_mini: bool

    def most_invented(self, scene: str) -> str:
        """The object that the model most often invents in a scene."""
        return self.objects[int(self.invented[self.scenes.index(scene)].argmax())]

    def correlation(self) -> float:
        """Between how usual an object is and how often it is invented."""
        return float(np.corrcoef(self.present.ravel(), self.invented.ravel())[0, 1])

    def figure(self) -> Figure:
        """Both matrices side by side."""
        return heat_maps(
            {
                "is there: share of the scene's pictures": self.present,
                "is invented: share of those without it": self.invented,
            },
            rows=self.scenes,
            columns=self.objects,
            title="The model invents what is usual in such a scene: correlation "
            f"{self.correlation():.2f}.",
            is_mini=self.is_mini,
        )


def habits(prepare: Run) -> Habits:
    """Counted over the images that the model described for the pairs of a mini run."""
    known, judge = known_images(prepare), oracle_of(prepare)
    objects = list(judge.vocabulary.objects)
    scenes = list(judge.vocabulary.scenes)
    images: Counter[str] = Counter()
    present: Counter[tuple[str, str]] = Counter()
    invented: Counter[tuple[str, str]] = Counter()
    for answer in own_descriptions(prepare):
        there = judge.world(known[answer.image_id])
        (scene,) = there.scenes
        images[scene] += 1
        said = {name for s in sentences(answer.text) for name in judge.vocabulary.read(s).names}
        present.update((scene, name) for name in there.names)
        invented.update((scene, name) for name in said - there.names)
    have = np.array([[present[s, o] for o in objects] for s in scenes], dtype=float)
    count = np.array([[images[s]] for s in scenes], dtype=float)
    lies = np.array([[invented[s, o] for o in objects] for s in scenes], dtype=float)
    return Habits(
        scenes,
        objects,
        have / np.maximum(count, 1),
        lies / np.maximum(count - have, 1),
        prepare.is_mini,
    )
