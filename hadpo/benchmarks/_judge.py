"""The judge of a run: made from the settings, its replies and bill written down."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from hadpo import config, judges, plugins
from hadpo.chat import ChatSettings, cache_file
from hadpo.config import EvaluateConfig
from hadpo.judges import JudgeSettings
from hadpo.judges.oracle.vocabulary import Vocabulary, from_evidence, from_json
from hadpo.records import BadInput, Case, Verdict, write_jsonl

if TYPE_CHECKING:
    from hadpo.runs import Run

ASKS_NOBODY = "oracle"


def check(
    settings: EvaluateConfig, resolve: Callable[[str], Path], rubrics: Iterable[str]
) -> tuple[ModuleType, JudgeSettings]:
    """The judge's module and settings; everything is checked before a model is loaded.

    Args:
        settings: name the judge.
        resolve: makes paths of the settings' texts.
        rubrics: what the benchmarks' cases will ask for.

    Raises:
        BadInput: no such judge, or settings that it cannot use.
    """
    module = plugins.load("hadpo.judges", settings.judge)
    if settings.judge == ASKS_NOBODY:
        changed = _changed(settings)
        if changed:
            raise BadInput(
                f"judge {ASKS_NOBODY} asks no language model, so it cannot use "
                f"{', '.join(changed)}; leave them out, or set judge to llm or replay"
            )
        return module, JudgeSettings()
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


def make(checked: tuple[ModuleType, JudgeSettings], vocabulary: Vocabulary) -> judges.Judge:
    """The judge of `check`."""
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
    judge = make(check(settings, config.resolve_path, ["shr"]), words)
    return judges.agreement(labelled, judges.rule_all(judge, cases))


def rule(run: "Run", judge: judges.Judge, cases: Sequence[Case]) -> list[Verdict]:
    """The judge's verdicts; its replies and its bill are written down however it ends.

    Raises:
        Unfinished: cases that got no reply; says how to go on.
    """
    if not isinstance(judge, judges.AskingJudge):
        return judges.rule_all(judge, cases)
    try:
        return judges.rule_all(judge, cases)
    except judges.Unfinished as error:
        command = f"hadpo stage evaluate {run.recipe.name} --name {run.name}"
        raise judges.Unfinished(
            f"{error}; nothing that was paid for is lost, go on with: {command}"
        ) from error
    finally:
        write_jsonl(run.path("judge_replies.jsonl"), judge.replies.values())
        run.note(judge=judge.report())


def _changed(settings: EvaluateConfig) -> list[str]:
    """Settings of an asking judge that are not at their defaults."""
    return [
        f.name
        for f in dataclasses.fields(settings)
        if f.name.startswith("judge_") and getattr(settings, f.name) != f.default
    ]
