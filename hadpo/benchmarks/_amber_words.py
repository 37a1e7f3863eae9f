"""AMBER's descriptions: their nouns, held against what is there and what people expect."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from hadpo.benchmarks import _english, _spacy
from hadpo.benchmarks._english import Words, WordsName
from hadpo.records import BadInput

SIMILAR = 0.8  # similarity_score of the script


@dataclass(frozen=True)
class Found:
    """What a description says, noun by noun, and which objects that marks."""

    nouns: list[str]
    kept: list[str]  # of them, those that AMBER knows
    invented: list[bool]  # of the kept ones
    covered: list[bool]  # of the objects that are there
    cognitive: list[bool]  # of the objects that people expect


@dataclass(frozen=True)
class Reader:
    """Descriptions read as the script reads them."""

    english: Words
    relation: Mapping[str, Sequence[str]]
    safe: Sequence[str]
    similarity: Callable[[str, str], float]

    def read(self, text: str, truth: Sequence[str], hallu: Sequence[str]) -> Found:
        """The nouns of a text, held against objects that are there, and that are expected."""
        tokens = self.english.tokens(text)
        pairs = zip(tokens, self.english.tags(tokens), strict=True)
        nouns = [self.english.lemma(token) for token, tag in pairs if tag.startswith("NN")]
        known = {*self.relation, *(word for words in self.relation.values() for word in words)}
        kept = [noun for noun in nouns if noun in known]
        there, expected = self._associated(truth), self._associated(hallu)
        covered, cognitive = [False] * len(truth), [False] * len(hallu)
        invented = [self._mark(noun, there, expected, covered, cognitive) for noun in kept]
        return Found(nouns, kept, invented, covered, cognitive)

    def _associated(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """All words for some objects, each with the place of its object; the objects come last."""
        near = [(w, at) for at, name in enumerate(objects) for w in self.relation.get(name, ())]
        return [*near, *((name, at) for at, name in enumerate(objects))]

    def _mark(
        self,
        noun: str,
        there: Sequence[tuple[str, int]],
        expected: Sequence[tuple[str, int]],
        covered: list[bool],
        cognitive: list[bool],
    ) -> bool:
        """Whether a noun is invented; marks the objects that it names."""
        if noun in self.safe or _mark_first(there, covered, lambda word: word == noun):
            return False
        near = partial(self._is_near, noun)
        _mark_first(expected, cognitive, lambda word: word == noun)
        _mark_first(expected, cognitive, near)
        return not _mark_first(there, covered, near)

    def _is_near(self, noun: str, word: str) -> bool:
        return self.similarity(noun, word) > SIMILAR


def _mark_first(
    words: Iterable[tuple[str, int]], marks: list[bool], fits: Callable[[str], bool]
) -> bool:
    """Mark the object of the first word that fits; whether there is one."""
    for word, at in words:
        if fits(word):
            marks[at] = True
            return True
    return False


def reader(words: Mapping[str, Any] | None, english: WordsName, vectors: str) -> Reader:
    """The reader of AMBER's words, with a spaCy model's vectors ("": equal words only).

    Raises:
        BadInput: AMBER's words, nltk or spaCy is not there; says how to get it.
    """
    if words is None:
        raise BadInput("AMBER's descriptions need its words: run prepare again, with data.amber")
    near = _spacy.load(vectors) if vectors else None
    similarity = cache(partial(_similarity, near))
    return Reader(_english.load(english), words["relation"], words["safe"], similarity)


def _similarity(near: Callable[[str], Any] | None, one: str, other: str) -> float:
    return float(one == other) if near is None else near(one).similarity(near(other))
