"""The stage evaluate: every model answers every benchmark, a judge rules, metrics are written."""

import gc
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hadpo import backbones, plugins
from hadpo.benchmarks import _judge
from hadpo.benchmarks._outcomes import outcomes as outcomes_of
from hadpo.config import EvaluateConfig
from hadpo.judges.oracle.vocabulary import Vocabulary, from_json
from hadpo.records import (
    Answer,
    BadInput,
    Evidence,
    Metric,
    Outcome,
    Question,
    Verdict,
    drop_torn_end,
    input_hashes,
    read_jsonl,
    refuse_changed,
    to_json,
    write_jsonl,
    write_text,
)
from hadpo.runs import read_manifest

if TYPE_CHECKING:
    from hadpo.backbones._base import Backbone
    from hadpo.runs import Run

log = logging.getLogger(__name__)

BASE, TUNED = "base", "merged"
Files = dict[str, str | Path]


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
    answers = _answers(run, modules, questions, files)
    verdicts: list[Verdict] = []
    metrics: list[Metric] = []
    outcomes: list[Outcome] = []
    warnings: list[str] = []
    for name, module in modules.items():
        asked = [q for q in questions if q.benchmark == name]
        own = [a for a in answers if a.benchmark == name]
        if settings.cut_control and hasattr(module, "cut"):
            by_model = {m: [a for a in own if a.model == m] for m in (BASE, TUNED)}
            own += module.cut(by_model[BASE], by_model[TUNED])
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


def names(text: str) -> list[str]:
    """Names of a comma-separated setting, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def modules_of(settings: EvaluateConfig) -> dict[str, ModuleType]:
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


def files_of(run: "Run", name: str) -> Files:
    """The files of one model: the recipe's, with the merged language model for all but the base.

    Raises:
        BadInput: no such model was trained and merged.
    """
    parts: Files = backbones.files_of(run.recipe, run.resolve)
    if name == BASE:
        return parts
    folder = run.earlier("merge")
    controls = sorted(path.parent.name for path in folder.glob("controls/*/merged"))
    if name != TUNED and name not in controls:
        known = [BASE, TUNED, *controls]
        raise BadInput(
            f"evaluate.models: no model {name!r}; {plugins.choices(name, known)}; "
            "controls are trained where train.controls names them"
        )
    place = ("merged",) if name == TUNED else ("controls", name, "merged")
    manifest = read_manifest(folder)
    facts = manifest.facts if manifest else {}
    noted = facts.get("merged_dpo" if name == TUNED else f"merged_{name}", {}).get("files", {})
    return {**parts, **noted, "language_model": run.earlier("merge", *place)}


def _vocabulary(path: Path) -> Vocabulary:
    return from_json(json.loads(path.read_text(encoding="utf-8")), where=path)


def _answers(
    run: "Run",
    modules: dict[str, ModuleType],
    questions: Sequence[Question],
    files: dict[str, Files],
) -> list[Answer]:
    """All answers of all models, from samples.jsonl or newly generated into it."""
    path = run.path("samples.jsonl")
    kept = _kept(path)
    _note_inputs(run, files, path if kept else None)
    ids = {question.question_id for question in questions}
    found = [a for a in kept if a.model in files and a.question_id in ids]
    for model, parts in files.items():
        done = {a.question_id for a in found if a.model == model}
        if ids <= done:
            log.info("%s: all %d answers are there", model, len(ids))
            continue
        backbone = backbones.load_for(run.recipe, parts)
        _write_decoding(run, modules, backbone)
        with path.open("a", encoding="utf-8") as file:
            for answer in _ask(run, modules, questions, backbone, model=model, done=done):
                file.write(to_json(answer) + "\n")
                file.flush()
                found.append(answer)
        del backbone
        gc.collect()  # one model at a time: a 7B model fills most of a GPU
    order = {name: place for place, name in enumerate(files)}
    return sorted(found, key=lambda answer: order[answer.model])


def _note_inputs(run: "Run", files: dict[str, Files], answers: Path | None) -> None:
    """Hash what the numbers rest on; answers that other weights gave are refused."""
    noted = run.manifest.facts.get("inputs", {})
    places = [place for parts in files.values() for place in parts.values()]
    weights = input_hashes(places, below=run.folder.parent)
    if answers is not None:
        refuse_changed(noted, weights, where=answers)
    names = ("questions.jsonl", "evidence.jsonl", "vocabulary.json")
    records = input_hashes(
        [run.earlier("prepare", name) for name in names], below=run.folder.parent
    )
    run.note(inputs={**noted, **records, **weights})


def _kept(path: Path) -> list[Answer]:
    """Answers of an earlier start; a line that a killed writer tore is cut off the file."""
    drop_torn_end(path)
    return list(read_jsonl(path, Answer)) if path.is_file() else []


def _ask(
    run: "Run",
    modules: dict[str, ModuleType],
    questions: Sequence[Question],
    backbone: "Backbone",
    *,
    model: str,
    done: set[str],
) -> Iterable[Answer]:
    from hadpo.generation import generate

    settings = run.settings
    for name, module in modules.items():
        yield from generate(
            backbone,
            [question for question in questions if question.benchmark == name],
            module.decoding(settings),
            prompt=settings.prompt,
            batch_questions=settings.batch_questions,
            model=model,
            done=done,
            exact=settings.exact,
        )


def _write_decoding(run: "Run", modules: dict[str, ModuleType], backbone: "Backbone") -> None:
    """What every number rests on: prompt, decoding, reading of the answers, judge."""
    settings: EvaluateConfig = run.settings
    found: dict[str, Any] = {
        name: {
            "prompt": getattr(backbone.PROMPTS, settings.prompt).text,
            "prompt_name": settings.prompt,
            "decoding": asdict(module.decoding(settings)),
            "readings": module.READINGS,
            "judge": settings.judge,
        }
        for name, module in modules.items()
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    write_text(run.path("decoding.json"), text)
    run.note(decoding=found)
