"""CHAIR: which of the objects that a description names are not in the image. No judge is asked.

An object is named by any of its words in the file of synonyms, or a regular plural of it; longer
terms win ("hot dog" is no dog). Every mention counts, so an object that is named twice counts
twice. The original reads words with a parser of its own, so close numbers may differ in the last
digits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic.dataclasses import dataclass

from hadpo.benchmarks._bootstrap import intervals, number, ratio
from hadpo.benchmarks._decoding import decoding_of
from hadpo.config import STRICT, AtLeastOne
from hadpo.data.chair import SPLIT, questions
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput, Case, Evidence, Metric, Question, Verdict
from hadpo.text import forms, word_count, words

if TYPE_CHECKING:
    from hadpo.generation import Decoding

__all__ = ["READINGS", "RUBRIC", "Lexicon", "cases", "decoding", "questions", "score", "sums"]

RUBRIC = ""  # no judge
READINGS = {"": "synonyms"}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    chair_synonyms: str = ""  # file of CHAIR's synonyms; with it, COCO's photos are described


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How descriptions are generated."""

    chair_beams: AtLeastOne = 1  # 1: greedy
    chair_max_new_tokens: AtLeastOne = 512  # a description


def decoding(settings: Any) -> "Decoding":
    """How descriptions are generated."""
    return decoding_of("chair", settings)


def cases(
    answers: Iterable[Answer],
    evidence: Mapping[str, Evidence],
    questions: Sequence[Question] = (),
    settings: Any | None = None,
) -> list[Case]:
    """Nothing: the annotations say what is there."""
    return []


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
        said, found, at = words(text), [], 0
        while at < len(said):
            for length in range(min(self._longest, len(said) - at), 0, -1):
                if name := self._terms.get(tuple(said[at : at + length])):
                    found.append(name)
                    at += length
                    break
            else:
                at += 1
        return found


def score(
    answers: Sequence[Answer],
    questions: Sequence[Question],
    verdicts: Sequence[Verdict] = (),
    evidence: Mapping[str, Evidence] | None = None,
    vocabulary: Vocabulary | None = None,
    *,
    samples: int = 1000,
    seed: int = 42,
    settings: Any | None = None,
) -> list[Metric]:
    """The metrics of every model.

    Args:
        answers: descriptions, of any number of models.
        questions: what was asked; those without an answer are counted.
        verdicts: none are asked for.
        evidence: by image id; its objects are what is there.
        vocabulary: its synonyms are the words that count.
        samples: resampled image sets behind each interval.
        seed: of the resampling.
        settings: not used.

    Returns:
        chair_i: share of the mentions whose object is not there; chair_s: share of the answers with
        at least one such mention; chair_sentence: the same of single sentences (split as SHR does);
        object_recall; mentions_, words_ and tokens_per_answer; unfinished_ratio; unanswered.

    Raises:
        BadInput: no synonyms, or an image without known objects.
    """
    if not answers:
        return []
    if vocabulary is None or not vocabulary.synonyms:
        raise BadInput("CHAIR needs data.chair_synonyms, a file of objects and their synonyms")
    lexicon = Lexicon(vocabulary.synonyms)
    found: list[Metric] = []
    for model in dict.fromkeys(a.model for a in answers):
        own = [a for a in answers if a.model == model]
        counts = np.array([_count(a, evidence or {}, lexicon) for a in own], dtype=float)
        found += _metrics(model, counts, samples=samples, seed=seed)
        missing = len(questions) - len({a.question_id for a in own})
        found.append(_metric(model, "unanswered", float(missing), len(questions)))
    return found


_COLUMNS = (
    *("answers", "wrong answers", "mentions", "wrong mentions", "sentences", "wrong sentences"),
    *("objects", "objects named", "words", "tokens", "unfinished"),
)
_RATIOS = {  # metric -> numerator and denominator
    "chair_i": ("wrong mentions", "mentions"),
    "chair_s": ("wrong answers", "answers"),
    "chair_sentence": ("wrong sentences", "sentences"),
    "object_recall": ("objects named", "objects"),
    "mentions_per_answer": ("mentions", "answers"),
    "words_per_answer": ("words", "answers"),
    "tokens_per_answer": ("tokens", "answers"),
    "unfinished_ratio": ("unfinished", "answers"),
}


def sums(
    answers: Iterable[Answer],
    questions: Sequence[Question],
    verdicts: object,
    evidence: Mapping[str, Evidence],
    vocabulary: Vocabulary,
) -> Iterator[tuple[Answer, dict[str, tuple[float, float]]]]:
    """What each answer adds to numerator and denominator of the metrics."""
    lexicon = Lexicon(vocabulary.synonyms)
    for answer in answers:
        row = dict(zip(_COLUMNS, _count(answer, evidence, lexicon), strict=True))
        yield answer, {name: (row[over], row[under]) for name, (over, under) in _RATIOS.items()}


def _count(answer: Answer, evidence: Mapping[str, Evidence], lexicon: Lexicon) -> list[float]:
    """What one description adds to the sums of `_COLUMNS`."""
    known = evidence.get(answer.image_id)
    if known is None or not known.objects:
        raise BadInput(f"no objects are known of image {answer.image_id}: CHAIR needs all of them")
    there = {name for each in known.objects for name in lexicon.mentions(each)}
    lines = [line for line in answer.text.split(".") if line.strip()]
    said = [lexicon.mentions(line) for line in lines]
    mentions = [name for line in said for name in line]
    wrong = [name for name in mentions if name not in there]
    values = {
        "answers": 1,
        "wrong answers": bool(wrong),
        "mentions": len(mentions),
        "wrong mentions": len(wrong),
        "sentences": len(lines),
        "wrong sentences": sum(bool(set(line) - there) for line in said),
        "objects": len(there),
        "objects named": len(there & set(mentions)),
        "words": word_count(answer.text),
        "tokens": answer.tokens,
        "unfinished": answer.finish == "length",
    }
    return [float(values[name]) for name in _COLUMNS]


def _metrics(model: str, counts: np.ndarray, *, samples: int, seed: int) -> list[Metric]:
    columns = {
        name: (_COLUMNS.index(over), _COLUMNS.index(under))
        for name, (over, under) in _RATIOS.items()
    }
    statistics = {
        name: lambda c, over=over, under=under: ratio(c[..., over], c[..., under])
        for name, (over, under) in columns.items()
    }
    bounds = intervals(counts, statistics, samples=samples, seed=seed)
    total = counts.sum(axis=0)
    found = []
    for name, (_, under) in columns.items():
        value = number(float(statistics[name](total)))
        low, high = bounds[name] if value is not None else (None, None)
        found.append(_metric(model, name, value, int(total[under]), low=low, high=high))
    return found


def _metric(
    model: str,
    name: str,
    value: float | None,
    n: int,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Metric:
    return Metric(
        benchmark="chair",
        split=SPLIT,
        model=model,
        name=name,
        value=value,
        n=n,
        low=low,
        high=high,
    )
