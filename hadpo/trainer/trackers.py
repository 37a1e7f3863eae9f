"""TensorBoard and Weights & Biases, through accelerate: off by default."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from hadpo import config
from hadpo.config import TrainConfig
from hadpo.plugins import choices
from hadpo.records import BadInput
from hadpo.trainer import launch
from hadpo.trainer.loop import StepMetrics

if TYPE_CHECKING:
    from hadpo.runs import Run

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
def opened(run: Run, objective: str, *, is_cpu: bool) -> Iterator[Callable[[StepMetrics], None]]:
    """Gives a function that sends a step's numbers to the run's trackers."""
    settings = run.recipe.train
    wanted: list[Any] = list(names(settings))
    if not wanted or not launch.is_first():
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
