"""Object claims: of the objects that a description claims, which are there, as described.

A claim is a sentence that says an object is there; it is true if the annotations have an object
that nothing in the sentence contradicts (for the mini world: category, colour and place). Sentences
that say nothing of an object ("the top left is empty") are no claims, so saying many of them does
not make a text look better; they are counted beside it. No judge is asked: the annotations must be
complete, and the vocabulary must list the objects and attributes.
"""

from collections.abc import Sequence
from dataclasses import replace

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally
from hadpo.benchmarks._answers import cut
from hadpo.benchmarks._tally import evidence_of
from hadpo.config import STRICT, AtLeastOne
from hadpo.data import Report, Sources
from hadpo.data import shr as data
from hadpo.judges.oracle.vocabulary import Mention, Vocabulary, read_world
from hadpo.records import Answer, Question
from hadpo.text import sentences

__all__ = ["cut"]

WHOLE = data.SPLIT
READINGS = {"": "annotations"}
SAME_QUESTIONS_AS = "shr"  # the same request about the same images: answered once
MEASURES = (
    Measure("f1", "object claims: F1", better="higher"),
    Measure("precision", "claims that are true", better="higher"),
    Measure("recall", "objects that are truly claimed", better="higher"),
    Measure("claims_per_answer", "claims per answer", "number"),
    Measure("wrong_claims_per_answer", "wrong claims per answer", "number", better="lower"),
    Measure("absent_claims_per_answer", "of them: object absent", "number", better="lower"),
    Measure("place_errors_per_answer", "of them: wrong place", "number", better="lower"),
    Measure("attribute_errors_per_answer", "of them: another attribute", "number", better="lower"),
    Measure("empty_sentences_per_answer", "sentences that say a place is empty", "number"),
    Measure("sentences_per_answer", "sentences per answer", "number"),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How descriptions are generated, if those of SHR are not there."""

    claims_beams: AtLeastOne = 1  # 1: greedy
    claims_max_new_tokens: AtLeastOne = 120  # a description


def questions(sources: Sources) -> list[Question]:
    """A description of each of SHR's images, if a vocabulary lists the words for what is there."""
    if not sources.data.vocabulary or not sources.data.shr:
        return []
    ids = data.image_ids(sources.folder("shr", "val_images_final.json"), Report("skip"))
    asked = data.questions(ids, sources.images)
    return [replace(q, question_id=f"claims-{q.image_id}", benchmark="claims") for q in asked]


def tally(answer: Answer, known: Known) -> Tally:
    """What one description adds: F1 is 2 true / (claims + objects); its precision, its recall.

    Every object can be claimed once: a further true claim of it is neither true nor wrong, but
    counts as a claim.
    """
    vocabulary, photo = known.vocabulary, evidence_of(answer.image_id, known.evidence)
    objects = list(read_world(photo, vocabulary).mentions)
    unclaimed = list(objects)
    texts = sentences(answer.text)
    n_claims = n_true = n_empty = 0
    errors: dict[str, int] = dict.fromkeys(("absent", "place", "attribute"), 0)
    for sentence in texts:
        reading = vocabulary.read(sentence)
        n_empty += reading.is_empty and not reading.mentions
        for claim in () if reading.denies or reading.is_empty else reading.mentions:
            n_claims += 1
            if not any(_fits(claim, each) for each in objects):
                errors[_error(claim, objects, vocabulary)] += 1
                continue
            match = next((each for each in unclaimed if _fits(claim, each)), None)
            if match is not None:
                unclaimed.remove(match)
                n_true += 1
    wrong = sum(errors.values())
    return {
        "f1": (2 * n_true, n_claims + len(objects)),
        "precision": (n_true, n_claims),
        "recall": (n_true, len(objects)),
        "claims_per_answer": (n_claims, 1),
        "wrong_claims_per_answer": (wrong, 1),
        "absent_claims_per_answer": (errors["absent"], 1),
        "place_errors_per_answer": (errors["place"], 1),
        "attribute_errors_per_answer": (errors["attribute"], 1),
        "empty_sentences_per_answer": (n_empty, 1),
        "sentences_per_answer": (len(texts), 1),
    }


def _fits(claim: Mention, thing: Mention) -> bool:
    """Whether it is this object, and nothing known of it contradicts the claim."""
    return claim.name == thing.name and not claim.contradicted_by(thing)


def _error(claim: Mention, objects: Sequence[Mention], vocabulary: Vocabulary) -> str:
    """Why a claim is wrong: by the object of that name that it contradicts least."""
    same = [claim.contradicted_by(each) for each in objects if each.name == claim.name]
    if not same:
        return "absent"
    groups = {group for group, _ in min(same, key=len)}
    return "place" if groups <= vocabulary.places else "attribute"
