"""SHR: which share of the sentences of a description is hallucinated.

A judge rules on each sentence. Sentences that it cannot judge stay in the denominator, unparsed
rulings do not, as in the original; both are counted. Beside the ratio always stand the numbers that
a shorter text would improve or spoil: sentences, words, recall of the objects that are there,
repetitions.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hadpo.benchmarks._bootstrap import intervals, number, ratio
from hadpo.config import EvaluateConfig
from hadpo.data.shr import SPLIT, questions
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.judges.oracle.world import read_world
from hadpo.records import Answer, BadInput, Case, Evidence, Metric, Question, Verdict
from hadpo.text import distinct, first_sentences, repeated_sentences, sentences, word_count

if TYPE_CHECKING:
    from hadpo.generation import Decoding

__all__ = ["CUT", "READINGS", "RUBRIC", "cases", "cut", "decoding", "questions", "score", "sums"]

RUBRIC = "shr"  # how a judge is to rule on the cases
READINGS = {"": "upstream"}  # sentences as the original segments them
CUT = "base_cut"  # the control: the base's own text, no longer than the tuned model's


def decoding(settings: EvaluateConfig) -> "Decoding":
    """How descriptions are generated."""
    from hadpo.generation import Decoding  # it needs torch; scoring does not

    return Decoding(
        name="shr",
        beams=settings.shr_beams,
        max_new_tokens=settings.shr_max_new_tokens,
        repetition_penalty=settings.repetition_penalty,
    )


def cases(
    answers: Iterable[Answer],
    evidence: Mapping[str, Evidence],
    questions: Sequence[Question] = (),
    settings: EvaluateConfig | None = None,
) -> list[Case]:
    """A case per answer; its claims are the sentences, each with its period, as SHR lists them.

    Raises:
        BadInput: no evidence of an image.
    """
    found = []
    for answer in answers:
        if answer.image_id not in evidence:
            raise BadInput(f"no evidence of image {answer.image_id}: it cannot be judged")
        claims = tuple(sentence + "." for sentence in sentences(answer.text))
        found.append(
            Case(
                case_id=answer.question_id,
                model=answer.model,
                claims=claims,
                evidence=evidence[answer.image_id],
            )
        )
    return found


def cut(base: Iterable[Answer], tuned: Iterable[Answer]) -> list[Answer]:
    """The base's descriptions, each cut to the sentence count of the tuned model's.

    The control for saying less: whatever this row gains over the base, it gains by length alone. A
    text that is cut was not generated as it stands: its `tokens` are 0, and no metric of it
    rests on how answers were generated.
    """
    length = {a.question_id: len(sentences(a.text)) for a in tuned}
    found = []
    for answer in base:
        if answer.question_id not in length:
            continue
        text = first_sentences(answer.text, length[answer.question_id])
        is_whole = text == answer.text.rstrip()
        tokens = answer.tokens if is_whole else 0
        finish = answer.finish if is_whole else "stop"
        found.append(replace(answer, model=CUT, text=text, tokens=tokens, finish=finish))
    return found


def score(
    answers: Sequence[Answer],
    questions: Sequence[Question],
    verdicts: Sequence[Verdict],
    evidence: Mapping[str, Evidence],
    vocabulary: Vocabulary,
    *,
    samples: int = 1000,
    seed: int = 42,
    settings: EvaluateConfig | None = None,
) -> list[Metric]:
    """The metrics of every model.

    Args:
        answers: descriptions, of any number of models.
        questions: what was asked; those without an answer are counted.
        verdicts: one per sentence.
        evidence: by image id; its objects are what recall counts.
        vocabulary: the words that name objects.
        samples: resampled image sets behind each interval.
        seed: of the resampling.
        settings: not used.

    Returns:
        hallucinated_sentence_ratio (pooled) and, of it, absent_ and attribute_sentence_ratio;
        hallucinated_word_ratio; hallucinated_sentence_ratio_per_image (mean of the images' own
        ratios); sentences_, words_, hallucinated_sentences_, hallucinated_words_,
        repeated_sentences_ and tokens_per_answer; distinct_1 to distinct_4; object_recall;
        cannot_judge_ratio; unfinished_ratio (answers stopped by the length limit); unanswered.
        Of the control `CUT`, tokens_per_answer and unfinished_ratio have no value: its texts are
        cut, not generated.

    Raises:
        BadInput: verdicts that do not fit the answers.
    """
    ruled: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        ruled[verdict.model, verdict.case_id].append(verdict)
    found: list[Metric] = []
    for model in dict.fromkeys(a.model for a in answers):
        own = [a for a in answers if a.model == model]
        rows, lost = [], 0
        for answer in own:
            rulings = ruled.get((model, answer.question_id), [])
            expected = sentences(answer.text)
            if [v.claim.removesuffix(".") for v in rulings] != expected:
                raise BadInput(
                    f"{model}, {answer.question_id}: {len(rulings)} verdicts on "
                    f"{len(expected)} sentences; judge the answers again"
                )
            lost += sum(v.label == "unparsed" for v in rulings)
            objects = _recall(answer.text, evidence.get(answer.image_id), vocabulary)
            rows.append(_count(answer, rulings, objects))
        counts = np.array([[row[name] for name in _COLUMNS] for row in rows], dtype=float)
        counts = counts.reshape(len(rows), len(_COLUMNS))
        found += _metrics(model, counts, lost, samples=samples, seed=seed)
        missing = len(questions) - len({a.question_id for a in own})
        found.append(_metric(model, "unanswered", float(missing), len(questions)))
    return found


def sums(
    answers: Iterable[Answer],
    questions: Sequence[Question],
    verdicts: Iterable[Verdict],
    evidence: Mapping[str, Evidence],
    vocabulary: Vocabulary,
) -> Iterator[tuple[Answer, dict[str, tuple[float, float]]]]:
    """What each answer adds to numerator and denominator of the metrics."""
    ruled: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        ruled[verdict.model, verdict.case_id].append(verdict)
    for answer in answers:
        objects = _recall(answer.text, evidence.get(answer.image_id), vocabulary)
        row = _count(answer, ruled[answer.model, answer.question_id], objects)
        yield answer, {name: (row[over], row[under]) for name, (over, under) in _RATIOS.items()}


def _recall(text: str, evidence: Evidence | None, vocabulary: Vocabulary) -> tuple[int, int]:
    """How many of the objects that are there are named, and how many are there."""
    if evidence is None:
        return 0, 0
    there = read_world(evidence, vocabulary).names
    named = set().union(*(vocabulary.read(sentence).names for sentence in text.split(".")))
    return len(there & named), len(there)


def _count(
    answer: Answer, rulings: Sequence[Verdict], objects: tuple[int, int]
) -> dict[str, float]:
    """What one description adds to the sums of `_COLUMNS`."""
    valid = [v for v in rulings if v.label != "unparsed"]
    wrong = [v for v in rulings if v.label == "hallucination"]
    said = [v.claim for v in rulings]
    is_generated = answer.model != CUT
    row: dict[str, float | None] = {
        "answers": 1,
        "generated": is_generated,
        "tokens": is_generated and answer.tokens,
        "unfinished": is_generated and answer.finish == "length",
        "sentences": len(said),
        "words": sum(word_count(claim) for claim in said),
        "valid": len(valid),
        "valid words": sum(word_count(v.claim) for v in valid),
        "hallucinated": len(wrong),
        "hallucinated words": sum(word_count(v.claim) for v in wrong),
        "absent": sum(v.kind == "absent" for v in wrong),
        "attribute": sum(v.kind == "attribute" for v in wrong),
        "not judged": sum(v.label == "cannot judge" for v in rulings),
        "repeated": repeated_sentences(answer.text),
        "objects named": objects[0],
        "objects": objects[1],
        "judged answers": bool(valid),
        "own ratio": len(wrong) / len(valid) if valid else 0.0,
    }
    for length in (1, 2, 3, 4):
        share = distinct(answer.text, length)
        row |= {f"distinct {length}": share, f"long enough {length}": share is not None}
    return {name: float(value or 0) for name, value in row.items()}


# Metric -> numerator and denominator among the sums of `_count`.
_RATIOS = {
    "hallucinated_sentence_ratio": ("hallucinated", "valid"),
    "absent_sentence_ratio": ("absent", "valid"),
    "attribute_sentence_ratio": ("attribute", "valid"),
    "hallucinated_word_ratio": ("hallucinated words", "valid words"),
    "hallucinated_sentence_ratio_per_image": ("own ratio", "judged answers"),
    "cannot_judge_ratio": ("not judged", "valid"),
    "sentences_per_answer": ("sentences", "answers"),
    "words_per_answer": ("words", "answers"),
    "tokens_per_answer": ("tokens", "generated"),
    "hallucinated_sentences_per_answer": ("hallucinated", "answers"),
    "hallucinated_words_per_answer": ("hallucinated words", "answers"),
    "repeated_sentences_per_answer": ("repeated", "answers"),
    "unfinished_ratio": ("unfinished", "generated"),
    "object_recall": ("objects named", "objects"),
    **{f"distinct_{k}": (f"distinct {k}", f"long enough {k}") for k in (1, 2, 3, 4)},
}
_COLUMNS = tuple(dict.fromkeys(name for pair in _RATIOS.values() for name in pair))
# Rulings that cannot be read are missing in what these are computed from.
_RULED = {
    *("valid", "valid words", "hallucinated", "hallucinated words", "absent", "attribute"),
    *("not judged", "judged answers", "own ratio"),
}
_JUDGED = {name for name, columns in _RATIOS.items() if _RULED & {*columns}}


def _metrics(model: str, counts: np.ndarray, lost: int, *, samples: int, seed: int) -> list[Metric]:
    columns = {name: _COLUMNS.index(name) for name in _COLUMNS}
    statistics = {
        name: lambda c, over=columns[over], under=columns[under]: ratio(c[..., over], c[..., under])
        for name, (over, under) in _RATIOS.items()
    }
    bounds = intervals(counts, statistics, samples=samples, seed=seed)
    total = counts.sum(axis=0)
    found = []
    for name, (_, under) in _RATIOS.items():
        value = number(float(statistics[name](total)))
        low, high = bounds[name] if value is not None else (None, None)
        unread = lost if name in _JUDGED else 0
        n = int(total[columns[under]])
        found.append(_metric(model, name, value, n, n_unreadable=unread, low=low, high=high))
    return found


def _metric(
    model: str,
    name: str,
    value: float | None,
    n: int,
    *,
    n_unreadable: int = 0,
    low: float | None = None,
    high: float | None = None,
) -> Metric:
    return Metric(
        benchmark="shr",
        split=SPLIT,
        model=model,
        name=name,
        value=value,
        n=n,
        n_unreadable=n_unreadable,
        low=low,
        high=high,
    )
