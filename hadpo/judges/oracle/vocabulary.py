"""The words that the oracle knows, sentences read as mentions of them, and what images hold."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hadpo.records import Evidence, parse
from hadpo.text import forms, longest_terms, words

_DENIALS = {"no", "not", "nobody", "nothing", "none", "never", "without", "neither"}
_EMPTY = {"empty", "nothing"}
# Words that say nothing about what is in a picture; only for vocabularies taken from the evidence.
_FUNCTION_WORDS = frozenset(
    words(
        "a an and are as at be behind below beside between both by each exactly few for from "
        "has have her his in into is it its least left many more near next of off on one or "
        "other out over picture right scene several she side small some that the their them "
        "there they this three to two under up very which while with"
    )
)

Attribute = tuple[str, str]  # group and value: ("colour", "red")


@dataclass(frozen=True)
class Mention:
    """An object that a text speaks of, with what it says about it."""

    name: str
    attributes: frozenset[Attribute] = frozenset()

    def values(self, group: str) -> set[str]:
        """What is said about one group of attributes, for instance the colours."""
        return {value for each, value in self.attributes if each == group}

    def contradicted_by(self, known: "Mention") -> set[Attribute]:
        """What is said that does not fit what is known of an object."""
        return {
            (group, value)
            for group, value in self.attributes
            if known.values(group) and value not in known.values(group)
        }


@dataclass(frozen=True)
class Reading:
    """What a sentence says in known words."""

    mentions: tuple[Mention, ...]
    scenes: frozenset[str]
    loose: frozenset[Attribute]  # attributes where no object is named: "the top right is empty"
    denies: bool
    is_empty: bool

    @property
    def names(self) -> set[str]:
        """Objects that the sentence says are there."""
        return set() if self.denies else {m.name for m in self.mentions}


@dataclass(frozen=True)
class Vocabulary:
    """The words that the oracle knows; the format of vocabulary.json.

    `sentences` holds templates of the describer's own sentences, if it has any; only the writing of
    corrected sentences uses them. `synonyms` are CHAIR's, `lexicons` those of other benchmarks; the
    oracle reads without them.
    """

    objects: tuple[str, ...] = ()
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scenes: tuple[str, ...] = ()
    sentences: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)  # word -> the object that it means
    lexicons: Mapping[str, Any] = field(default_factory=dict)  # words of a benchmark, by its name

    @cached_property
    def places(self) -> frozenset[str]:
        """Groups of attributes that name a place: those of "The {place} is empty."."""
        template = self.sentences.get("empty", "")
        return frozenset(group for group in self.attributes if "{" + group + "}" in template)

    @cached_property
    def _terms(self) -> dict[tuple[str, ...], tuple[str, str]]:
        """Words in a row -> kind ("object", "scene" or a group of attributes) and name."""
        found = {tuple(words(form)): ("object", n) for n in self.objects for form in forms(n)}
        found |= {tuple(words(name)): ("scene", name) for name in self.scenes}
        for group, values in self.attributes.items():
            found |= {tuple(words(value)): (group, value) for value in values}
        return {term: meaning for term, meaning in found.items() if term}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._terms), default=0)

    def read(self, sentence: str) -> Reading:
        """The known words of a sentence; longer terms win ("top left" over "left").

        An attribute belongs to the next object that is named after it, or to the last one.
        """
        said = words(sentence)
        order = longest_terms(said, self._terms, longest=self._longest)
        mentions, waiting = _attach(order, self.attributes)
        denies = any(word in _DENIALS or word.endswith("n't") for word in said)
        return Reading(
            mentions=tuple(mentions),
            scenes=frozenset(name for kind, name in order if kind == "scene"),
            loose=frozenset(waiting),
            denies=denies,
            is_empty=bool(_EMPTY & set(said)),
        )


def _attach(
    order: Sequence[tuple[str, str]], groups: Iterable[str]
) -> tuple[list[Mention], list[Attribute]]:
    mentions: list[Mention] = []
    waiting: list[Attribute] = []
    for kind, name in order:
        if kind == "object":
            mentions.append(Mention(name, frozenset(waiting)))
            waiting = []
        elif kind in groups:
            waiting.append((kind, name))
    if mentions and waiting:
        last = mentions.pop()
        mentions.append(Mention(last.name, last.attributes | frozenset(waiting)))
        waiting = []
    return mentions, waiting


def from_json(value: Mapping[str, Any], *, where: Path | str = "vocabulary") -> Vocabulary:
    """The vocabulary of decoded JSON; BadInput: an unknown key, or lists that hold no words."""
    return parse(value, Vocabulary, where=str(where))


def from_evidence(evidence: Iterable[Evidence]) -> dict[str, Any]:
    """A vocabulary (as JSON) of all words of the evidence, for data sets that bring none.

    Every word that carries meaning counts as an object, so a claim is wrong if it uses a word that
    the annotations of other images know and those of its own image lack. Rough, and only as good as
    that.
    """
    found: set[str] = set()
    for each in evidence:
        found |= set(each.objects)
        for line in (*(region.phrase for region in each.regions), *each.facts):
            found |= {word for word in words(line) if not word.isdigit()}
    known = sorted(name for name in found if name not in _FUNCTION_WORDS | _DENIALS | _EMPTY)
    return {"objects": known, "attributes": {}, "scenes": []}


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
