"""What AMBER's script computes: marks of a description's nouns, and ratios with small numbers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from hadpo.benchmarks import _english, _spacy
from hadpo.benchmarks._english import Words, WordsName
from hadpo.data.amber import SPLITS
from hadpo.measures import Values
from hadpo.records import BadInput

SIMILAR = 0.8  # similarity_score of the script
SMALL = 0.001  # where its denominators begin
TYPES = tuple(dict.fromkeys(SPLITS.values()))[1:]  # of the questions


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


# Ratios: the sums are those of `amber.tally`, by name


def share(over: str, under: str, values: Mapping[str, Values]) -> Values:
    """A ratio with the script's small number, none without a photo."""
    photos = values["photos"]
    return np.where(photos == 0, np.nan, values[over] / (values[under] + SMALL))


def hal(values: Mapping[str, Values]) -> Values:
    """The share of photos described with an invented object."""
    return 1 - share("clean_photos", "photos", values)


def rate(over: str, under: str, prefix: str, values: Mapping[str, Values]) -> Values:
    """A ratio with the small number once, or of Attribute, for its three parts, thrice."""
    counts = {name: np.asarray(values[count_of(name)]) for name in TYPES}
    parts = sum((counts[n] > 0).astype(int) for n in TYPES if n.startswith("attribute/"))
    others = sum(counts[name] for name in TYPES if not name.startswith("attribute/"))
    small = SMALL * np.where((others == 0) & (parts > 1), 3, 1)
    return values[prefix + over] / (values[prefix + under] + small)


def f1(prefix: str, values: Mapping[str, Values]) -> Values:
    """Of precision and recall in percent, to one decimal; Existence has its own small number."""
    rounded = np.vectorize(lambda value: round(float(value), 1), otypes=[float])
    under = "said_no", "true_no"  # precision and recall
    p, r = (rounded(rate("right_no", name, prefix, values) * 100) / 100 for name in under)
    others = sum(np.asarray(values[count_of(n)]) for n in TYPES if n != "existence")
    return 2 * p * r / (p + r + np.where(others > 0, 0.0001, 0.001))


def score(prefix: str, values: Mapping[str, Values]) -> Values:
    """AMBER's score: the mean of 1 - CHAIR and F1; none of descriptions alone."""
    if f"{prefix}answers" not in values:  # descriptions alone
        return np.full_like(values["photos"], np.nan)
    return ((1 - share("invented", "kept", values)) + f1(prefix, values)) / 2


def count_of(kind: str) -> str:
    """The name of the number of answers of a type."""
    return f"answers_{kind.rpartition('/')[2]}"
