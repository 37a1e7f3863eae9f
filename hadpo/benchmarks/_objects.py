"""Texts read as the objects that they name, as CHAIR, Object HalBench and AMBER read them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import groupby
from typing import Any, Literal, NamedTuple

from hadpo.benchmarks._english import (
    Words,
    WordsName,
    lemmas,
    load,
    singular,
    spacy_model,
    table,
    tagged,
)
from hadpo.records import BadInput, Evidence
from hadpo.text import forms, longest_terms, words

# Two words that are one. Source: CHAIR's utils/chair.py; `eval_gpt_obj_halbench.py` has the same.
DOUBLE_WORDS: dict[str, str] = table("words_double.json")


def join(
    words: Sequence[str], double: Mapping[str, str] = DOUBLE_WORDS
) -> list[tuple[int, str, bool]]:
    """Words with double ones joined: place of each first word, what is said, if it is double."""
    found, at = [], 0
    while at < len(words):
        pair = " ".join(words[at : at + 2])
        is_double = at + 1 < len(words) and pair in double
        found.append((at, double[pair] if is_double else words[at], is_double))
        at += 1 + is_double
    return found


def named(words: Sequence[str], synonyms: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Rank, word and object of the words that mean one; with a toilet, "seat" is none of them."""
    left = [word for word in words if word != "seat"] if "toilet" in words else words
    return [(rank, word, synonyms[word]) for rank, word in enumerate(left) if word in synonyms]


class Lexicon:
    """Words -> objects, without nltk: regular plurals, double words, the longest term wins."""

    def __init__(self, synonyms: Mapping[str, str]) -> None:
        """Learn the words of a file of synonyms, and their regular plurals."""
        names = {" ".join(words(term)): name for term, name in synonyms.items()}
        said = {term: (term, name) for term, name in names.items()}
        said |= {term: (word, names.get(word, "")) for term, word in DOUBLE_WORDS.items()}
        said |= {"seat": ("seat", names.get("seat", ""))}
        self._terms: dict[tuple[str, ...], tuple[str, str]] = {}
        for term, meaning in said.items():
            for form in forms(term):
                self._terms.setdefault(tuple(words(form)), meaning)
        for term, meaning in said.items():  # "glasses" is a word before it is a plural
            self._terms[tuple(words(term))] = meaning
        self._terms.pop((), None)
        self._longest = max(map(len, self._terms), default=0)

    def mentions(self, text: str) -> list[str]:
        """The objects that a text names, in order, once for each time."""
        said = longest_terms(words(text), self._terms, longest=self._longest)
        has_toilet = any(word == "toilet" for word, _ in said)
        return [name for word, name in said if name and not (has_toilet and word == "seat")]


class Mentions(NamedTuple):
    """The objects that one text names: `words` as they stand there, `nodes` as they are called.

    `places` are the original's, which shift if a toilet's seat was dropped; `said` are all words.
    """

    words: list[str]
    nodes: list[str]
    places: list[int]
    said: list[str]


@dataclass(frozen=True)
class Reader:
    """Texts read as CHAIR's script or its port reads them, and what is in photos."""

    synonyms: Mapping[str, str]  # words as the file has them
    english: Words
    reading: Literal["original", "lemmatizer"]
    _photos: dict[str, set[str]] = field(default_factory=dict)  # what is in them, by image id

    def read(self, text: str) -> Mentions:
        """The objects that a text names, in order, once for each time."""
        low = text.lower()
        if self.reading == "original":
            joined = join([singular(token) for token in self.english.tokens(low)])
        else:
            joined = join(lemmas(self.english, low))
        said = [word for _, word, _ in joined]
        found = named(said, self.synonyms)
        return Mentions(
            words=[word for _, word, _ in found],
            nodes=[node for _, _, node in found],
            places=[joined[rank][0] for rank, _, _ in found],
            said=said,
        )

    def present(self, known: Evidence) -> set[str]:
        """What is in a photo: its instances, and all that its captions name.

        Raises:
            BadInput: nothing is known of captions, or an instance is of no known object.
        """
        if known.image_id not in self._photos:
            other = [name for name in known.objects if name not in self.synonyms]
            if other or (known.objects and not known.facts):
                why = f"the synonyms lack {other[0]}" if other else "it has no captions"
                raise BadInput(
                    f"image {known.image_id}: {why}; CHAIR needs COCO's instances and captions: "
                    "set data.chair_annotations, or evaluate.chair_reading: plain"
                )
            found = {self.synonyms[name] for name in known.objects}
            found.update(node for text in known.facts for node in self.read(text).nodes)
            self._photos[known.image_id] = found
        return self._photos[known.image_id]


