"""What a benchmark declares, and what is made of its tallies: metrics, intervals, outcomes."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from hadpo import plugins
from hadpo.judges import Rubric, verdict
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.measures import Measure, Values, ratio
from hadpo.records import (
    Answer,
    BadInput,
    Case,
    Evidence,
    Label,
    Metric,
    Outcome,
    Question,
    Verdict,
    value_hash,
)
from hadpo.text import yes_no_upstream

if TYPE_CHECKING:
    from hadpo.benchmarks._official import Form

Tally = Mapping[str, tuple[float, float]]  # metric -> numerator and denominator of one answer


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known beside an answer."""

    question: Question | None
    verdicts: Sequence[Verdict] = ()  # on its claims, in their order
    evidence: Evidence | None = None  # of its image
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    settings: Any = None  # of the section evaluate, with the benchmark's own
    resources: Any = None  # what the benchmark's `resources` made


def unparsed(answer: Answer, known: Known) -> int:
    """How many of the rulings on an answer could not be read."""
    return sum(each.label == "unparsed" for each in known.verdicts)


def _nothing(*_: Any, **__: Any) -> Any:
    return []


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark, as its module declares it; `MEASURES`, `questions`, `tally` must be there.

    The module's dataclasses `Settings` and `Data`, if it has them, are read by `hadpo.config`.
    """

    name: str
    # (answer, known) -> what the answer adds to numerator and denominator of each metric
    tally: Callable[[Answer, Known], Tally]
    MEASURES: tuple[Measure, ...]  # in the order of the tables
    WHOLE: str = ""  # a split that all questions belong to, beside their own
    MEAN: str = ""  # a split whose rates are the means of those of all other splits
    # a benchmark with the same questions: if both are evaluated, they are answered once
    SAME_QUESTIONS_AS: str = ""
    FORMS: "tuple[Form, ...]" = ()  # in which others write answers, for `hadpo score`
    LABELS: tuple[str, ...] = ()  # the right answers that questions must have; empty: any, or none
    RUBRICS: tuple[Rubric, ...] = ()  # how a judge rules on `cases`; none: no judge is asked
    # (answers, questions by id, evidence by image, settings) -> what a judge is to rule on
    cases: Callable[..., list[Case]] = _nothing
    # (settings) -> fields of `generation.Decoding` beside <name>_beams and <name>_max_new_tokens
    decoding: Callable[[Any], Mapping[str, Any]] = lambda _: {}
    READINGS: Mapping[str, str] = field(default_factory=dict)  # prefix of metrics -> how read
    readings: Callable[[Any], Mapping[str, str]] | None = None  # READINGS, by the settings
    resources: Callable[[Vocabulary, Any], Any] = lambda *_: None  # what each tally needs, once
    # (settings): BadInput if what reads words is not installed; doctor says so beforehand
    check: Callable[[Any], None] = _nothing
    # (answers with what is known, of one model) -> question id -> more tallies, of that answer: the
    # metrics of several answers together
    group_tallies: Callable[[Sequence[tuple[Answer, Known]]], Mapping[str, Tally]] | None = None
    unreadable: Callable[[Answer, Known], int] = unparsed  # of what `is_read` measures count
    cut: Callable[..., list[Answer]] | None = None  # (base's, tuned's, settings) -> the control
    read_responses: Callable[..., list[Answer]] | None = None  # of the file <name>_responses
    export: Callable[..., None] = _nothing  # (answers, verdicts, metrics, place): original files
    warnings: Callable[..., list[str]] = _nothing  # (metrics, questions) -> what cannot be right
    # text -> "yes" or "no": whether an answer to a question with such a label is right
    yes_no: Callable[[str], str | None] = yes_no_upstream

    @classmethod
    def named(cls, name: str) -> "Benchmark":
        """The declarations of the module of that name.

        Raises:
            BadInput: there is none, or a name that every benchmark declares is missing in it.
        """
        module = plugins.load("hadpo.benchmarks", name)
        fields = cls.__dataclass_fields__.keys() - {"name"}
        missing = [each for each in ("MEASURES", "questions", "tally") if not hasattr(module, each)]
        if missing:
            raise BadInput(f"benchmark {name}: {module.__file__} lacks {', '.join(missing)}")
        return cls(name=name, **{f: getattr(module, f) for f in fields if hasattr(module, f)})


@dataclass(frozen=True)
class Row:
    """One answer with what it adds to the sums."""

    answer: Answer
    question: Question | None
    tally: Tally
    n_unreadable: int

    @property
    def place(self) -> Question | Answer:
        """What says split and image: the question, if it is known."""
        return self.question or self.answer


def tallies(
    benchmark: Benchmark,
    answers: Iterable[Answer],
    questions: Sequence[Question],
    verdicts: Iterable[Verdict] = (),
    evidence: Mapping[str, Evidence] | None = None,
    vocabulary: Vocabulary | None = None,
    settings: Any = None,
    resources: Any = None,
) -> list[Row]:
    """The tally of every answer; answers meet their questions by id, never by position.

    `resources` are the benchmark's, if they are made already.

    Raises:
        BadInput: an answer to an unknown question, two answers of a model to one question, or what
            the benchmark refuses.
    """
    asked = {question.question_id: question for question in questions}
    answers = list(answers)
    _check(benchmark, answers, questions)
    ruled: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for each in verdicts:
        ruled[each.model, each.case_id].append(each)
    words = vocabulary or Vocabulary()
    if answers and resources is None:
        resources = benchmark.resources(words, settings)
    rows: list[Row] = []
    groups: dict[str, list[tuple[Answer, Known]]] = defaultdict(list)
    for answer in answers:
        known = Known(
            question=asked.get(answer.question_id),
            verdicts=ruled[answer.model, answer.question_id],
            evidence=(evidence or {}).get(answer.image_id),
            vocabulary=words,
            settings=settings,
            resources=resources,
        )
        groups[answer.model].append((answer, known))
        tally, lost = benchmark.tally(answer, known), benchmark.unreadable(answer, known)
        rows.append(Row(answer, known.question, tally, lost))
    if benchmark.group_tallies is None:
        return rows
    more = {model: benchmark.group_tallies(own) for model, own in groups.items()}
    return [
        replace(row, tally={**row.tally, **more[row.answer.model].get(row.answer.question_id, {})})
        for row in rows
    ]


def _check(benchmark: Benchmark, answers: Sequence[Answer], questions: Sequence[Question]) -> None:
    """Raise BadInput if answers do not fit their questions."""
    known = {question.question_id for question in questions}
    if len(known) != len(questions):
        raise BadInput("question ids are not unique")
    labels = benchmark.LABELS
    other = [q.question_id for q in questions if labels and q.label not in labels]
    if other:
        few = ", ".join(other[:5])
        raise BadInput(f"{len(other)} questions without a label {' or '.join(labels)}: {few} ...")
    unknown = sorted({a.question_id for a in answers} - known) if questions else []
    if unknown:
        raise BadInput(f"{len(unknown)} answers to unknown questions: {', '.join(unknown[:5])} ...")
    times = Counter((answer.model, answer.question_id) for answer in answers)
    for (model, question), count in times.items():
        if count > 1:
            raise BadInput(f"{model}: two answers to question {question}")


def score(
    name: str,
    answers: Iterable[Answer],
    questions: Sequence[Question],
    verdicts: Iterable[Verdict] = (),
    evidence: Mapping[str, Evidence] | None = None,
    vocabulary: Vocabulary | None = None,
    *,
    samples: int = 1000,
    seed: int = 42,
    settings: Any = None,
) -> list[Metric]:
    """Compute the metrics of each model and split from its answers.

    Args:
        name: of the benchmark.
        answers: of any number of models.
        questions: what was asked; those without an answer are counted. Without any, answers are
            taken as they are.
        verdicts: on the cases of a judged benchmark.
        evidence: by image id.
        vocabulary: the words that name objects.
        samples: resampled image sets behind each interval; 0: no intervals.
        seed: of the resampling.
        settings: the section evaluate, or the benchmark's own settings.

    Raises:
        BadInput: answers, questions and verdicts that do not fit each other.
    """
    benchmark = Benchmark.named(name)
    rows = tallies(benchmark, answers, questions, verdicts, evidence, vocabulary, settings)
    return metrics(benchmark, rows, questions, samples=samples, seed=seed, settings=settings)


def metrics(
    benchmark: Benchmark,
    rows: Sequence[Row],
    questions: Sequence[Question],
    *,
    samples: int,
    seed: int,
    settings: Any = None,
) -> list[Metric]:
    """The metrics of tallied answers: models as they come, then splits, then metrics as tallied.

    Every metric has its n and, if it rests on a reading or a judge, what could not be read; then
    `unanswered` says how many questions have no answer.
    """
    ends_early = settings is not None and bool(benchmark.decoding(settings).get("stop_at"))
    order = {question.question_id: at for at, question in enumerate(questions)}
    own_splits = [q.split for q in questions] or [row.place.split for row in rows]
    splits = list(dict.fromkeys(s for own in own_splits for s in splits_of(benchmark, own)))
    if benchmark.MEAN and len(splits) > 1:
        splits.append(benchmark.MEAN)
    found = []
    for model in dict.fromkeys(row.answer.model for row in rows):
        own = [row for row in rows if row.answer.model == model]
        own.sort(key=lambda row: order.get(row.answer.question_id, 0))
        names = dict.fromkeys(name for row in own for name in row.tally)
        for split in splits:
            is_mean = split == benchmark.MEAN
            here = [s for s in splits if s != split] if is_mean else [split]
            groups = [[r for r in own if s in splits_of(benchmark, r.place.split)] for s in here]
            some = [row for group in groups for row in group]
            key: dict[str, Any] = {"benchmark": benchmark.name, "split": split, "model": model}
            tallied = dict.fromkeys(name for row in some for name in row.tally) or names
            measures = [measure_of(benchmark, name) for name in tallied]
            measures = [m for m in measures if not is_mean or m.unit != "count"]
            for measure, values in _measured(measures, groups, samples=samples, seed=seed):
                if measure.needs_whole_answers and ends_early:
                    values = {"value": None, "n": 0}
                found.append(Metric(name=measure.name, **key, **values))
            asked = sum({*here} & {*splits_of(benchmark, q.split)} != set() for q in questions)
            missing = float(asked - len(some))
            found.append(Metric(name="unanswered", **key, value=missing, n=asked))
    return found


def splits_of(benchmark: Benchmark, split: str) -> tuple[str, ...]:
    """What an answer of a split counts in: the whole, the group before a slash, and the split."""
    whole = [benchmark.WHOLE] if benchmark.WHOLE else []
    return tuple(dict.fromkeys((*whole, split.partition("/")[0], split)))


def _measured(
    measures: Sequence[Measure], groups: Sequence[Sequence[Row]], *, samples: int, seed: int
) -> Iterator[tuple[Measure, dict[str, Any]]]:
    """Each metric of some answers of one model: its value, n, what is unreadable, its interval.

    The value is the mean of those of the groups. `counts` is images x (groups * measures * 2):
    numerator, denominator, numerator, ...
    """
    rows = [row for group in groups for row in group]
    images = dict.fromkeys(row.place.image_id for row in rows)
    names = [measure.name for measure in measures]
    counts = np.hstack([_sums(group, names, images) for group in groups])

    def means(sums: Float[np.ndarray, "... columns"]) -> dict[str, Values]:
        parts = [_values(measures, own) for own in np.split(sums, len(groups), axis=-1)]
        return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}

    total = counts.sum(axis=0)
    under = total.reshape(len(groups), -1).sum(axis=0)[1::2]  # the denominators
    values = {name: number(value) for name, value in means(total).items()}
    bounds = intervals(counts, means, samples=samples, seed=seed)
    lost = sum(row.n_unreadable for row in rows)
    for at, measure in enumerate(measures):
        value, n = values[measure.name], int(under[at])
        if measure.counts_answers:
            n = len(rows) if value is not None else 0
        has_interval = value is not None and measure.unit != "count"
        low, high = bounds[measure.name] if has_interval else (None, None)
        unread = lost if measure.is_read else 0
        yield measure, {"value": value, "n": n, "n_unreadable": unread, "low": low, "high": high}


def _sums(
    rows: Iterable[Row], names: Sequence[str], images: Iterable[str]
) -> Float[np.ndarray, "images columns"]:
    """What each image adds to numerators and denominators: two columns for each name."""
    sums = {image: np.zeros(2 * len(names)) for image in images}
    for row in rows:
        pairs = [row.tally.get(name, (0.0, 0.0)) for name in names]
        sums[row.place.image_id] += np.array(pairs, dtype=float).ravel()
    return np.array([*sums.values()]).reshape(len(sums), 2 * len(names))


def _values(
    measures: Sequence[Measure], sums: Float[np.ndarray, "... columns"]
) -> dict[str, Values]:
    """The metrics of summed counts, two columns for each measure, over any leading axes."""
    found: dict[str, Values] = {}
    for at, measure in enumerate(measures):
        over, under = sums[..., 2 * at], sums[..., 2 * at + 1]
        found[measure.name] = over if measure.unit == "count" else ratio(over, under)
    return found | {m.name: m.of(found) for m in measures if m.of is not None}


def measure_of(benchmark: Benchmark, name: str) -> Measure:
    """The measure that a benchmark declares for one of its tallies; BadInput: it declares none."""
    for measure in benchmark.MEASURES:
        if measure.name == name:
            return measure
    raise BadInput(f"benchmark {benchmark.name}: its tally has {name!r}, its MEASURES have not")


def intervals(
    counts: Float[np.ndarray, "images columns"],
    statistics: Callable[[Float[np.ndarray, "samples columns"]], Mapping[str, Values]],
    *,
    samples: int,
    seed: int,
) -> Mapping[str, tuple[float | None, float | None]]:
    """95 % percentile bootstrap over images: answers about one image are not independent.

    Args:
        counts: what each image adds to numerators and denominators.
        statistics: summed counts -> values by name; NaN where one has no valid denominator (such
            draws are left out).
        samples: how many times the images are drawn, with replacement; 0 gives no intervals.
        seed: of the draws; the same seed and images give the same draws, so models can be compared.

    Returns:
        name -> (2.5 %, 97.5 %), (None, None) where no draw has a value.
    """
    images = len(counts)
    if not images or not samples:
        return defaultdict(lambda: (None, None))
    draw = np.random.default_rng(seed)
    times: Int[np.ndarray, "samples images"] = draw.multinomial(
        images, np.full(images, 1 / images), size=samples
    )
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, values in statistics(times @ counts).items():
        valid = np.asarray(values)[~np.isnan(values)]
        low, high = np.percentile(valid, (2.5, 97.5)) if len(valid) else (np.nan, np.nan)
        found[name] = number(low), number(high)
    return found


def number(value: float | Values) -> float | None:
    """None for NaN, for records."""
    return None if np.isnan(value) else float(value)


def outcomes(
    benchmark: Benchmark, rows: Iterable[Row], questions: Sequence[Question]
) -> list[Outcome]:
    """One record per split and model: what its metrics rest on, image by image.

    Raises:
        BadInput: an answer to an unknown question.
    """
    asked = {question.question_id: question for question in questions}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.answer.question_id not in asked:
            raise BadInput(f"answer to an unknown question: {row.answer.question_id}")
        for split in splits_of(benchmark, row.answer.split):
            found.setdefault((split, row.answer.model), []).append(row)
    shared = {m.name for m in benchmark.MEASURES if m.is_shared}
    return [
        _outcome(benchmark, split, model, asked, own, shared)
        for (split, model), own in found.items()
    ]


def _outcome(
    benchmark: Benchmark,
    split: str,
    model: str,
    asked: Mapping[str, Question],
    rows: Sequence[Row],
    shared: set[str],
) -> Outcome:
    names = list(dict.fromkeys(name for row in rows for name in row.tally if name in shared))
    images = dict.fromkeys(row.place.image_id for row in rows)
    counts = _sums(rows, names, images)
    columns = [tuple(column) for column in counts.T.tolist()]
    questions = sorted((asked[r.answer.question_id] for r in rows), key=lambda q: q.question_id)
    lines = [json.dumps([q.question_id, q.image_id, q.text, q.label]) for q in questions]
    said = {row.answer.question_id: row.answer.text for row in rows}
    return Outcome(
        benchmark=rows[0].answer.benchmark,
        split=split,
        model=model,
        questions=value_hash("\n".join(lines)),
        n_questions=len(questions),
        images=tuple(images),
        sums={n: (columns[2 * at], columns[2 * at + 1]) for at, n in enumerate(names)},
        right="".join(
            str(int(benchmark.yes_no(said[q.question_id]) == q.label))
            for q in questions
            if q.label in ("yes", "no")
        ),
    )


def together(
    answers: Iterable[Answer], questions: Mapping[str, Question], *, rubric: str, seed: int
) -> list[Case]:
    """A case for each question with the answers of all models, and nothing known of the image.

    Graders favour places, so seed and question shuffle the answers.
    """
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.question_id].append(answer)
    found = []
    for key, group in groups.items():
        shown = sorted(group, key=lambda answer: answer.model)
        random.Random(f"{seed}/{key}").shuffle(shown)
        question = questions[key]
        case = Case(
            case_id=key,
            model="",
            claims=tuple(answer.text for answer in shown),
            evidence=Evidence(image_id=question.image_id, image=question.image, width=0, height=0),
            rubric=rubric,
            question=question.text,
            claim_models=tuple(answer.model for answer in shown),
        )
        found.append(case)
    return found


def evidence_of(image_id: str, known: Evidence | None) -> Evidence:
    """What is known of an image; BadInput if nothing is."""
    if known is None:
        raise BadInput(f"no evidence of image {image_id}: what is said of it cannot be judged")
    return known


def alone(
    answer: Answer, rubric: str, facts: tuple[str, ...], *, question: str = "", picture: str = ""
) -> Case:
    """A case of one answer as a whole.

    Args:
        answer: its text is the only claim.
        rubric: by which a judge rules.
        facts: what the judge is told beside the question.
        question: what was asked.
        picture: what the judge is shown; "": nothing.
    """
    known = Evidence(image_id=answer.image_id, image=picture, width=0, height=0, facts=facts)
    return Case(
        case_id=answer.question_id,
        model=answer.model,
        claims=(answer.text,),
        evidence=known,
        rubric=rubric,
        question=question,
    )


def ruled(case: Case, label: Label, scores: dict[str, float], reply: str = "") -> list[Verdict]:
    """The one verdict on a case of one claim, with the reply that it rests on."""
    return [verdict(case, 1, label, kind=case.rubric, raw=reply, scores=scores)]


def only_verdict(answer: Answer, known: Known) -> Verdict:
    """The one verdict on an answer that is judged as a whole; BadInput if there is none."""
    if len(known.verdicts) != 1:
        raise BadInput(f"{answer.model}: no verdict on {answer.question_id}; judge again")
    return known.verdicts[0]


def shown_picture(case: Case) -> tuple[Path, ...]:
    """The picture to show a judge that can see; empty if the case has none."""
    return (Path(case.evidence.image),) if case.evidence.image else ()
