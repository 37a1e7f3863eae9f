"""Instructions from annotations alone: offline, free and always right, for the mini world.

It knows what the vocabulary knows: objects and the groups of their attributes.
"""

import random
from collections.abc import Iterable, Iterator

from hadpo.instructions.generate import SOURCE
from hadpo.judges.oracle.vocabulary import Mention, Vocabulary, read_world, true_sentences
from hadpo.records import Evidence, Instruction
from hadpo.text import article

PER_KIND = 2  # of each image
NEGATIVE = "negative"


def instructions(
    images: Iterable[Evidence], known: Vocabulary, *, seed: int
) -> Iterator[Instruction]:
    """Of each image: positive ones, and negative ones of both sorts, as many as can be made."""
    for evidence in images:
        draw = random.Random(f"{seed}/instructions/{evidence.image_id}")
        world = read_world(evidence, known)
        absent = sorted(set(known.objects) - world.names)
        made = _positive(evidence, world.mentions, known, draw)
        for name in draw.sample(absent, min(PER_KIND, len(absent))) if world.names else []:
            ask = draw.choice((f"Describe the {name}.", f"Where is the {name}?"))
            made.append((ask, f"There is no {name} in the image.", NEGATIVE))
            # As often as for objects that are there: else "Is there" alone would tell the answer.
            made.append((f"Is there {article(name)} {name} in the image?", "No.", NEGATIVE))
        made += _wrong(world.mentions, known, draw)
        for number, (ask, answer, task) in enumerate(made):
            yield Instruction(
                instruction_id=f"oracle-{evidence.image_id}-{number}",
                image_id=evidence.image_id,
                image=evidence.image,
                instruction=ask,
                answer=answer,
                kind="negative" if task == NEGATIVE else "positive",
                source=SOURCE,
                task=task,
            )


def _positive(
    evidence: Evidence, mentions: Iterable[Mention], known: Vocabulary, draw: random.Random
) -> list[tuple[str, str, str]]:
    truths = [truth.text for truth in true_sentences(evidence, known)]
    made = []
    if truths:
        text = " ".join(draw.sample(truths, min(3, len(truths))))
        made.append(("What does the image show?", text, "image captioning"))
    named = list({m.name: m for m in mentions}.values())
    for mention in draw.sample(named, min(PER_KIND, len(named))):
        thing = f"{article(mention.name)} {mention.name}"
        made.append((f"Is there {thing} in the image?", "Yes.", "visual entailment"))
        for group, value in sorted(mention.attributes):
            same = {v for m in mentions if m.name == mention.name for v in m.values(group)}
            if len(same) == 1:  # two cups of two colours: "the cup" is neither
                ask = f"What is the {group} of the {mention.name}?"
                made.append((ask, f"The {mention.name} is {value}.", "object attribute detection"))
    return made


def _wrong(
    mentions: Iterable[Mention], known: Vocabulary, draw: random.Random
) -> list[tuple[str, str, str]]:
    """The right objects with wrong attributes; never one that another object of the name has."""
    mentions, made = list(mentions), []
    for mention in draw.sample(mentions, len(mentions)):
        for group, value in sorted(mention.attributes):
            same = {v for m in mentions if m.name == mention.name for v in m.values(group)}
            others = sorted(set(known.attributes.get(group, ())) - same)
            if len(same) == 1 and others and len(made) < PER_KIND:
                other = draw.choice(others)
                ask = f"Why is the {mention.name} {other}?"
                answer = f"The {mention.name} is {value}, not {other}."
                made.append((ask, answer, NEGATIVE))
    return made
