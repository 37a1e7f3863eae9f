"""What the annotations of an image say: objects, scenes, empty places, and true sentences."""

import re
from dataclasses import dataclass

from hadpo.judges.oracle.vocabulary import Attribute, Mention, Reading, Vocabulary
from hadpo.records import Evidence
from hadpo.text import words


@dataclass(frozen=True)
class World:
    """What the evidence of one image says, in known words."""

    mentions: tuple[Mention, ...]
    scenes: frozenset[str]
    empty: tuple[frozenset[Attribute], ...]  # attributes (places) of which nothing has them
    lines: frozenset[tuple[str, ...]]  # the words of each phrase and fact

    @property
    def names(self) -> set[str]:
        """Objects that are in the image."""
        return {mention.name for mention in self.mentions}


def read_world(evidence: Evidence, known: Vocabulary) -> World:
    """Read the regions, facts and object names of an image."""
    texts = [*(region.phrase for region in evidence.regions), *evidence.facts]
    readings = [known.read(text) for text in texts]
    mentions = [m for r in readings if not r.denies for m in r.mentions]
    named = {mention.name for mention in mentions}
    for name in evidence.objects:  # known to be there, nothing known about them
        mentions += [m for m in known.read(name).mentions if m.name not in named]
    return World(
        mentions=tuple(mentions),
        scenes=frozenset(scene for r in readings if not r.denies for scene in r.scenes),
        empty=tuple(r.loose for r in readings if r.is_empty and r.loose),
        lines=frozenset(tuple(words(text)) for text in texts),
    )


@dataclass(frozen=True)
class Truth:
    """A true sentence about an image, and what it says."""

    text: str  # with its period
    reading: Reading


def true_sentences(evidence: Evidence, known: Vocabulary) -> list[Truth]:
    """What may truly be said of an image: a sentence per region with a known object, then facts.

    Regions become sentences by the vocabulary's template for objects ("The {place} shows
    {phrase}.", a word in braces being a group of attributes, or the phrase without them), else
    "There is ...". Facts without any known word are left out: they say something about the
    annotation, not the image.
    """
    found: list[Truth] = []
    for region in evidence.regions:
        reading = known.read(region.phrase)
        if reading.mentions and not reading.denies:
            found.append(Truth(_sentence(region.phrase, reading, known), reading))
    for fact in evidence.facts:
        reading = known.read(fact)
        if reading.mentions or reading.scenes or reading.loose:
            found.append(Truth(fact.strip().rstrip(".") + ".", reading))
    return found


def _sentence(phrase: str, reading: Reading, known: Vocabulary) -> str:
    template = known.sentences.get("object", "")
    values = dict(reading.mentions[-1].attributes)
    wanted = {name for name in re.findall(r"\{(\w+)\}", template) if name != "phrase"}
    if not template or not wanted <= values.keys():
        return f"There is {phrase.strip().rstrip('.')}."
    for group in wanted:  # "a red cup at the top left" -> "a red cup"
        phrase = re.sub(rf"\s+(?:at|in|on)\s+the\s+{re.escape(values[group])}$", "", phrase)
    return template.format(phrase=phrase, **{group: values[group] for group in wanted})
