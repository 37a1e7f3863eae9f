"""A training of several processes: started, followed by its log, and ended with one message."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from hadpo import config
from hadpo.config import TrainConfig
from hadpo.records import BadInput, write_text
from hadpo.runs import BadEnvironment, Stopped, end_processes, noticed, start_processes
from hadpo.trainer.loop import StepMetrics

if TYPE_CHECKING:
    from hadpo.runs import Run

_PATIENCE_SECONDS = 0.3  # between two looks at the log
# What a process may end with that is a message to the user; anything else is a fault of ours.
_EXPECTED = {
    kind.__name__: kind for kind in (BadInput, BadEnvironment, FloatingPointError, Stopped)
}


def is_one_of_several() -> bool:
    """Whether this process was started as one of several, by accelerate or torchrun."""
    return "WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Whether this is the process that writes; true if there is only one."""
    return os.environ.get("RANK", "0") == "0"


def follow(run: Run) -> Iterator[StepMetrics]:
    """Start the processes of a training and yield the steps that they write, as they come.

    Interrupted, or after SIGTERM, it lets them save their work; if it dies, they stop as well. The
    log holds only what a restart keeps.

    Raises:
        BadInput, BadEnvironment, FloatingPointError, Stopped: what ended one of them.
        RuntimeError: one ended without a message; the others were stopped.
    """
    path, ends = run.path("metrics.jsonl"), run.path("workers")
    shutil.rmtree(ends, ignore_errors=True)
    ends.mkdir()
    seen, size = len(read_steps(path)), -1
    with (ends / "log.txt").open("w", encoding="utf-8") as output, noticed() as is_asked:
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
                    steps = read_steps(path)
                    yield from steps[seen:]
                    seen, size = max(seen, len(steps)), now
                if not is_over:
                    time.sleep(_PATIENCE_SECONDS)
        finally:
            end_processes(launcher)
    if launcher.returncode:
        raise _reason(ends, settings.processes)


def write_end(folder: Path, error: BaseException | None) -> None:
    """Write how this process ended, for `follow` to read."""
    rank = os.environ.get("RANK", "0")
    kind = type(error).__name__ if error is not None else ""
    text = json.dumps({"kind": kind, "message": str(error or "")})
    write_text(folder / f"process-{rank}.json", text)


def _reason(ends: Path, processes: int) -> BaseException:
    """The one error to show of those that the processes wrote, or for those that wrote none."""
    errors = {}
    for path in sorted(ends.glob("process-*.json")):
        errors[path.stem.removeprefix("process-")] = json.loads(path.read_text(encoding="utf-8"))
    for value in errors.values():
        if value["kind"] in _EXPECTED:
            return _EXPECTED[value["kind"]](value["message"])
    rest = f"the others were stopped; their output is in {ends / 'log.txt'}"
    silent = [str(rank) for rank in range(processes) if str(rank) not in errors]
    if silent:
        return RuntimeError(
            f"process {', '.join(silent)} of {processes} ended without a message (killed? out of "
            f"memory?); {rest}; the same command goes on from the newest checkpoint"
        )
    first = next((v for v in errors.values() if v["kind"]), {"kind": "accelerate", "message": ""})
    return RuntimeError(f"a process failed: {first['kind']}: {first['message']}; {rest}")


def step_line(step: StepMetrics) -> dict[str, Any]:
    """A step as one flat line of `metrics.jsonl`."""
    line = {"objective": step.objective, "step": step.step, "epoch": step.epoch}
    return line | step.metrics


def read_steps(path: Path) -> list[StepMetrics]:
    """Steps of a log, none without a log; a torn last line is dropped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [
        StepMetrics(**{key: row.pop(key) for key in ("objective", "step", "epoch")}, metrics=row)
        for row in rows
    ]


def write_steps(path: Path, kept: Sequence[StepMetrics]) -> None:
    """Replace a log, if there is one, by one of these steps."""
    if path.is_file():
        lines = [json.dumps(step_line(step), allow_nan=False) + "\n" for step in kept]
        write_text(path, "".join(lines))


def tracker_names(settings: TrainConfig) -> list[str]:
    """The trackers of the settings; none by default.

    Raises:
        BadInput: one whose package is not installed; unknown ones are no setting.
    """
    trackers = config.names(settings.trackers)
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise BadInput(f"trackers: {name} is not installed; pip install {name}")
    return trackers


@contextmanager
def open_trackers(
    run: Run, objective: str, *, is_cpu: bool
) -> Iterator[Callable[[StepMetrics], None]]:
    """Gives a function that sends a step's numbers to the run's trackers, through accelerate."""
    settings = run.recipe.train
    trackers: list[Any] = [*tracker_names(settings)]
    if not trackers or not is_first():
        yield lambda step: None
        return
    accelerator = Accelerator(
        cpu=is_cpu,
        device_placement=False,
        mixed_precision="no",
        log_with=trackers,
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
