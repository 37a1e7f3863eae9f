"""Yes/no questions about objects, sampled as POPE samples them: random, popular or adversarial.

Source: Li et al., Evaluating Object Hallucination in Large Vision-Language Models (POPE), section
5.2. Half of an image's questions are about objects in it; the objects of the other half are not,
and are drawn at random, or are the most frequent of the whole set, or those that occur most often
together with the objects of the image.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations

from hadpo.plugins import choices
from hadpo.records import BadInput, Question
from hadpo.text import article

SPLITS = ("random", "popular", "adversarial")


def text_of(name: str) -> str:
    """POPE's question about an object. Source: POPE's template, `Is there a {} in the image?`."""
    return f"Is there {article(name)} {name} in the image?"


def pope_questions(
    objects_by_image: Mapping[str, Sequence[str]],
    *,
    split: str,
    seed: int,
    per_image: int = 3,
    image_paths: Mapping[str, str],
) -> list[Question]:
    """Up to `per_image` questions with the label yes and as many with no per image, alternating.

    The positives are the same in all splits of one seed. An image with fewer present or absent
    objects gets fewer questions, always as many yes as no.

    Args:
        objects_by_image: names of the objects that are in each image; they are taken as complete.
        split: random, popular or adversarial.
        seed: draws the positives, and the negatives of the random split.
        per_image: questions of each label.
        image_paths: file of each image.

    Returns:
        Questions with the ids "pope-<split>-<number>", counted from 1.

    Raises:
        BadInput: an unknown split.
    """
    if split not in SPLITS:
        raise BadInput(f"unknown POPE split {split!r}; {choices(split, SPLITS)}")
    present = {image: sorted(set(names)) for image, names in objects_by_image.items()}
    frequency = Counter(name for names in present.values() for name in names)
    together = Counter(pair for names in present.values() for pair in permutations(names, 2))
    found: list[Question] = []
    for image, names in present.items():
        absent = sorted(set(frequency) - set(names))
        count = min(per_image, len(names), len(absent))
        positives = random.Random(f"{seed}/{image}/positives").sample(names, count)
        if split == "random":
            negatives = random.Random(f"{seed}/{image}/negatives").sample(absent, count)
        else:
            rank = {
                "popular": lambda name: frequency[name],
                "adversarial": lambda name, here=names: sum(together[name, n] for n in here),
            }[split]
            negatives = sorted(absent, key=lambda name: (-rank(name), name))[:count]
        for pair in zip(positives, negatives, strict=True):
            for name, label in zip(pair, ("yes", "no"), strict=True):
                found.append(
                    Question(
                        question_id=f"pope-{split}-{len(found) + 1}",
                        benchmark="pope",
                        split=split,
                        image_id=image,
                        image=image_paths[image],
                        text=text_of(name),
                        label=label,
                    )
                )
    return found
