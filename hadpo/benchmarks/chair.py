"""CHAIR: which of the objects that a description names are not in the image. No judge is asked.

Three readings. `original` is CHAIR's own script, with Pattern's singulars; `lemmatizer` is the port
that papers since 2023 run, with recall and length; both need the objects and the captions of COCO's
train and val 2014, since an object that a caption names is there. `plain` needs no nltk: the words
of the synonyms and their regular plurals; it counts otherwise, so its metrics are not called CHAIR.
Every mention counts, "no dog" too.
"""

from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Form, Known, Measure, Tally, _english
from hadpo.benchmarks._english import WordsName
from hadpo.benchmarks._objects import Lexicon, Reader
from hadpo.benchmarks._tally import evidence_of
from hadpo.config import STRICT, AtLeastOne, When
from hadpo.data import Sources, coco
from hadpo.data import chair as data
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput, Evidence, Question
from hadpo.text import word_count

WHOLE = data.SPLIT
QUESTIONS = "chair_photos"
FILES = {
    "chair_synonyms": ("CHAIR synonyms", ("",)),
    "chair_annotations": ("COCO annotations", coco.FILES),
}
BARS = {
    "chair_i": "invented mentions (CHAIR-i)",
    "chair_s": "answers with one (CHAIR-s)",
    "object_recall": "objects named, of those there",
}
FORMS = (
    Form(
        name="CHAIR's, its port's and OPERA's",
        example='{"image_id": 42, "caption": "A dog on a couch."}',
        answer=("caption",),
        needs=("image_id",),
        id=("image_id",),
    ),
    Form(
        name="less-is-more's",
        example='{"image_id": "COCO_val2014_000000000042.jpg", "text": "A dog on a couch."}',
        answer=("text",),
        needs=("image_id",),
        id=("image_id",),
    ),
)
_PLAIN = "absent objects by plain words"
MEASURES = (
    Measure("chair_i", "CHAIR: mentions of absent objects", better="lower"),
    Measure("chair_s", "CHAIR: answers with one", better="lower"),
    Measure("object_recall", "true objects named", better="higher"),
    Measure("plain_i", f"{_PLAIN}: mentions", better="lower"),
    Measure("plain_s", f"{_PLAIN}: answers with one", better="lower"),
    Measure("plain_sentence", f"{_PLAIN}: sentences", better="lower", is_headline=False),
    Measure("plain_recall", "true objects named, by plain words", better="higher"),
    Measure("words_per_answer", "words per answer", "number"),
    Measure("chair_words", "words per answer as CHAIR counts", "number", is_headline=False),
    Measure("mentions_per_answer", "mentions per answer", "number", is_headline=False),
    Measure("tokens_per_answer", "tokens per answer", "number", is_headline=False),
    Measure("unfinished_ratio", "unfinished ratio", is_headline=False),
)
_GIVEN = When.given("data", "chair_synonyms")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie, and which photos are described."""

    chair_synonyms: str = ""  # file of CHAIR's synonyms; with it, COCO's photos are described
    # Folder with instances and captions of train2014 and val2014; empty: plain words only.
    chair_annotations: Annotated[str, _GIVEN] = ""
    # opera, opera-instructblip or less-is-more, their 500 photos; a file of ids; empty: all of val.
    chair_photos: Annotated[str, When.given("data", "chair_annotations")] = ""
    # What is asked; the papers' is "Please describe this image in detail."
    chair_prompt: Annotated[str, _GIVEN] = data.PROMPT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How descriptions are generated and read."""

    chair_beams: AtLeastOne = 1  # 1: greedy; OPERA also 5
    chair_max_new_tokens: AtLeastOne = 512  # a description
    chair_reading: Literal["original", "lemmatizer", "plain"] = "plain"  # of words as objects
    # What tokenizes, tags and lemmatizes: nltk, or a table of the mini world's words.
    chair_words: Annotated[
        WordsName, When.one_of("evaluate", "chair_reading", "lemmatizer", "original")
    ] = "nltk"


