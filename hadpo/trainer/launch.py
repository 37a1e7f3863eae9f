"""Several processes train: followed by their metrics, and what ended one of them told."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from hadpo import config
from hadpo.config import TrainConfig
from hadpo.plugins import choices
from hadpo.records import BadInput, write_text
from hadpo.runs import BadEnvironment, Stopped, end_processes, noticed, start_processes
from hadpo.trainer.loop import StepMetrics

if TYPE_CHECKING:
    from hadpo.runs import Run


_PATIENCE_SECONDS = 0.3  # between two looks at the log
# What a process may end with that is a message to the user; anything else is a fault of ours.
_SPOKEN = {kind.__name__: kind for kind in (BadInput, BadEnvironment, FloatingPointError, Stopped)}


def is_one_of_several() -> bool:
    """Whether this process was started as one of several, by accelerate or torchrun."""
    return "WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Whether this is the process that writes; true where there is only one."""
    return os.environ.get("RANK", "0") == "0"


def follow(run: Run) -> Iterator[StepMetrics]:
    """Start the processes of a training and yield the steps that they write, as they come.

    Interrupted or told to stop, it lets them save their work; if it dies, they stop as well.

    Args:
        run: an open train stage, whose log holds only what a restart keeps.

    Raises:
        BadInput, BadEnvironment, FloatingPointError, Stopped: what ended one of them.
        RuntimeError: one died without a word; the others were stopped.
    """
    path, words = run.path("metrics.jsonl"), run.path("workers")
    shutil.rmtree(words, ignore_errors=True)
    words.mkdir()
    seen, size = len(read_steps(path)), -1
    with (words / "log.txt").open("w", encoding="utf-8") as output, noticed() as is_asked:
        settings = run.recipe.train
        module = ("hadpo.worker", "--run", str(run.folder.parent), "--followed")
        launcher = start_processes(module, settings.processes, output, parallel=settings.parallel)
        try:
            is_over = False
            while not is_over:
                is_over = launcher.poll() is not None
                if is_asked():
                    launcher.terminate()
                now = path.stat().st_size if path.is_file() else 0
                if now != size:
                    found = read_steps(path)
                    yield from found[seen:]
                    seen, size = max(seen, len(found)), now
                if not is_over:
                    time.sleep(_PATIENCE_SECONDS)
        finally:
            end_processes(launcher)
    if launcher.returncode:
        raise _what_happened(words, settings.processes)


def leave_word(folder: Path, error: BaseException | None) -> None:
    """Write down how this process ended, for `follow` to read."""
    rank = os.environ.get("RANK", "0")
    kind = type(error).__name__ if error is not None else ""
    text = json.dumps({"kind": kind, "message": str(error or "")})
    write_text(folder / f"process-{rank}.json", text)


def _what_happened(words: Path, processes: int) -> BaseException:
    """The one error to show of those that the processes left, or of the word that is missing."""
    found = {}
    for path in sorted(words.glob("process-*.json")):
        found[path.stem.removeprefix("process-")] = json.loads(path.read_text(encoding="utf-8"))
    for value in found.values():
        if value["kind"] in _SPOKEN:
            return _SPOKEN[value["kind"]](value["message"])
    rest = f"the others were stopped; what they said is in {words / 'log.txt'}"
    silent = [str(rank) for rank in range(processes) if str(rank) not in found]
    if silent:
        return RuntimeError(
            f"process {', '.join(silent)} of {processes} died without a word (killed? out of "
            f"memory?); {rest}; the same command goes on from the newest checkpoint"
        )
    failed = next((v for v in found.values() if v["kind"]), {"kind": "accelerate", "message": ""})
    return RuntimeError(f"a process failed: {failed['kind']}: {failed['message']}; {rest}")


# `metrics.jsonl`: one line for each step that was reported, and what a restart keeps of it.


def step_line(step: StepMetrics) -> dict[str, Any]:
    """A step as one flat line."""
    line = {"objective": step.objective, "step": step.step, "epoch": step.epoch}
    return line | step.metrics


def read_steps(path: Path) -> list[StepMetrics]:
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


def write_steps(path: Path, found: Sequence[StepMetrics]) -> None:
    """Write a log anew, where there is one."""
    if path.is_file():
        lines = [json.dumps(step_line(step), allow_nan=False) + "\n" for step in found]
        write_text(path, "".join(lines))


# TensorBoard and Weights & Biases, through accelerate: off by default.

_KNOWN = ("tensorboard", "wandb")


def names(settings: TrainConfig) -> list[str]:
    """The trackers of the settings.

    Raises:
        BadInput: one that is unknown, or whose package is not installed.
    """
    found = config.names(settings.trackers)
    for name in found:
        if name not in _KNOWN:
            raise BadInput(f"trackers: no tracker {name!r}; {choices(name, _KNOWN)}")
        if importlib.util.find_spec(name) is None:
            raise BadInput(f"trackers: {name} is not installed; pip install {name}")
    return found


@contextmanager
def open_trackers(
    run: Run, objective: str, *, is_cpu: bool
) -> Iterator[Callable[[StepMetrics], None]]:
    """Gives a function that sends a step's numbers to the run's trackers."""
    settings = run.recipe.train
    wanted: list[Any] = list(names(settings))
    if not wanted or not is_first():
        yield lambda step: None
        return
    accelerator = Accelerator(
        cpu=is_cpu,
        device_placement=False,
        mixed_precision="no",
        log_with=wanted,
        project_dir=run.path("trackers", objective),
    )
    about = {key: value for key, value in asdict(settings).items() if value is not None}
    accelerator.init_trackers("hadpo", about | {"run": run.name, "objective": objective})

    def send(step: StepMetrics) -> None:
        accelerator.log({k: v for k, v in step.metrics.items() if v is not None}, step=step.step)

    try:
        yield send
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
