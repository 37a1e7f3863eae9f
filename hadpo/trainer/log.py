"""`metrics.jsonl`: one line for each step that was reported, and what a restart keeps of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hadpo.records import write_text
from hadpo.trainer.loop import StepMetrics


def as_line(step: StepMetrics) -> dict[str, Any]:
    """A step as one flat line."""
    line = {"objective": step.objective, "step": step.step, "epoch": step.epoch}
    return line | step.metrics


def read(path: Path) -> list[StepMetrics]:
    """Steps of a log, none where there is none; a torn last line is dropped."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            values: Mapping[str, Any] = json.loads(line)
            known = ("objective", "step", "epoch")
            metrics = {key: value for key, value in values.items() if key not in known}
            found.append(StepMetrics(**{key: values[key] for key in known}, metrics=metrics))
    return found


def write(path: Path, found: Sequence[StepMetrics]) -> None:
    """Write a log anew, where there is one."""
    if path.is_file():
        lines = [json.dumps(as_line(step), allow_nan=False) + "\n" for step in found]
        write_text(path, "".join(lines))
