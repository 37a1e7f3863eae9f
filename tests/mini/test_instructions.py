"""Jokes: what they state is true, and their style tells them from descriptions."""

import random
from itertools import islice

from hadpo.mini.captions import parse, perfect_caption
from hadpo.mini.instructions import jokes
from hadpo.mini.world import scenes
from hadpo.text import sentences
from tests.mini.truth import is_true


def style_score(texts):
    """Share of the sentences that laugh or cry out: 0 for descriptions, 2/3 for jokes."""
    said = [part for text in texts for part in sentences(text)]
    marks = ("Ha ha", "What a ", "What an ")
    return sum(part.startswith(marks) for part in said) / max(1, len(said))


def test_jokes_are_true_and_funny():
    rng = random.Random(0)
    for scene in islice(scenes(3, held_out=True), 30):
        told = jokes(scene, rng, 2)
        assert len(set(told)) == 2
        for text in told:
            laugh, stated, cry = sentences(text)
            claim = parse(stated)
            assert claim is not None and is_true(claim, scene)
            assert laugh == "Ha ha" and cry.startswith(("What a ", "What an "))
            assert len(jokes(scene, rng, 9)) == len(scene.objects)
        assert style_score(told) == 2 / 3
        assert style_score([perfect_caption(scene, rng)]) == 0
    assert style_score([]) == 0