def evidence(sources: Sources) -> dict[str, Evidence]:
    """Objects and captions of the photos that are described, if the official annotations are."""
    section = sources.data
    if not section.chair_annotations:
        return {}
    if not section.coco:
        raise BadInput("data.chair_annotations is set but data.coco is not: it is about the photos")
    folder, photos = (sources.resolve(p) for p in (section.chair_annotations, section.coco))
    ids = data.listed(section.chair_photos, sources.resolve)
    return coco.annotated(folder, photos, ids, sources.report)


def questions(sources: Sources) -> list[Question]:
    """A description of every photo of the list, or of every photo whose objects are known."""
    section = sources.data
    if not section.chair_annotations:
        known = {key: each for key, each in sources.photos.items() if each.objects}
        return data.questions(known, section.chair_prompt)
    ids = data.listed(section.chair_photos, sources.resolve)
    return data.questions(coco.of_list(sources.images, ids), section.chair_prompt)


def vocabulary(sources: Sources) -> dict[str, dict[str, str]]:
    """The synonyms, for vocabulary.json."""
    path = sources.note(sources.resolve(sources.data.chair_synonyms))
    return {"synonyms": data.synonyms(path, sources.report)}


def readings(settings: Settings) -> dict[str, str]:
    """How words are read as objects."""
    by = "" if settings.chair_reading == "plain" else f", words by {settings.chair_words}"
    return {"": f"{settings.chair_reading}{by}"}


def check(settings: Settings) -> None:
    """Raise BadInput if a reading needs words that nothing reads here."""
    if settings.chair_reading != "plain":
        _english.check(settings.chair_words)


def resources(vocabulary: Vocabulary, settings: Any) -> Lexicon | Reader:
    """What reads texts; BadInput without synonyms, or without nltk where it is needed."""
    if not vocabulary.synonyms:
        raise BadInput("CHAIR needs data.chair_synonyms, a file of objects and their synonyms")
    reading: Any = getattr(settings, "chair_reading", "plain")
    if reading == "plain":
        return Lexicon(vocabulary.synonyms)
    return Reader(vocabulary.synonyms, _english.load(settings.chair_words), reading)


def tally(answer: Answer, known: Known) -> Tally:
    """What one description adds to the sums.

    _i: mentions whose object is not in the image, of all; _s: answers with at least one such
    mention; recall: different objects that are there and named, of those there; plain_sentence:
    sentences with one (split at periods, as SHR does).
    """
    photo = evidence_of(answer.image_id, known.evidence)
    plain = isinstance(known.resources, Lexicon)
    count = _plain if plain else _official
    nodes, present, more = count(known.resources, photo, answer.text)
    wrong = sum(node not in present for node in nodes)
    name = "plain" if plain else "chair"
    return {
        f"{name}_i": (wrong, len(nodes)),
        f"{name}_s": (wrong > 0, 1),
        "plain_recall" if plain else "object_recall": (len(present & set(nodes)), len(present)),
        **more,
        "mentions_per_answer": (len(nodes), 1),
        "words_per_answer": (word_count(answer.text), 1),
        "tokens_per_answer": (answer.tokens, answer.tokens > 0),  # 0: nobody says how many
        "unfinished_ratio": (answer.finish == "length", answer.tokens > 0),
    }


Counted = tuple[list[str], set[str], dict[str, tuple[float, float]]]


def _official(reader: Reader, photo: Evidence, text: str) -> Counted:
    found = reader.read(text)
    return found.nodes, reader.present(photo), {"chair_words": (len(found.said), 1)}


def _plain(lexicon: Lexicon, photo: Evidence, text: str) -> Counted:
    there = (*photo.objects, *photo.facts)
    present = {name for each in there for name in lexicon.mentions(each)}
    lines = [lexicon.mentions(line) for line in text.split(".") if line.strip()]
    nodes = [name for line in lines for name in line]
    wrong = sum(bool(set(line) - present) for line in lines)
    return nodes, present, {"plain_sentence": (wrong, len(lines))}
