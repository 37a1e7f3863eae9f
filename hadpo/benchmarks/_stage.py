"""The stage evaluate: every model answers every benchmark, a judge rules, metrics are written."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hadpo import config, judges, plugins
from hadpo.benchmarks._answers import (
    BASE,
    TUNED,
    answered_as,
    answers_of,
    as_asked,
    decoding_of,
    files_of,
)
from hadpo.benchmarks._tally import Benchmark, metrics, outcomes, tallies
from hadpo.chat import ChatSettings, cache_file
from hadpo.config import EvaluateConfig, names
from hadpo.judges import JudgeSettings, Rubric
from hadpo.judges.oracle.vocabulary import Vocabulary, from_evidence, from_json
from hadpo.records import (
    Answer,
    BadInput,
    Case,
    Evidence,
    Metric,
    Outcome,
    Question,
    Verdict,
    read_json,
    read_jsonl,
    write_jsonl,
)

if TYPE_CHECKING:
    from hadpo.runs import Run

log = logging.getLogger(__name__)

ASKS_NOBODY = "oracle"


def evaluate(run: "Run") -> list[Metric]:
    """Answer, judge and score; writes samples, verdicts, metrics and decoding.json.

    Answers are appended to samples.jsonl one by one: a killed run goes on where it stopped, and a
    model whose answers are all there is not loaded.

    Returns:
        All metrics, in the order of benchmarks, models and splits.

    Raises:
        BadInput: an unknown benchmark, model or judge, or an earlier stage is not done.
        Unfinished: cases that got no reply, or a benchmark whose judge nobody can read.
    """
    settings = run.settings
    benchmarks = benchmarks_of(settings)
    checked = _checked_judge(run, benchmarks)
    questions = questions_of(run, benchmarks)
    files = {name: files_of(run, name) for name in names(settings.models)}
    if settings.cut_control and not {BASE, TUNED} <= files.keys():
        raise BadInput(f"cut_control compares {BASE} with {TUNED}; models: {settings.models!r}")
    every = read_jsonl(run.earlier("prepare", "evidence.jsonl"), Evidence)
    evidence = {each.image_id: each for each in every}
    words = run.earlier("prepare", "vocabulary.json")
    content = read_json(words, dict, expected="run stage prepare again")
    vocabulary = from_json(content, where=words)
    judge = make_judge(checked, vocabulary)
    # what is missing is said before a model is loaded
    resources = {name: b.resources(vocabulary, settings) for name, b in benchmarks.items()}
    responses = _responses(run, benchmarks, questions)
    answers = answers_of(run, benchmarks, questions, files) + responses
    verdicts: list[Verdict] = []
    scored: list[Metric] = []
    sums: list[Outcome] = []
    warnings: list[str] = []
    for name, benchmark in benchmarks.items():
        asked = {q.question_id: q for q in questions if q.benchmark == name}
        own = [a for a in answers if a.benchmark == name]
        if settings.cut_control and benchmark.cut is not None:
            base, tuned = ([a for a in own if a.model == m] for m in (BASE, TUNED))
            own += benchmark.cut(base, tuned, settings)
        ruled = _rule(run, judge, benchmark.cases(own, asked, evidence, settings))
        some = [*asked.values()]
        known = evidence, vocabulary, settings, resources[name]
        rows = tallies(benchmark, own, some, ruled, *known)
        samples, seed = settings.bootstrap_samples, settings.evaluate_seed
        made = metrics(benchmark, rows, some, samples=samples, seed=seed, settings=settings)
        sums += outcomes(benchmark, rows, some)
        benchmark.export(own, ruled, made, lambda *parts: run.path("original", *parts))
        warnings += benchmark.warnings(made, some)
        if isinstance(judge, judges.AskingJudge):
            warnings += filter(None, [judges.unread(ruled, name)])
        verdicts += ruled
        scored += made
    write_jsonl(run.path("verdicts.jsonl"), verdicts)
    write_jsonl(run.path("outcomes.jsonl"), sums)
    write_jsonl(run.path("metrics.jsonl"), scored)
    for warning in warnings:
        log.warning(warning)
    run.note(warnings=warnings)
    counts = Counter(f"{a.model}, {a.benchmark}" for a in answers)
    run.note(answers=dict(counts), verdicts=dict(Counter(v.label for v in verdicts)))
    if nothing := [w for w in warnings if w.startswith(judges.NOTHING_READ)]:
        raise judges.Unfinished("; ".join(nothing))
    return scored


def benchmarks_of(settings: EvaluateConfig) -> dict[str, Benchmark]:
    """The benchmarks that the settings name, by name."""
    return {name: Benchmark.named(name) for name in names(settings.benchmark_names)}


def _responses(
    run: "Run", benchmarks: Mapping[str, Benchmark], questions: Sequence[Question]
) -> list[Answer]:
    """Answers of somebody else, in a benchmark's own layout, if a setting names a file of them."""
    settings, found = run.settings, []
    for name in plugins.available("hadpo.benchmarks"):
        place = getattr(settings, f"{name}_responses", "")
        if not place:
            continue
        read = benchmarks[name].read_responses if name in benchmarks else None
        if read is None:
            raise BadInput(f"{name}_responses is a file of answers, but {name} is not evaluated")
        path = run.note_input(run.resolve(place))
        found += read(path, [q for q in questions if q.benchmark == name])
    return found


