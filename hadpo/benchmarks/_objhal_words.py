"""Object HalBench's words: lists, phrases and captions as objects of COCO; what is in photos."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path

from hadpo.benchmarks import _english, _spacy
from hadpo.benchmarks._english import Words, WordsName
from hadpo.benchmarks._objects import DOUBLE_WORDS, without_seats
from hadpo.data import Report, coco
from hadpo.data import objhal as data
from hadpo.records import BadInput, Evidence

NOUNS = ("NN", "NNS", "NNP", "NNPS")


def said(answer: str) -> str:
    """The text that is scored."""
    return answer.replace("Assistant:", "").strip()


def official_list(reply: str) -> list[str] | None:
    """The JSON of a reply, or of its last line if it has a list's beginning; None: ask again."""
    lines = [reply, *(reply.strip().split("\n")[-1:] if '["' in reply else ())]
    return next((found for found in map(_texts, lines) if found is not None), None)


def tolerant_list(reply: str) -> list[str] | None:
    """As official, else the only JSON list of texts in a reply."""
    found = official_list(reply)
    if found is not None:
        return found
    lists = [each for each in map(_texts, re.findall(r"\[[^\[\]]*\]", reply)) if each is not None]
    return lists[0] if len(lists) == 1 else None


def _texts(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    is_list = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return value if is_list else None


@dataclass(frozen=True)
class Reader:
    """Phrases and captions read as objects of COCO."""

    synonyms: Mapping[str, str]
    english: Words
    parse: Callable[[str], Iterable[tuple[str, str]]]  # a phrase -> lemma and tag of each token

    @property
    def double_words(self) -> dict[str, str]:
        """Words with a blank, and what they are joined to."""
        return {**{word: word for word in self.synonyms if " " in word}, **DOUBLE_WORDS}

    def objects(self, phrases: Sequence[str]) -> list[str]:
        """What phrases name, each once: their double words, else their nouns."""
        found: dict[str, None] = {}
        for phrase in phrases:
            tokens = [*self.parse(f"a {phrase}")]
            double = [word for word, is_double in self._join([t[0] for t in tokens]) if is_double]
            runs = groupby(tokens, key=lambda token: token[1] in NOUNS)
            nouns = [" ".join(lemma for lemma, _ in run) for is_noun, run in runs if is_noun]
            found |= dict.fromkeys(double or nouns)
        return [*found]

    def named(self, words: Sequence[str]) -> list[tuple[int, str, str]]:
        """Place, word and object of the words that mean one of COCO's."""
        left = without_seats(words)
        return [(at, w, self.synonyms[w]) for at, w in enumerate(left) if w in self.synonyms]

    def present(self, known: Evidence) -> set[str]:
        """What is in a photo: its instances, and all that its captions name."""
        found = {self.synonyms.get(name, name) for name in known.objects}
        for text in known.facts:
            lemmas = [self.english.lemma(token) for token in self.english.tokens(text.lower())]
            found |= {node for _, _, node in self.named([word for word, _ in self._join(lemmas)])}
        return found

    def _join(self, words: Sequence[str]) -> Iterable[tuple[str, bool]]:
        """The words, double ones joined; and whether they are double."""
        at = 0
        while at < len(words):
            double = (
                self.double_words.get(" ".join(words[at : at + 2]), "") if words[at + 1 :] else ""
            )
            yield double or words[at], bool(double)
            at += 2 if double else 1


def photos_of(
    annotations: Path, photos: Path, ids: Collection[int], report: Report
) -> dict[str, Evidence]:
    """Objects, and captions as facts, of the photos with these numbers.

    Args:
        annotations: folder with COCO's instances and captions of train2014 and val2014.
        photos: folder with train2014 and val2014.
        ids: COCO's numbers.
        report: collects broken records, and photos that the files do not know.

    Raises:
        BadInput: one of the four files is missing, or cannot be read as a whole.
    """
    for name in data.FILES:
        if not (annotations / name).is_file():
            raise BadInput(
                f"{annotations / name}: no such file; Object HalBench's truth is instances and "
                "captions of train2014 and val2014, all four: hadpo fetch coco2014"
            )
    found: dict[str, Evidence] = {}
    for part in data.PARTS:
        known = coco.instances(annotations / f"instances_{part}.json", photos / part, report)
        said = coco.captions(annotations / f"captions_{part}.json", report)
        for name, each in known.items():
            number = int(name.rpartition("_")[2])
            key = f"objhal-{number}"
            if number in ids:
                found[key] = replace(each, image_id=key, facts=said.get(number, ()))
    for number in ids:
        if f"objhal-{number}" not in found:
            report.bad(f"{annotations}: no photo {number} in any file", source="objhal")
    return found


def reader(synonyms: Mapping[str, str], words: WordsName, parser: str) -> Reader:
    """The reader of these synonyms: a spaCy model for phrases ("": as captions are read).

    Raises:
        BadInput: nltk or spaCy is not there; says how to get it.
    """
    english = _english.load(words)
    doc = _spacy.load(parser) if parser else None

    def parse(text: str) -> list[tuple[str, str]]:
        if doc is not None:
            return [(token.lemma_, token.tag_) for token in doc(text)]
        tokens = english.tokens(text)
        return [(english.lemma(t), g) for t, g in zip(tokens, english.tags(tokens), strict=True)]

    return Reader(synonyms, english, cache(parse))
