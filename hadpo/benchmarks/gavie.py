"""GAVIE: answers to instructions, graded by a judge from 0 to 10 for relevancy and accuracy.

All models' answers to one question stand in one case, in an order that is drawn for each question
(graders favour places) and recorded: a verdict's `place` says where its answer stood. The judge
sees the regions of the image and no right answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic.dataclasses import dataclass

from hadpo.benchmarks._bootstrap import intervals, number, ratio
from hadpo.benchmarks._decoding import decoding_of
from hadpo.benchmarks._together import together
from hadpo.config import STRICT, AtLeastOne, section_types
from hadpo.data.gavie import SPLIT, questions
from hadpo.records import Answer, BadInput, Case, Evidence, Metric, Question, Verdict
from hadpo.text import word_count

if TYPE_CHECKING:
    from hadpo.generation import Decoding

__all__ = ["CRITERIA", "READINGS", "RUBRIC", "cases", "decoding", "questions", "score", "sums"]

RUBRIC = "gavie"
READINGS = {"": "scores"}
CRITERIA = ("relevancy", "accuracy")
_GRADED, _WORDS, _ANSWERS = 2, 3, 4  # columns after those of the criteria


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    gavie: str = ""  # GAVIE's evaluation_set.json: questions about Visual Genome images
    gavie_regions: str = ""  # LRV's vg_annotation.json: what GAVIE's judge sees; empty: VG's own


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated, and what the judge sees."""

    gavie_beams: AtLeastOne = 1  # 1: greedy
    gavie_max_new_tokens: AtLeastOne = 512  # an answer to one instruction
    height_bug_compat: bool = False  # GAVIE's judge sees each box as high as wide, as published


def decoding(settings: Any) -> "Decoding":
    """How answers are generated."""
    return decoding_of("gavie", settings)


def cases(
    answers: Iterable[Answer],
    evidence: Mapping[str, Evidence],
    questions: Sequence[Question] = (),
    settings: Any = None,
) -> list[Case]:
    """A case per question with the answers of all models, in an order drawn by `evaluate_seed`.

    With `height_bug_compat` each box is as high as it is wide, as in the published prompts, whose
    script printed the width twice.

    Raises:
        BadInput: no evidence of an image.
    """
    settings = settings or section_types()["evaluate"]()
    asked = {question.question_id: question for question in questions}
    found = []
    for key, shown in together(answers, seed=settings.evaluate_seed):
        question = asked[key]
        if question.image_id not in evidence:
            raise BadInput(f"no evidence of image {question.image_id}: {key} cannot be judged")
        known = evidence[question.image_id]
        if settings.height_bug_compat:
            known = replace(known, regions=tuple(replace(r, height=r.width) for r in known.regions))
        found.append(
            Case(
                case_id=key,
                model="",
                claims=tuple(answer.text for answer in shown),
                evidence=known,
                rubric=RUBRIC,
                question=question.text,
                claim_models=tuple(answer.model for answer in shown),
            )
        )
    return found


def score(
    answers: Sequence[Answer],
    questions: Sequence[Question],
    verdicts: Sequence[Verdict],
    evidence: Mapping[str, Evidence] | None = None,
    vocabulary: object = None,
    *,
    samples: int = 1000,
    seed: int = 42,
    settings: Any = None,
) -> list[Metric]:
    """The metrics of every model, over all questions and, where there are several, of each task.

    Args:
        answers: of any number of models.
        questions: what was asked; their splits are the tasks.
        verdicts: one per answer.
        evidence: not used.
        vocabulary: not used.
        samples: resampled image sets behind each interval.
        seed: of the resampling.
        settings: not used.

    Returns:
        relevancy and accuracy, means of 0 to 10 over the graded answers, the others being
        unreadable; words_per_answer; unanswered.

    Raises:
        BadInput: verdicts that do not fit the answers.
    """
    graded = {(v.model, v.case_id): v for v in verdicts}
    asked = {question.question_id: question for question in questions}
    tasks = list(dict.fromkeys(q.split for q in questions))
    found: list[Metric] = []
    for model in dict.fromkeys(a.model for a in answers):
        own = [a for a in answers if a.model == model]
        absent = [a.question_id for a in own if (model, a.question_id) not in graded]
        if absent:
            raise BadInput(f"{model}: no verdict on {', '.join(absent[:5])}; judge again")
        for task in [SPLIT, *(t for t in tasks if t != SPLIT)]:
            some = [a for a in own if task in (SPLIT, asked[a.question_id].split)]
            total = sum(task in (SPLIT, q.split) for q in questions)
            rows = [(a, graded[model, a.question_id]) for a in some]
            found += _metrics(model, task, rows, total, samples=samples, seed=seed)
    return found


def sums(
    answers: Iterable[Answer],
    questions: Sequence[Question],
    verdicts: Iterable[Verdict],
    evidence: object = None,
    vocabulary: object = None,
) -> Iterator[tuple[Answer, dict[str, tuple[float, float]]]]:
    """What each answer adds to numerator and denominator of the metrics."""
    graded = {(v.model, v.case_id): v for v in verdicts if v.label == "scored"}
    for answer in answers:
        verdict = graded.get((answer.model, answer.question_id))
        scores = {name: verdict.scores[name] if verdict else 0.0 for name in CRITERIA}
        found = {name: (score, float(verdict is not None)) for name, score in scores.items()}
        yield answer, found | {"words_per_answer": (float(word_count(answer.text)), 1.0)}


def _metrics(
    model: str,
    task: str,
    rows: Sequence[tuple[Answer, Verdict]],
    asked: int,
    *,
    samples: int,
    seed: int,
) -> list[Metric]:
    images: dict[str, np.ndarray] = {}
    for answer, verdict in rows:
        row = images.setdefault(answer.image_id, np.zeros(5))
        if verdict.label == "scored":
            row[: len(CRITERIA)] += [verdict.scores[name] for name in CRITERIA]
            row[_GRADED] += 1
        row[_WORDS] += word_count(answer.text)
        row[_ANSWERS] += 1
    counts = np.array(list(images.values())).reshape(len(images), 5)
    columns = {name: (i, _GRADED) for i, name in enumerate(CRITERIA)}
    columns["words_per_answer"] = (_WORDS, _ANSWERS)
    statistics = {
        name: lambda c, over=over, under=under: ratio(c[..., over], c[..., under])
        for name, (over, under) in columns.items()
    }
    bounds = intervals(counts, statistics, samples=samples, seed=seed)
    total = counts.sum(axis=0)
    lost = int(total[_ANSWERS] - total[_GRADED])
    found = []
    for name, (_, under) in columns.items():
        value = number(float(statistics[name](total)))
        low, high = bounds[name] if value is not None else (None, None)
        found.append(
            Metric(
                benchmark="gavie",
                split=task,
                model=model,
                name=name,
                value=value,
                n=int(total[under]),
                n_unreadable=lost if under == _GRADED else 0,
                low=low,
                high=high,
            )
        )
    missing = Metric(
        benchmark="gavie",
        split=task,
        model=model,
        name="unanswered",
        value=float(asked - len(rows)),
        n=asked,
    )
    return [*found, missing]
