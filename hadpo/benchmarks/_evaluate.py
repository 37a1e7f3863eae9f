"""The stage evaluate: every model answers every benchmark, a judge rules, metrics are written."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hadpo import plugins
from hadpo.benchmarks import _judge
from hadpo.benchmarks._answers import BASE, TUNED, answers_of, files_of
from hadpo.benchmarks._outcomes import outcomes as outcomes_of
from hadpo.config import names
from hadpo.judges.oracle.vocabulary import Vocabulary, from_json
from hadpo.records import (
    Answer,
    BadInput,
    Evidence,
    Metric,
    Outcome,
    Question,
    Verdict,
    read_jsonl,
    write_jsonl,
)

if TYPE_CHECKING:
    from hadpo.runs import Run

log = logging.getLogger(__name__)


def evaluate(run: "Run") -> list[Metric]:
    """Answer, judge and score; writes samples, verdicts, metrics and decoding.json.

    Answers are appended to samples.jsonl one by one: a killed run goes on where it stopped, and a
    model whose answers are all there is not loaded.

    Returns:
        All metrics, in the order of benchmarks, models and splits.

    Raises:
        BadInput: an unknown benchmark, model or judge, or an earlier stage is not done.
    """
    settings = run.settings
    modules = modules_of(settings)
    checked = _judge.check(settings, run.resolve, [m.RUBRIC for m in modules.values() if m.RUBRIC])
    questions = questions_of(run, modules)
    files = {name: files_of(run, name) for name in names(settings.models)}
    if settings.cut_control and not {BASE, TUNED} <= files.keys():
        raise BadInput(f"cut_control compares {BASE} with {TUNED}; models: {settings.models!r}")
    every = read_jsonl(run.earlier("prepare", "evidence.jsonl"), Evidence)
    evidence = {each.image_id: each for each in every}
    vocabulary = _vocabulary(run.earlier("prepare", "vocabulary.json"))
    judge = _judge.make(checked, vocabulary)
    answers = answers_of(run, modules, questions, files)
    answers += _responses(run, questions, modules)
    verdicts: list[Verdict] = []
    metrics: list[Metric] = []
    outcomes: list[Outcome] = []
    warnings: list[str] = []
    for name, module in modules.items():
        asked = [q for q in questions if q.benchmark == name]
        own = [a for a in answers if a.benchmark == name]
        if settings.cut_control and hasattr(module, "cut"):
            by_model = {m: [a for a in own if a.model == m] for m in (BASE, TUNED)}
            own += module.cut(by_model[BASE], by_model[TUNED], settings)
        ruled = _judge.rule(run, judge, module.cases(own, evidence, asked, settings))
        verdicts += ruled
        scored = module.score(
            own,
            asked,
            ruled,
            evidence,
            vocabulary,
            samples=settings.bootstrap_samples,
            seed=settings.evaluate_seed,
            settings=settings,
        )
        metrics += scored
        whole = getattr(module, "SPLIT", "")
        outcomes += outcomes_of(
            module.sums(own, asked, ruled, evidence, vocabulary), asked, whole=whole
        )
        if hasattr(module, "export"):
            module.export(own, ruled, scored, lambda *parts: run.path("original", *parts))
        warnings += module.warnings(scored, asked) if hasattr(module, "warnings") else []
    write_jsonl(run.path("verdicts.jsonl"), verdicts)
    write_jsonl(run.path("outcomes.jsonl"), outcomes)
    write_jsonl(run.path("metrics.jsonl"), metrics)
    for warning in warnings:
        log.warning(warning)
    run.note(warnings=warnings)
    counts = Counter(f"{a.model}, {a.benchmark}" for a in answers)
    run.note(answers=dict(counts), verdicts=dict(Counter(v.label for v in verdicts)))
    return metrics


def _responses(run: "Run", questions: Sequence[Question], names: Iterable[str]) -> list[Answer]:
    """Descriptions of somebody else, in SHR's layout, where the settings name a file of them."""
    place = run.settings.shr_responses
    if not place:
        return []
    if "shr" not in names:
        raise BadInput("shr_responses is a file of descriptions, but shr is not evaluated")
    from hadpo.benchmarks import _shr_files

    path = run.note_input(run.resolve(place))
    return _shr_files.read_responses(path, [q for q in questions if q.benchmark == "shr"])


def modules_of(settings: Any) -> dict[str, ModuleType]:
    """The benchmarks that the settings name, by name."""
    return {name: _plugin("hadpo.benchmarks", name) for name in names(settings.benchmark_names)}


def _plugin(package: str, name: str) -> ModuleType:
    try:
        return plugins.load(package, name)
    except ValueError as error:
        raise BadInput(str(error)) from error


def questions_of(run: "Run", modules: Iterable[str]) -> list[Question]:
    """The questions of the benchmarks; at most `questions_limit` of each split."""
    limit = run.settings.questions_limit
    seen: Counter[tuple[str, str]] = Counter()
    found: list[Question] = []
    for question in read_jsonl(run.earlier("prepare", "questions.jsonl"), Question):
        place = question.benchmark, question.split
        seen[place] += 1
        if question.benchmark in modules and (not limit or seen[place] <= limit):
            found.append(question)
    without = [name for name in modules if not any(q.benchmark == name for q in found)]
    if without:
        raise BadInput(
            f"no questions of {', '.join(without)} were prepared; set the paths of the recipe's "
            "data section and redo the stage prepare, or take it out of evaluate.benchmark_names"
        )
    return found


def _vocabulary(path: Path) -> Vocabulary:
    return from_json(json.loads(path.read_text(encoding="utf-8")), where=path)
