"""CHAIR: which of the objects that a description names are not in the image. No judge is asked.

An object is named by any of its words in the file of synonyms, or a regular plural of it; longer
terms win ("hot dog" is no dog). Every mention counts, so an object that is named twice counts
twice. The original reads words with a parser of its own, so close numbers may differ in the last
digits.
"""

from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally
from hadpo.config import STRICT, AtLeastOne
from hadpo.data import Sources
from hadpo.data import chair as data
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput, Question
from hadpo.text import forms, longest_terms, word_count, words

__all__ = ["MEASURES", "READINGS", "WHOLE", "Lexicon", "questions", "resources", "tally"]

WHOLE = data.SPLIT
FILES = {"chair_synonyms": ("CHAIR synonyms", ("",))}
READINGS = {"": "synonyms"}
BARS = {
    "chair_i": "invented mentions (CHAIR-i)",
    "chair_s": "answers with one (CHAIR-s)",
    "object_recall": "objects named, of those there",
}
MEASURES = (
    Measure("chair_i", "CHAIR: mentions of absent objects", better="lower"),
    Measure("chair_s", "CHAIR: answers with one", better="lower"),
    Measure("chair_sentence", "CHAIR: sentences with one", better="lower", is_headline=False),
    Measure("object_recall", "true objects named", better="higher"),
    Measure("words_per_answer", "words per answer", "number"),
    Measure("mentions_per_answer", "mentions per answer", "number", is_headline=False),
    Measure("tokens_per_answer", "tokens per answer", "number", is_headline=False),
    Measure("unfinished_ratio", "unfinished ratio", is_headline=False),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    chair_synonyms: str = ""  # file of CHAIR's synonyms; with it, COCO's photos are described


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How descriptions are generated."""

    chair_beams: AtLeastOne = 1  # 1: greedy
    chair_max_new_tokens: AtLeastOne = 512  # a description


def questions(sources: Sources) -> list[Question]:
    """A description of every photo of COCO whose objects are known."""
    return data.questions(sources.photos) if sources.data.chair_synonyms else []


def vocabulary(sources: Sources) -> dict[str, dict[str, str]]:
    """The synonyms, for vocabulary.json."""
    if not sources.data.chair_synonyms:
        return {}
    path = sources.note(sources.resolve(sources.data.chair_synonyms))
    return {"synonyms": data.synonyms(path, sources.report)}


class Lexicon:
    """Words -> objects."""

    def __init__(self, synonyms: Mapping[str, str]) -> None:
        """Learn the words of a file of synonyms, and their regular plurals."""
        self._terms: dict[tuple[str, ...], str] = {}
        for term, name in synonyms.items():
            for form in forms(term):
                self._terms.setdefault(tuple(words(form)), name)
        for term, name in synonyms.items():  # "glasses" is a word of its own before it is a plural
            self._terms[tuple(words(term))] = name
        self._terms.pop((), None)
        self._longest = max(map(len, self._terms), default=0)

    def mentions(self, text: str) -> list[str]:
        """The objects that a text names, in order, once for each time."""
        return longest_terms(words(text), self._terms, longest=self._longest)


def resources(vocabulary: Vocabulary, settings: Any) -> Lexicon:
    """The lexicon of the synonyms; BadInput if there are none."""
    if not vocabulary.synonyms:
        raise BadInput("CHAIR needs data.chair_synonyms, a file of objects and their synonyms")
    return Lexicon(vocabulary.synonyms)


def tally(answer: Answer, known: Known) -> Tally:
    """What one description adds to the sums.

    chair_i: mentions whose object is not in the image, of all; chair_s: answers with at least one
    such mention; chair_sentence: sentences with one (split at periods, as SHR does).

    Raises:
        BadInput: no objects are known of the image.
    """
    lexicon: Lexicon = known.resources
    if known.evidence is None or not known.evidence.objects:
        raise BadInput(f"no objects are known of image {answer.image_id}: CHAIR needs all of them")
    present = {name for each in known.evidence.objects for name in lexicon.mentions(each)}
    lines = [lexicon.mentions(line) for line in answer.text.split(".") if line.strip()]
    mentions = [name for line in lines for name in line]
    wrong = [name for name in mentions if name not in present]
    return {
        "chair_i": (len(wrong), len(mentions)),
        "chair_s": (bool(wrong), 1),
        "chair_sentence": (sum(bool(set(line) - present) for line in lines), len(lines)),
        "object_recall": (len(present & set(mentions)), len(present)),
        "mentions_per_answer": (len(mentions), 1),
        "words_per_answer": (word_count(answer.text), 1),
        "tokens_per_answer": (answer.tokens, 1),
        "unfinished_ratio": (answer.finish == "length", 1),
    }