def questions_of(run: "Run", benchmarks: Iterable[str]) -> list[Question]:
    """The questions of the benchmarks; at most `questions_limit` of each split."""
    limit = run.settings.questions_limit
    seen: Counter[tuple[str, str]] = Counter()
    found: list[Question] = []
    for question in read_jsonl(run.earlier("prepare", "questions.jsonl"), Question):
        place = question.benchmark, question.split
        seen[place] += 1
        if question.benchmark in benchmarks and (not limit or seen[place] <= limit):
            found.append(question)
    without = [name for name in benchmarks if not any(q.benchmark == name for q in found)]
    if without:
        raise BadInput(
            f"no questions of {', '.join(without)} were prepared; set the paths of the recipe's "
            "data section and redo the stage prepare, or take it out of evaluate.benchmark_names"
        )
    return found


def plan(run: "Run") -> list[dict[str, Any]]:
    """One row a benchmark and split: questions, images, models, prompt, decoding, judge.

    Raises:
        BadInput: what `evaluate` would refuse: an unknown benchmark or model, no questions.
    """
    settings = run.settings
    benchmarks = benchmarks_of(settings)
    _checked_judge(run, benchmarks)
    questions = questions_of(run, benchmarks)
    models = [name for name in dict.fromkeys(names(settings.models)) if files_of(run, name)]
    model = as_asked(run.recipe).model
    numbers = (
        ""
        if model is None or model.engine == "server"
        else ", ".join(dict.fromkeys(n for n in (model.dtype, model.quantization) if n != "none"))
    )
    rows = []
    for place in dict.fromkeys((q.benchmark, q.split) for q in questions):
        asked = [q for q in questions if (q.benchmark, q.split) == place]
        decoding = decoding_of(answered_as(benchmarks[place[0]], benchmarks), settings)
        rows.append(
            {
                "benchmark": " ".join(place),
                "questions": len(asked),
                "images": len({q.image_id for q in asked}),
                "models": ", ".join(models),
                "numbers": numbers,
                "prompt": settings.prompt,
                "beams": decoding.beams,
                "max_new_tokens": decoding.max_new_tokens,
                "batch": _batch(settings),
                "processes": settings.answer_processes,
                "judge": settings.judge,
                "for example": asked[0].text,
            }
        )
    return rows


