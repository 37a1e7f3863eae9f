"""A judge that needs no language model: it looks claims up in the annotations of the image.

It knows the words of a vocabulary (objects, attributes such as colours and places, scenes) and
reads claims, region phrases and facts alike, as mentions of objects with attributes. A claim is
wrong when it mentions an object that the annotations lack (kind "absent"), or gives a present
object, a place or the scene properties that they contradict (kind "attribute"). It trusts the
annotations to be complete.
"""

from typing import Any

from hadpo.judges import JudgeSettings
from hadpo.judges.oracle.vocabulary import Mention, Reading, Vocabulary
from hadpo.judges.oracle.world import World, read_world
from hadpo.records import Case, Evidence, Verdict
from hadpo.text import sentences, words


class Oracle:
    """The judge; `rule` decides by the annotations alone, so it is free, offline and repeatable."""

    def __init__(self, known: Vocabulary) -> None:
        self.vocabulary = known
        self._worlds: dict[str, tuple[Evidence, World]] = {}

    def rule(self, case: Case) -> list[Verdict]:
        """One verdict per claim, in order: labels of sentences, or grades of answers."""
        if case.rubric == "gqa":
            return [_examined(case, place) for place in range(len(case.claims))]
        there = self.world(case.evidence)
        if case.rubric == "gavie":
            return [self._grade(case, place, there) for place in range(len(case.claims))]
        found = []
        for claim in case.claims:
            label, kind, reason = self._decide(claim, there)
            found.append(
                Verdict(
                    case_id=case.case_id,
                    model=case.model,
                    claim=claim,
                    label=label,
                    kind=kind,
                    reason=reason,
                )
            )
        return found

    def world(self, evidence: Evidence) -> World:
        """What is known of an image; read once per image."""
        cached = self._worlds.get(evidence.image_id)
        if cached is None or cached[0] != evidence:
            cached = self._worlds[evidence.image_id] = (
                evidence,
                read_world(evidence, self.vocabulary),
            )
        return cached[1]

    def _grade(self, case: Case, place: int, there: World) -> Verdict:
        """Grades of an answer: 10 x share of sentences that are right; 10 for one to the point.

        To the point is an answer that begins with yes or no, or names an object of the question.
        Where no sentence can be decided, the answer is unparsed: a grade would be made up.
        """
        claim = case.claims[place]
        labels = [self._decide(sentence, there)[0] for sentence in sentences(claim)]
        decided = [label for label in labels if label != "cannot judge"]
        asked = {m.name for m in self.vocabulary.read(case.question).mentions}
        named = {m.name for m in self.vocabulary.read(claim).mentions}
        is_to_the_point = words(claim)[:1] in (["yes"], ["no"]) or bool(asked & named)
        scores = {}
        if decided:
            right = decided.count("correct") / len(decided)
            scores = {"relevancy": 10.0 * is_to_the_point, "accuracy": 10.0 * right}
        return Verdict(
            case_id=case.case_id,
            model=case.model_of(place),
            claim=claim,
            label="scored" if scores else "unparsed",
            reason=f"{decided.count('correct')} of {len(decided)} sentences that can be decided",
            scores=scores,
            place=place + 1,
        )

    def _decide(self, claim: str, there: World) -> tuple[Any, str, str]:
        reading = self.vocabulary.read(claim)
        if tuple(words(claim)) in there.lines:
            return "correct", "", "the annotations say the same"
        if reading.mentions and there.mentions:
            return _decide_objects(reading, there)
        if reading.scenes and there.scenes:
            if reading.scenes <= there.scenes:
                return "correct", "", "the scene"
            return "hallucination", "attribute", f"the scene is {', '.join(sorted(there.scenes))}"
        if reading.is_empty and reading.loose:
            return _decide_emptiness(reading, there)
        return "cannot judge", "", "no known word, or nothing known of the image"


def _examined(case: Case, place: int) -> Verdict:
    """Whether an answer holds the words of the right answer, in their order."""
    said, right = words(case.claims[place]), words(" ".join(case.evidence.facts))
    starts = range(len(said) - len(right) + 1)
    is_right = bool(right) and any(said[at : at + len(right)] == right for at in starts)
    return Verdict(
        case_id=case.case_id,
        model=case.model_of(place),
        claim=case.claims[place],
        label="correct" if is_right else "incorrect",
        reason=f"the right answer is {' '.join(case.evidence.facts)}",
        place=place + 1,
    )


def _decide_objects(reading: Reading, there: World) -> tuple[Any, str, str]:
    present = [m.name for m in reading.mentions if m.name in there.names]
    if reading.denies:
        if present:
            return "hallucination", "attribute", f"there is {', '.join(present)}"
        return "correct", "", "the annotations have none"
    absent = [m.name for m in reading.mentions if m.name not in there.names]
    if absent:
        return "hallucination", "absent", f"no {', '.join(absent)} in the annotations"
    for mention in reading.mentions:
        same = [m for m in there.mentions if m.name == mention.name]
        if not any(_fits(mention, other) for other in same):
            said = " ".join(value for _, value in sorted(mention.attributes))
            return "hallucination", "attribute", f"the {mention.name} is not {said}"
    return "correct", "", "objects and attributes fit"


def _fits(claimed: Mention, known: Mention) -> bool:
    """Whether nothing that is known of the object contradicts the claim."""
    return all(
        value in known.values(group) or not known.values(group)
        for group, value in claimed.attributes
    )


def _decide_emptiness(reading: Reading, there: World) -> tuple[Any, str, str]:
    if reading.loose in there.empty:
        return "correct", "", "nothing there"
    for mention in there.mentions:
        if reading.loose <= mention.attributes:
            return "hallucination", "attribute", f"there is the {mention.name}"
    return "cannot judge", "", "nothing known of that place"


def make(*, vocabulary: Vocabulary, settings: JudgeSettings | None = None) -> Oracle:
    """The oracle for a vocabulary; an empty one makes it answer "cannot judge" to everything.

    It asks nobody, so the settings are not used.
    """
    return Oracle(vocabulary)
