"""AMBER: objects in descriptions, and yes/no questions by type; no judge is asked.

Descriptions: CHAIR, Cover (objects of the photo that are named), Hal (answers with an invented
object), Cog (objects that people expect and that are named although they are not there). Questions:
"No" is the positive class. Small numbers in the denominators, and F1 of rounded rates, are the
original's. Answers are read by their first word, and, as official, only if they are nothing else.
Source: junyangwang0410/AMBER inference.py at 534babf.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Annotated, Any

import numpy as np
from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Form, Known, Measure, Tally, _english
from hadpo.benchmarks._english import WordsName
from hadpo.benchmarks._objects import NOUN_COUNTS, NounReader
from hadpo.config import STRICT, AtLeastOne, When
from hadpo.data import Sources
from hadpo.data import amber as data
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.measures import Values
from hadpo.records import Answer, Question
from hadpo.text import word_count, yes_no_strict

WHOLE = "all"
FILES = {"amber": ("AMBER", data.FILES), "amber_images": ("AMBER photos", ("",))}
LISTED = ((WHOLE, "chair"), (WHOLE, "cover"), (WHOLE, "f1"), (WHOLE, "amber_score"))
BARS = {"chair": "invented mentions", "hal": "answers with one", "cog": "expected and not there"}
FORMS = (
    Form("AMBER's", '{"id": 1, "response": "A dog."}', ("response",), needs=("id",), id=("id",)),
)
SHOWN = ("amber_vectors", "amber_words")  # settings that stand beside every number
READ_AS = {"": "first word", "official_": "exactly Yes or No"}
TYPES = tuple(dict.fromkeys(data.SPLITS.values()))[1:]  # of the questions
_COUNTS = {kind: f"answers_{kind.rpartition('/')[2]}" for kind in TYPES}
_SUMS = ("right", "answers", "right_no", "said_no", "true_no")
_RATES = {  # numerator and denominator of each
    "accuracy": ("right", "answers"),
    "precision": ("right_no", "said_no"),
    "recall": ("right_no", "true_no"),
}
_SMALL = 0.001  # where the script's denominators begin


def _share(over: str, under: str, values: Mapping[str, Values]) -> Values:
    """A ratio with the script's small number, none without a photo."""
    return np.where(values["photos"] == 0, np.nan, values[over] / (values[under] + _SMALL))


def _hal(values: Mapping[str, Values]) -> Values:
    return 1 - _share("clean_photos", "photos", values)


def _rate(name: str, prefix: str, values: Mapping[str, Values]) -> Values:
    """A ratio with the small number once, or of Attribute, for its three parts, thrice."""
    counts = {kind: np.asarray(values[name]) for kind, name in _COUNTS.items()}
    parts = sum((n > 0).astype(int) for kind, n in counts.items() if kind.startswith("attribute/"))
    others = sum(n for kind, n in counts.items() if not kind.startswith("attribute/"))
    small = _SMALL * np.where((others == 0) & (parts > 1), 3, 1)
    over, under = _RATES[name]
    return values[prefix + over] / (values[prefix + under] + small)


def _f1(prefix: str, values: Mapping[str, Values]) -> Values:
    """Of precision and recall in percent, to one decimal; Existence has its own small number."""
    rounded = np.vectorize(lambda value: round(float(value), 1), otypes=[float])
    p, r = (rounded(_rate(n, prefix, values) * 100) / 100 for n in ("precision", "recall"))
    others = sum(np.asarray(values[name]) for kind, name in _COUNTS.items() if kind != "existence")
    return 2 * p * r / (p + r + np.where(others > 0, 0.0001, 0.001))


def _score(prefix: str, values: Mapping[str, Values]) -> Values:
    """AMBER's score: the mean of 1 - CHAIR and F1; none of descriptions alone."""
    if f"{prefix}answers" not in values:
        return np.full_like(values["photos"], np.nan)
    return ((1 - _share("invented", "kept", values)) + _f1(prefix, values)) / 2


def _counts(*names: str) -> Iterator[Measure]:
    for name in names:
        yield Measure(name, name.replace("_", " "), "count", is_headline=False, is_shared=False)


def _rates(prefix: str) -> Iterator[Measure]:
    for name, label, of in (
        *((name, name, partial(_rate, name, prefix)) for name in _RATES),
        ("f1", "F1", partial(_f1, prefix)),
        ("amber_score", "score", partial(_score, prefix)),
    ):
        main = not prefix and name not in ("precision", "recall")
        text = f"AMBER: {label}" if main else f"{label}, exactly Yes or No" if prefix else label
        more: dict[str, Any] = {"is_headline": main, "is_read": not prefix, "of": of}
        yield Measure(prefix + name, text, better="higher", **more)
    yield from _counts(*(prefix + name for name in _SUMS))