def _batch(settings: EvaluateConfig) -> str:
    """Questions side by side, in words if their number follows from memory."""
    if settings.exact:
        return "1"
    if settings.batch_questions:
        return str(settings.batch_questions)
    gib = settings.batch_memory_gib
    return f"as many as fit into {gib:g} GiB" if gib else "as many as fit"


def _checked_judge(
    run: "Run", benchmarks: Mapping[str, Benchmark]
) -> tuple[ModuleType, JudgeSettings]:
    rubrics = [rubric for each in benchmarks.values() for rubric in each.RUBRICS]
    return check_judge(run.settings, run.resolve, rubrics)


def check_judge(
    settings: EvaluateConfig, resolve: Callable[[str], Path], rubrics: Sequence[Rubric]
) -> tuple[ModuleType, JudgeSettings]:
    """The judge's module and settings; everything is checked before a model is loaded.

    Args:
        settings: name the judge.
        resolve: makes paths of the settings' texts.
        rubrics: by which the benchmarks' cases are judged.

    Raises:
        BadInput: no such judge, or settings that it cannot use.
    """
    module = plugins.load("hadpo.judges", settings.judge)
    if settings.judge == ASKS_NOBODY:
        changed = [
            f.name
            for f in dataclasses.fields(settings)
            if f.name.startswith("judge_") and getattr(settings, f.name) != f.default
        ]
        if changed:
            raise BadInput(
                f"judge {ASKS_NOBODY} asks no language model, so it cannot use "
                f"{', '.join(changed)}; leave them out, or set judge to llm or replay"
            )
        return module, JudgeSettings(rubrics=tuple(rubrics))
    chat = ChatSettings.of_section(settings, "judge_")
    if settings.judge_replies and settings.judge == "llm":
        raise BadInput("judge_replies is for judge replay; judge llm has the cache of all runs")
    return module, JudgeSettings(
        chat=chat,
        prompts=resolve(settings.judge_prompts) if settings.judge_prompts else None,
        reader=settings.judge_reader,
        attempts=settings.judge_attempts,
        replies=resolve(settings.judge_replies) if settings.judge_replies else cache_file(),
        rubrics=tuple(rubrics),
    )


def make_judge(checked: tuple[ModuleType, JudgeSettings], vocabulary: Vocabulary) -> judges.Judge:
    """The judge of `check_judge`."""
    module, settings = checked
    return module.make(vocabulary=vocabulary, settings=settings)


def agreement(
    labels: Path, settings: EvaluateConfig, vocabulary: Vocabulary | None = None
) -> judges.Agreement:
    """The judge of the settings beside a file of hand labels.

    Args:
        labels: JSON lines of a case and the labels of its claims.
        settings: name the judge.
        vocabulary: what the oracle knows; None: the words of the cases' evidence.

    Raises:
        BadInput: a broken file, or settings that the judge cannot use.
        Unfinished: cases that got no reply.
    """
    labelled = judges.read_labelled(labels)
    cases = [each.case for each in labelled]
    words = vocabulary or from_json(from_evidence(case.evidence for case in cases))
    judge = make_judge(check_judge(settings, config.resolve_path, [judges.SENTENCES]), words)
    return judges.agreement(labelled, judges.rule_all(judge, cases))


def _rule(run: "Run", judge: judges.Judge, cases: Sequence[Case]) -> list[Verdict]:
    """The judge's verdicts; its replies and its bill are written down however it ends.

    Raises:
        Unfinished: cases that got no reply; says how to go on.
    """
    try:
        return judges.rule_all(judge, cases)
    except judges.Unfinished as error:
        command = f"hadpo stage evaluate {run.recipe.name} --name {run.name}"
        raise judges.Unfinished(
            f"{error}; nothing that was paid for is lost, go on with: {command}"
        ) from error
    finally:
        if isinstance(judge, judges.AskingJudge):
            write_jsonl(run.path("judge_replies.jsonl"), judge.replies.values())
            run.note(judge=judge.report())
