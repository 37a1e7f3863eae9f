"""What a judged description adds to SHR's sums, and the metrics that are made of them."""

from collections.abc import Sequence

import numpy as np

from hadpo.benchmarks._bootstrap import intervals, number, ratio
from hadpo.benchmarks._shr_files import RESPONSES
from hadpo.data.shr import SPLIT
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.judges.oracle.world import read_world
from hadpo.records import Answer, Evidence, Metric, Verdict
from hadpo.text import distinct, repeated_segments, segmentation_of, word_count

CUT = "base_cut"  # the control: the base's own text, no longer than the tuned model's


def recall(text: str, evidence: Evidence | None, vocabulary: Vocabulary) -> tuple[int, int]:
    """How many of the objects that are there are named, and how many are there."""
    if evidence is None:
        return 0, 0
    there = read_world(evidence, vocabulary).names
    named = set().union(*(vocabulary.read(sentence).names for sentence in text.split(".")))
    return len(there & named), len(there)


def count(answer: Answer, rulings: Sequence[Verdict], objects: tuple[int, int]) -> dict[str, float]:
    """What one description adds to the sums of `COLUMNS`."""
    valid = [v for v in rulings if v.label != "unparsed"]
    wrong = [v for v in rulings if v.label == "hallucination"]
    said = [v.claim for v in rulings]
    how = segmentation_of(said, answer.text) or "upstream"
    is_generated = answer.model not in (CUT, RESPONSES)
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
        "repeated": repeated_segments(answer.text, how),
        "objects named": objects[0],
        "objects": objects[1],
        "judged answers": bool(valid),
        "own ratio": len(wrong) / len(valid) if valid else 0.0,
    }
    for length in (1, 2, 3, 4):
        share = distinct(answer.text, length)
        row |= {f"distinct {length}": share, f"long enough {length}": share is not None}
    return {name: float(value or 0) for name, value in row.items()}


# Metric -> numerator and denominator among the sums of `count`.
RATIOS = {
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
COLUMNS = tuple(dict.fromkeys(name for pair in RATIOS.values() for name in pair))
# Rulings that cannot be read are missing in what these are computed from.
_RULED = {
    *("valid", "valid words", "hallucinated", "hallucinated words", "absent", "attribute"),
    *("not judged", "judged answers", "own ratio"),
}
_JUDGED = {name for name, columns in RATIOS.items() if _RULED & {*columns}}


def metrics(model: str, counts: np.ndarray, lost: int, *, samples: int, seed: int) -> list[Metric]:
    columns = {name: COLUMNS.index(name) for name in COLUMNS}
    statistics = {
        name: lambda c, over=columns[over], under=columns[under]: ratio(c[..., over], c[..., under])
        for name, (over, under) in RATIOS.items()
    }
    bounds = intervals(counts, statistics, samples=samples, seed=seed)
    total = counts.sum(axis=0)
    found = []
    for name, (_, under) in RATIOS.items():
        value = number(float(statistics[name](total)))
        low, high = bounds[name] if value is not None else (None, None)
        unread = lost if name in _JUDGED else 0
        n = int(total[columns[under]])
        found.append(metric(model, name, value, n, n_unreadable=unread, low=low, high=high))
    return found


def metric(
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