MEASURES = (
    Measure("chair", "AMBER: CHAIR", better="lower", of=partial(_share, "invented", "kept")),
    Measure("cover", "AMBER: Cover", better="higher", of=partial(_share, "covered", "objects")),
    Measure(
        "hal", "AMBER: Hal", better="lower", of=lambda v: 1 - _share("clean_photos", "photos", v)
    ),
    Measure("cog", "AMBER: Cog", better="lower", of=partial(_share, "cognitive", "expected")),
    *(measure for prefix in READ_AS for measure in _rates(prefix)),
    Measure("words_per_answer", "words per answer", "number"),
    Measure("readings_differ", "answers read in two ways", "count", is_headline=False),
    *_counts(*NOUN_COUNTS, *_COUNTS.values()),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    amber: str = ""  # folder with AMBER's query_all.json, annotations.json, relation.json, ...
    amber_images: Annotated[str, When.given("data", "amber")] = ""  # folder of its photos


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated, and by what words are read."""

    amber_beams: AtLeastOne = 1  # 1: greedy
    amber_max_new_tokens: AtLeastOne = 1024  # a description; OPA-DPO's setting
    # spaCy's model whose vectors say which words are similar; another than this one is named beside
    # every number. Empty: equal words only.
    amber_vectors: str = "en_core_web_lg"
    # What tokenizes, tags and lemmatizes: nltk, or a table of the mini world's words.
    amber_words: WordsName = "nltk"


def questions(sources: Sources) -> list[Question]:
    """The questions in the order of their ids."""
    folder = sources.folder("amber", *data.FILES)
    return data.questions(folder, sources.resolve(sources.data.amber_images), sources.report)


def vocabulary(sources: Sources) -> dict[str, Any]:
    """AMBER's words, for vocabulary.json."""
    return {"lexicons": {"amber": data.words(sources.folder("amber"))}}


def readings(settings: Settings) -> dict[str, str]:
    """How yes and no, and words as objects, are read; with the model of similar words."""
    similar = _english.named_model(settings.amber_vectors, "no vectors")
    words = f"words by {settings.amber_words}, similar by {similar}"
    return {prefix: f"{reading}, {words}" for prefix, reading in READ_AS.items()}


def check(settings: Settings) -> None:
    """Raise BadInput if nltk or spaCy is not there; descriptions need both."""
    _english.check(settings.amber_words, settings.amber_vectors)


def resources(vocabulary: Vocabulary, settings: Any) -> Callable[[], NounReader]:
    """What makes the reader of descriptions, when the first one comes: yes and no need none."""
    words = vocabulary.lexicons.get("amber")
    return cache(lambda: NounReader.load(words, settings.amber_words, settings.amber_vectors))


def tally(answer: Answer, known: Known) -> Tally:
    """What one answer adds: marks of a description's nouns, or right and wrong of yes or no."""
    question = known.question
    assert question is not None and question.label is not None
    tally_of = _described if question.split == data.GENERATIVE else _decided
    return {**tally_of(answer, question, known), "words_per_answer": (word_count(answer.text), 1)}


def _described(answer: Answer, question: Question, known: Known) -> Tally:
    label = json.loads(question.label or "")
    sums = known.resources().read(answer.text, label["truth"], label["hallu"]).counts()
    made = ("chair", "cover", "hal", "cog", *(f"{prefix}amber_score" for prefix in READ_AS))
    return dict.fromkeys(made, (0, 1)) | {name: (count, 1) for name, count in sums.items()}


def unreadable(answer: Answer, known: Known) -> int:
    """1 if an answer to a question begins with neither yes nor no."""
    is_decided = known.question is not None and known.question.split != data.GENERATIVE
    return int(is_decided and yes_no_strict(answer.text) is None)


def _decided(answer: Answer, question: Question, known: Known) -> Tally:
    said = {
        "": yes_no_strict(answer.text),
        "official_": {"Yes": "yes", "No": "no"}.get(answer.text),
    }
    found: dict[str, tuple[float, float]] = {}
    for prefix, word in said.items():
        is_right = word == question.label
        is_no = word == "no"
        sums = (is_right, 1, is_right and is_no, is_no, question.label == "no")  # as in _SUMS
        found |= {f"{prefix}{name}": (0, 1) for name in (*_RATES, "f1")}
        found |= {prefix + name: (n, 1) for name, n in zip(_SUMS, sums, strict=True)}
    found |= {name: (kind == question.split, 1) for kind, name in _COUNTS.items()}
    return found | {"readings_differ": (said[""] != said["official_"], 1)}
