"""A judge that needs no language model: it looks claims up in the annotations of the image.

It knows the words of a vocabulary (objects, attributes such as colours and places, scenes) and
reads claims, region phrases and facts alike, as mentions of objects with attributes. A claim is
wrong when it mentions an object that the annotations lack (kind "absent"), or gives a present
object, a place or the scene properties that they contradict (kind "attribute"). It trusts the
annotations to be complete.
"""

from collections.abc import Sequence
from typing import Any

from hadpo.judges import SENTENCES, JudgeSettings, Rubric, verdict
from hadpo.judges.oracle.vocabulary import Reading, Vocabulary, World, read_world
from hadpo.records import BadInput, Case, Evidence, Verdict
from hadpo.text import words


class Oracle:
    """The judge; `rule` decides by the annotations alone, so it is free, offline and repeatable."""

    def __init__(self, known: Vocabulary, rubrics: Sequence[Rubric] = (SENTENCES,)) -> None:
        """An oracle of these words.

        Raises:
            BadInput: a rubric that does not say what annotations alone tell of a claim.
        """
        self.vocabulary = known
        self._worlds: dict[str, tuple[Evidence, World]] = {}
        self._ways = {rubric.name: rubric.by_annotations for rubric in rubrics}
        lost = [name for name, way in self._ways.items() if way is None]
        if lost:
            raise BadInput(
                f"judge oracle goes by annotations, and cannot rule by rubric {', '.join(lost)}; "
                "set judge to llm or replay"
            )

    def rule(self, case: Case) -> list[Verdict]:
        """One verdict per claim, in order, as the case's rubric says."""
        way = self._ways.get(case.rubric)
        if way is None:
            raise BadInput(f"case {case.case_id}: the judge was not made for rubric {case.rubric}")
        return way(self, case)

    def rule_on_sentences(self, case: Case) -> list[Verdict]:
        """Labels of sentences, with the kind of what is wrong."""
        there = self.world(case.evidence)
        found = []
        for number, claim in enumerate(case.claims, start=1):
            label, kind, reason = self.decide(claim, there)
            found.append(verdict(case, number, label, kind=kind, reason=reason))
        return found

    def world(self, evidence: Evidence) -> World:
        """What is known of an image; read once per image."""
        cached = self._worlds.get(evidence.image_id)
        if cached is None or cached[0] != evidence:
            cached = evidence, read_world(evidence, self.vocabulary)
            self._worlds[evidence.image_id] = cached
        return cached[1]

    def decide(self, claim: str, there: World) -> tuple[Any, str, str]:
        """Label, kind and reason of one sentence about an image of which `there` is known."""
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
        if all(mention.contradicted_by(other) for other in same):
            said = " ".join(value for _, value in sorted(mention.attributes))
            return "hallucination", "attribute", f"the {mention.name} is not {said}"
    return "correct", "", "objects and attributes fit"


def _decide_emptiness(reading: Reading, there: World) -> tuple[Any, str, str]:
    if reading.loose in there.empty:
        return "correct", "", "nothing there"
    for mention in there.mentions:
        if reading.loose <= mention.attributes:
            return "hallucination", "attribute", f"there is the {mention.name}"
    return "cannot judge", "", "nothing known of that place"


def make(*, vocabulary: Vocabulary, settings: JudgeSettings | None = None) -> Oracle:
    """The oracle for a vocabulary; an empty one makes it answer "cannot judge" to everything.

    It asks nobody: of the settings only the rubrics count.
    """
    return Oracle(vocabulary, (settings or JudgeSettings()).rubrics)
