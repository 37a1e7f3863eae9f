"""What evaluate is about to do, counted before a model is loaded."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hadpo.benchmarks import _judge
from hadpo.benchmarks._answers import files_of
from hadpo.benchmarks._evaluate import modules_of, questions_of
from hadpo.config import EvaluateConfig, names

if TYPE_CHECKING:
    from hadpo.runs import Run


def plan(run: "Run") -> list[dict[str, Any]]:
    """One row a benchmark and split: questions, images, models, prompt, decoding, judge.

    Raises:
        BadInput: what `evaluate` would refuse: an unknown benchmark or model, no questions.
    """
    settings = run.settings
    modules = modules_of(settings)
    _judge.check(settings, run.resolve, [m.RUBRIC for m in modules.values() if m.RUBRIC])
    questions = questions_of(run, modules)
    models = [name for name in dict.fromkeys(names(settings.models)) if files_of(run, name)]
    rows = []
    for place in dict.fromkeys((q.benchmark, q.split) for q in questions):
        asked = [q for q in questions if (q.benchmark, q.split) == place]
        decoding = asdict(modules[place[0]].decoding(settings))
        rows.append(
            {
                "benchmark": " ".join(place),
                "questions": len(asked),
                "images": len({q.image_id for q in asked}),
                "models": ", ".join(models),
                "prompt": settings.prompt,
                "beams": decoding["beams"],
                "max_new_tokens": decoding["max_new_tokens"],
                "batch": _batch(settings),
                "processes": settings.answer_processes,
                "judge": settings.judge,
                "for example": asked[0].text,
            }
        )
    return rows


def _batch(settings: EvaluateConfig) -> str:
    """Questions side by side, in words where their number follows from memory."""
    if settings.exact:
        return "1"
    if settings.batch_questions:
        return str(settings.batch_questions)
    gib = settings.batch_memory_gib
    return f"as many as fit into {gib:g} GiB" if gib else "as many as fit"
