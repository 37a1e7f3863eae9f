"""What metrics rest on, image by image: enough to pair two runs, small enough to be shared."""

import json
from collections.abc import Iterable, Mapping, Sequence

from hadpo.records import Answer, BadInput, Outcome, Question, value_hash
from hadpo.text import yes_no_upstream

Sums = Mapping[str, tuple[float, float]]  # metric -> numerator and denominator of one answer


def outcomes(
    rows: Iterable[tuple[Answer, Sums]], questions: Sequence[Question], *, whole: str = ""
) -> list[Outcome]:
    """One record per split and model.

    Args:
        rows: answers with what each adds to the sums of every metric; see the benchmarks' `sums`.
        questions: what was asked.
        whole: a split that all questions belong to, beside their own; empty: there is none.

    Raises:
        BadInput: an answer to an unknown question.
    """
    asked = {question.question_id: question for question in questions}
    found: dict[tuple[str, str], list[tuple[Answer, Sums]]] = {}
    for answer, sums in rows:
        if answer.question_id not in asked:
            raise BadInput(f"answer to an unknown question: {answer.question_id}")
        for split in dict.fromkeys((whole or answer.split, answer.split)):
            found.setdefault((split, answer.model), []).append((answer, sums))
    return [_outcome(split, model, asked, own) for (split, model), own in found.items()]


def _outcome(
    split: str,
    model: str,
    asked: Mapping[str, Question],
    rows: Sequence[tuple[Answer, Sums]],
) -> Outcome:
    images: dict[str, dict[str, list[float]]] = {}
    names: dict[str, None] = {}
    for answer, sums in rows:
        totals = images.setdefault(answer.image_id, {})
        names |= dict.fromkeys(sums)
        for name, (over, under) in sums.items():
            total = totals.setdefault(name, [0.0, 0.0])
            total[0] += over
            total[1] += under
    questions = sorted((asked[a.question_id] for a, _ in rows), key=lambda q: q.question_id)
    lines = [json.dumps([q.question_id, q.image_id, q.text, q.label]) for q in questions]
    said = {answer.question_id: answer.text for answer, _ in rows}
    nothing = [0.0, 0.0]
    return Outcome(
        benchmark=rows[0][0].benchmark,
        split=split,
        model=model,
        questions=value_hash("\n".join(lines)),
        n_questions=len(questions),
        images=tuple(images),
        sums={
            name: (
                tuple(totals.get(name, nothing)[0] for totals in images.values()),
                tuple(totals.get(name, nothing)[1] for totals in images.values()),
            )
            for name in names
        },
        right="".join(
            str(int(yes_no_upstream(said[q.question_id]) == q.label))
            for q in questions
            if q.label in ("yes", "no")
        ),
    )
