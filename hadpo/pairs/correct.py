"""Correct a description sentence by sentence, so that truth is all that tells chosen from rejected.

Each false sentence gives its place to one true sentence; the others stay as the model wrote them,
in their order. Chosen and rejected therefore have equally many sentences: length carries no signal.
"""

from collections.abc import Mapping, Sequence

from hadpo.judges.oracle.vocabulary import Reading, Vocabulary
from hadpo.judges.oracle.world import Truth
from hadpo.records import Verdict
from hadpo.text import sentences, words


def corrected(
    description: str,
    verdicts: Sequence[Verdict],
    truths: Sequence[Truth],
    known: Vocabulary,
) -> str | None:
    """The description with its false sentences replaced by true ones; None where truths run out.

    A wrong scene gives way to the right one. Else the replacement speaks of the same place if the
    vocabulary's sentences know places (so reading order is kept), else of the same object (a wrong
    attribute is put right), else of an object that the description misses, else it is a fact. A
    sentence that repeats an earlier one is treated like it.

    Args:
        description: the model's own text.
        verdicts: one per sentence of `text.sentences(description)`, in order.
        truths: what may truly be said of the image.
        known: the words.
    """
    rulings = dict(zip(sentences(description), verdicts, strict=True))
    wrong = {s for s, verdict in rulings.items() if verdict.label == "hallucination"}
    said = {tuple(words(s)) for s in rulings if s not in wrong}
    named = {name for s in rulings if s not in wrong for name in known.read(s).names}
    slots = _slots(known)
    replacement: dict[str, str] = {}
    for sentence in rulings:
        if sentence not in wrong:
            continue
        left = [truth for truth in truths if tuple(words(truth.text)) not in said]
        if not left:
            return None
        best = _best(known.read(sentence), left, named, slots)
        said.add(tuple(words(best.text)))
        named |= best.reading.names
        replacement[sentence] = best.text.rstrip(".")
    text = replace_sentences(description, list(rulings), replacement)
    return text if len(sentences(text)) == len(rulings) else None


def _slots(known: Vocabulary) -> set[str]:
    """Groups of attributes that say where a sentence stands: those of "The {place} is empty."."""
    template = known.sentences.get("empty", "")
    return {group for group in known.attributes if "{" + group + "}" in template}


def _best(claim: Reading, left: Sequence[Truth], named: set[str], slots: set[str]) -> Truth:
    def attributes(reading: Reading) -> set[tuple[str, str]]:
        return {*reading.loose, *(a for m in reading.mentions for a in m.attributes)}

    place = {(group, value) for group, value in attributes(claim) if group in slots}
    objects = {mention.name for mention in claim.mentions}

    def rank(truth: Truth) -> tuple[int, ...]:
        about = truth.reading.names
        same_sort = bool(claim.scenes) == bool(truth.reading.scenes)
        same_place = len(place & attributes(truth.reading))
        misses = bool(about) and not about & named
        return (
            int(same_sort),
            same_place,
            len(objects & about),
            int(misses),
            -int(bool(about & named)),
        )

    return max(left, key=rank)


def replace_sentences(
    description: str, claims: Sequence[str], replacement: Mapping[str, str]
) -> str:
    """Put replacements where their sentences, or repeats of them, stand; blanks stay.

    Args:
        description: a text.
        claims: `text.sentences(description)`.
        replacement: sentence -> what stands there instead, without its period.
    """
    found = []
    for piece in description.split("."):
        core = piece.strip()
        first = next((s for s in claims if core and core in s), "")
        if first in replacement:
            piece = piece.replace(core, replacement[first])
        found.append(piece)
    return ".".join(found)
