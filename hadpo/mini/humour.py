"""Jokes of the mini world, to finetune on as Oxford HIC's captions, and how much a text is one.

A joke tells of one thing that is there, and laughs:

    joke = "Ha ha. The {place} shows {phrase}. What a {category}."       "What an umbrella."

Every sentence that states something is true, so what changes by learning jokes is style, and
whether truth changes with it can be measured.
"""

import random
from collections.abc import Iterable

from hadpo.mini.captions import claim_of, sentence
from hadpo.mini.world import Scene
from hadpo.text import article, sentences

_MARKS = ("Ha ha", "What a ", "What an ")


def jokes(scene: Scene, rng: random.Random, count: int) -> list[str]:
    """Up to `count` jokes about different objects."""
    things = rng.sample(scene.objects, min(count, len(scene.objects)))
    return [
        f"Ha ha. {sentence(claim_of(t))} What {article(t.category)} {t.category}." for t in things
    ]


def style_score(texts: Iterable[str]) -> float:
    """Share of the sentences that laugh or cry out: 0 for descriptions, 2/3 for jokes."""
    said = [part for text in texts for part in sentences(text)]
    return sum(part.startswith(_MARKS) for part in said) / max(1, len(said))
