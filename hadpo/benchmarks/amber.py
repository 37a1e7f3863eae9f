"""AMBER: objects in descriptions, and yes/no questions by type; no judge is asked.

Descriptions: CHAIR, Cover (objects of the photo that are named), Hal (answers with an invented
object), Cog (objects that people expect and that are named although they are not there). Questions:
"No" is the positive class. Two small numbers in the denominators are the original's, and F1 is made
of rounded precision and recall, as there. Answers are read by their first word, and, as official,
as right only if they are "Yes" or "No" and nothing else.
Source: junyangwang0410/AMBER inference.py at 534babf.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Form, Known, Measure, Tally, _spacy
from hadpo.benchmarks._amber_script import (
    TYPES,
    Reader,
    count_of,
    f1,
    hal,
    rate,
    reader,
    score,
    share,
)
from hadpo.benchmarks._english import WordsName
from hadpo.config import STRICT, AtLeastOne, When
from hadpo.data import Sources
from hadpo.data import amber as data
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.measures import Values
from hadpo.records import Answer, Question
from hadpo.text import word_count, yes_no_strict

__all__ = ["MEASURES", "WHOLE", "Reader", "questions", "readings", "resources", "tally"]

WHOLE = "all"
FILES = {"amber": ("AMBER", data.FILES), "amber_images": ("AMBER photos", ("",))}
LISTED = ((WHOLE, "chair"), (WHOLE, "cover"), (WHOLE, "f1"), (WHOLE, "amber_score"))
BARS = {"chair": "invented mentions", "hal": "answers with one", "cog": "expected and not there"}
FORMS = (
    Form(
        name="AMBER's",
        example='{"id": 1, "response": "A dog on a couch."}',
        answer=("response",),
        needs=("id",),
        id=("id",),
    ),
)
SHOWN = ("amber_vectors", "amber_words")  # settings that stand beside every number
READ_AS = {"": "first word", "official_": "exactly Yes or No"}
_EXACT = {"Yes": "yes", "No": "no"}


def _counts(*names: str) -> Iterator[Measure]:
    for name in names:
        yield Measure(name, name.replace("_", " "), "count", is_headline=False, is_shared=False)


def _rates(prefix: str) -> Iterator[Measure]:
    end, main = (", exactly Yes or No", False) if prefix else ("", True)

    def named(name: str, label: str, of: Callable[..., Values], main: bool) -> Measure:
        label = f"AMBER: {label}{end}" if main else f"{label}{end}"
        more: dict[str, Any] = {"is_headline": main, "is_read": not prefix, "of": of}
        return Measure(prefix + name, label, better="higher", **more)

    yield named("accuracy", "accuracy", partial(rate, "right", "answers", prefix), main)
    yield named("precision", "precision", partial(rate, "right_no", "said_no", prefix), False)
    yield named("recall", "recall", partial(rate, "right_no", "true_no", prefix), False)
    yield named("f1", "F1", partial(f1, prefix), main)
    yield named("amber_score", "score", partial(score, prefix), main)
    yield from _counts(
        *(prefix + n for n in ("right", "answers", "right_no", "said_no", "true_no"))
    )


MEASURES = (
    Measure("chair", "AMBER: CHAIR", better="lower", of=partial(share, "invented", "kept")),
    Measure("cover", "AMBER: Cover", better="higher", of=partial(share, "covered", "objects")),
    Measure("hal", "AMBER: Hal", better="lower", of=hal),
    Measure("cog", "AMBER: Cog", better="lower", of=partial(share, "cognitive", "expected")),
    *(measure for prefix in READ_AS for measure in _rates(prefix)),
    Measure("words_per_answer", "words per answer", "number"),
    Measure("readings_differ", "answers read in two ways", "count", is_headline=False),
    *_counts("invented", "kept", "covered", "objects", "cognitive", "expected"),
    *_counts("photos", "clean_photos", *map(count_of, TYPES)),
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
    """The questions in the order of their ids; none without data.amber."""
    if not sources.data.amber:
        return []
    folder = sources.folder("amber", *data.FILES)
    return data.questions(folder, sources.resolve(sources.data.amber_images), sources.report)


def vocabulary(sources: Sources) -> dict[str, Any]:
    """AMBER's words, for vocabulary.json."""
    if not sources.data.amber:
        return {}
    return {"lexicons": {"amber": data.words(sources.folder("amber"))}}


def readings(settings: Settings) -> dict[str, str]:
    """How yes and no, and words as objects, are read; with the model of similar words."""
    similar = _spacy.named(settings.amber_vectors) if settings.amber_vectors else "no vectors"
    ends = f"words by {settings.amber_words}, similar by {similar}"
    return {prefix: f"{reading}, {ends}" for prefix, reading in READ_AS.items()}


def resources(vocabulary: Vocabulary, settings: Any) -> Callable[[], Reader]:
    """What makes the reader of descriptions, when the first one comes: yes and no need none."""
    words = vocabulary.lexicons.get("amber")
    return cache(lambda: reader(words, settings.amber_words, settings.amber_vectors))


def tally(answer: Answer, known: Known) -> Tally:
    """What one answer adds: marks of a description's nouns, or right and wrong of yes or no.

    Raises:
        BadInput: AMBER's words, nltk or spaCy is not there.
    """
    question = known.question
    assert question is not None and question.label is not None
    tally_of = _described if question.split == data.GENERATIVE else _decided
    return {**tally_of(answer, question, known), "words_per_answer": (word_count(answer.text), 1)}


def _described(answer: Answer, question: Question, known: Known) -> Tally:
    label = json.loads(question.label or "")
    found = known.resources().read(answer.text, label["truth"], label["hallu"])
    sums = {
        "invented": sum(found.invented),
        "kept": len(found.kept),
        "covered": sum(found.covered),
        "objects": len(found.covered),
        "cognitive": sum(found.cognitive),
        "expected": len(found.cognitive),
        "photos": 1,
        "clean_photos": not any(found.invented),
    }
    made = ("chair", "cover", "hal", "cog", *(f"{prefix}amber_score" for prefix in READ_AS))
    return dict.fromkeys(made, (0, 1)) | {name: (count, 1) for name, count in sums.items()}


def unreadable(answer: Answer, known: Known) -> int:
    """1 if an answer to a question begins with neither yes nor no."""
    is_decided = known.question is not None and known.question.split != data.GENERATIVE
    return int(is_decided and yes_no_strict(answer.text) is None)


def _decided(answer: Answer, question: Question, known: Known) -> Tally:
    said = {"": yes_no_strict(answer.text), "official_": _EXACT.get(answer.text)}
    found: dict[str, tuple[float, float]] = {}
    for prefix, word in said.items():
        is_right = word == question.label
        sums = {
            "right": is_right,
            "answers": 1,
            "right_no": is_right and word == "no",
            "said_no": word == "no",
            "true_no": question.label == "no",
        }
        found |= {f"{prefix}{name}": (0, 1) for name in ("accuracy", "precision", "recall", "f1")}
        found |= {prefix + name: (count, 1) for name, count in sums.items()}
    found |= {count_of(name): (name == question.split, 1) for name in TYPES}
    return found | {"readings_differ": (said[""] != said["official_"], 1)}