@dataclass(frozen=True)
class PhraseReader:
    """Phrases and captions read as Object HalBench reads them."""

    synonyms: Mapping[str, str]
    english: Words
    parse: Callable[[str], Iterable[tuple[str, str]]]  # a phrase -> lemma and tag of each token

    @classmethod
    def load(cls, synonyms: Mapping[str, str], name: WordsName, parser: str) -> "PhraseReader":
        """The reader; no `parser`, a model of spaCy: phrases are read as captions are.

        Raises:
            BadInput: nltk or spaCy is not there.
        """
        english, doc = load(name), spacy_model(parser) if parser else None

        def parse(text: str) -> list[tuple[str, str]]:
            if doc is not None:
                return [(token.lemma_, token.tag_) for token in doc(text)]
            return [(english.lemma(token), tag) for token, tag in tagged(english, text)]

        return cls(synonyms, english, cache(parse))

    @cached_property
    def _double(self) -> dict[str, str]:
        return {**{word: word for word in self.synonyms if " " in word}, **DOUBLE_WORDS}

    def objects(self, phrases: Sequence[str]) -> list[str]:
        """What phrases name, each once: their double words, else their nouns."""
        found: dict[str, None] = {}
        for phrase in phrases:
            tokens = [*self.parse(f"a {phrase}")]
            joined = join([lemma for lemma, _ in tokens], self._double)
            double = [word for _, word, is_double in joined if is_double]
            runs = groupby(tokens, key=lambda token: token[1] in ("NN", "NNS", "NNP", "NNPS"))
            nouns = [" ".join(lemma for lemma, _ in run) for is_noun, run in runs if is_noun]
            found |= dict.fromkeys(double or nouns)
        return [*found]

    def present(self, known: Evidence) -> set[str]:
        """What is in a photo: its instances, and all that its captions name."""
        found = {self.synonyms.get(name, name) for name in known.objects}
        for text in known.facts:
            nouns = [self.english.lemma(token) for token in self.english.tokens(text.lower())]
            said = [word for _, word, _ in join(nouns, self._double)]
            found |= {node for _, _, node in named(said, self.synonyms)}
        return found


class Found(NamedTuple):
    """What a description says, noun by noun, and which objects that marks."""

    kept: list[str]  # the nouns that AMBER knows
    invented: list[bool]  # of these
    covered: list[bool]  # of the objects that are there
    cognitive: list[bool]  # of the objects that people expect

    def counts(self) -> dict[str, int]:
        """What one photo's description adds to AMBER's sums."""
        return {
            "invented": sum(self.invented),
            "kept": len(self.kept),
            "covered": sum(self.covered),
            "objects": len(self.covered),
            "cognitive": sum(self.cognitive),
            "expected": len(self.cognitive),
            "photos": 1,
            "clean_photos": not any(self.invented),
        }


NOUN_COUNTS = (*Found([], [], [], []).counts(),)  # their names


@dataclass(frozen=True)
class NounReader:
    """Descriptions read as AMBER's script reads them."""

    english: Words
    relation: Mapping[str, Sequence[str]]  # an object -> associated words
    safe: Sequence[str]
    similarity: Callable[[str, str], float]

    @classmethod
    def load(cls, words: Mapping[str, Any] | None, name: WordsName, vectors: str) -> "NounReader":
        """The reader with AMBER's words; no `vectors`: only equal words are near.

        Raises:
            BadInput: the run's vocabulary has no words of AMBER, or nltk or spaCy is not there.
        """
        if words is None:
            raise BadInput(
                "AMBER's descriptions need its words: run prepare again, with data.amber"
            )
        near = spacy_model(vectors) if vectors else None

        def similarity(one: str, other: str) -> float:
            return float(one == other) if near is None else near(one).similarity(near(other))

        return cls(load(name), words["relation"], words["safe"], cache(similarity))

    def read(self, text: str, truth: Sequence[str], hallu: Sequence[str]) -> Found:
        """The nouns of a text, held against objects that are there, and that are expected."""
        tokens = tagged(self.english, text)
        nouns = [self.english.lemma(token) for token, tag in tokens if tag.startswith("NN")]
        known = {*self.relation, *(word for words in self.relation.values() for word in words)}
        found = Found(
            [n for n in nouns if n in known], [], [False] * len(truth), [False] * len(hallu)
        )
        there, expected = self._associated(truth), self._associated(hallu)
        for noun in found.kept:
            is_same, is_near = partial(str.__eq__, noun), partial(self._is_near, noun)
            is_there = noun in self.safe or _mark_first(there, found.covered, is_same)
            if not is_there:
                _mark_first(expected, found.cognitive, is_same)
                _mark_first(expected, found.cognitive, is_near)
                is_there = _mark_first(there, found.covered, is_near)
            found.invented.append(not is_there)
        return found

    def _associated(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """All words for some objects, each with the place of its object; the objects come last."""
        near = [(w, at) for at, name in enumerate(objects) for w in self.relation.get(name, ())]
        return [*near, *((name, at) for at, name in enumerate(objects))]

    def _is_near(self, noun: str, word: str) -> bool:
        return self.similarity(noun, word) > 0.8  # similarity_score of the script


def _mark_first(
    words: Iterable[tuple[str, int]], marks: list[bool], fits: Callable[[str], bool]
) -> bool:
    """Mark the object of the first word that fits; whether there is one."""
    at = next((at for word, at in words if fits(word)), None)
    if at is not None:
        marks[at] = True
    return at is not None


def official_list(reply: str) -> list[str] | None:
    """The JSON of a reply, or of its last line if it has a list's beginning; None: ask again."""
    lines = [reply, *(reply.strip().split("\n")[-1:] if '["' in reply else ())]
    return next((found for found in map(_texts, lines) if found is not None), None)


def tolerant_list(reply: str) -> list[str] | None:
    """As official, else the only JSON list of texts in a reply."""
    lists = [_texts(each) for each in re.findall(r"\[[^\[\]]*\]", reply)]
    known = [each for each in lists if each is not None]
    found = official_list(reply)
    return known[0] if found is None and len(known) == 1 else found


def _texts(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    is_list = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return value if is_list else None
