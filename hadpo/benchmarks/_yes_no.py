"""What POPE and RePOPE share: right answers, metrics, and the layouts of others' answers."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from hadpo.benchmarks._official import Form, lmms_eval, vlmevalkit
from hadpo.benchmarks._tally import Known
from hadpo.measures import Measure, Values, harmonic_mean, yes_no_rates
from hadpo.records import Answer
from hadpo.text import yes_no_strict

LABELS = ("yes", "no")
COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")
FORMS = (
    lmms_eval(id=("doc.question_id", "pope_accuracy.question_id"), split=("doc.category",)),
    vlmevalkit(split=("category",), image=("image_source",)),
    Form(
        name="POPE's own script, and HA-DPO's",
        example='{"question": "Is there a dog in the image?", "answer": "Yes."}',
        answer=("answer",),
        needs=("question",),
        id=("question_id",),
        asked=("question",),
    ),
    Form(
        name="LLaVA's scripts",
        example='{"question_id": 1, "prompt": "Is there a dog in the image?", "text": "Yes."}',
        answer=("text",),
        needs=("question_id",),
        id=("question_id",),
        asked=("prompt",),
    ),
)


def _f1(prefix: str, values: Mapping[str, Values]) -> Values:
    return harmonic_mean(values[f"{prefix}precision"], values[f"{prefix}recall"])


def _behind(*names: str, **more: Any) -> Iterator[Measure]:
    """Measures that stand in the metrics' file, after those of the tables."""
    more = {"is_headline": False, "is_shared": False, "counts_answers": True, **more}
    return (Measure(name, name.replace("_", " "), **more) for name in names)


_answered = partial(Measure, better="higher", counts_answers=True)
_strict = partial(_behind, is_read=True, needs_whole_answers=True)
MEASURES = (
    _answered("accuracy", "accuracy"),
    _answered("f1", "F1", of=partial(_f1, "")),
    _answered("precision", "precision", is_headline=False),
    _answered("recall", "recall", is_headline=False),
    Measure("yes_ratio", "yes ratio", counts_answers=True),
    *_behind(*COUNTS, unit="count"),
    *_behind("words_per_answer", unit="number", is_shared=True, needs_whole_answers=True),
    *_strict(*(f"strict_{name}" for name in COUNTS), unit="count"),
    *_strict("strict_accuracy", "strict_precision", "strict_recall"),
    *_strict("strict_f1", of=partial(_f1, "strict_")),
    *_strict("strict_yes_ratio"),
)


def unreadable(answer: Answer, known: Known) -> int:
    """1 if the strict reading finds neither yes nor no."""
    return int(yes_no_strict(answer.text) is None)


def rates(
    prefix: str, said: str | None, label: str | None, *, counts_unread: bool = True
) -> dict[str, tuple[float, float]]:
    """Counts and the five rates of one answer, as it is read.

    Args:
        prefix: of the metrics.
        said: "yes", "no", or None: neither can be read.
        label: what is right.
        counts_unread: what is neither is a wrong answer; else it leaves every denominator.
    """
    is_yes = label == "yes"
    counts = {
        "true_positives": int(said == "yes" and is_yes),
        "false_positives": int(said == "yes" and not is_yes),
        "true_negatives": int(said == "no" and not is_yes),
        "false_negatives": int(said == "no" and is_yes),
    }
    is_unread = said is None and counts_unread
    unread = {"unread_yes": int(is_unread and is_yes), "unread_no": int(is_unread and not is_yes)}
    found: dict[str, tuple[float, float]] = {prefix + key: (n, 1) for key, n in counts.items()}
    return found | {prefix + key: n for key, n in yes_no_rates(**counts, **unread).items()}
