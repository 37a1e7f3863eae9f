"""`python -m tools.speed memory STEP`: the peak memory of one step, in a process of its own."""

import json
from typing import Annotated

import torch
import typer

from hadpo.plugins import choices
from hadpo.records import BadInput
from tools.speed import measure, models, steps


def command(
    step: Annotated[str, typer.Argument(help=f"one of {', '.join(steps.NAMES)}")],
    geometry: Annotated[str, typer.Option(help="sizes of the model")] = "toy-memory",
    kind: Annotated[str, typer.Option(help="desc or pope")] = "desc",
    pairs: Annotated[int, typer.Option(help="in the step, each of its own image")] = 2,
    checkpointing: Annotated[bool, typer.Option(help="recompute activations")] = False,
) -> None:
    """Print the MB that one step adds at its peak, as JSON.

    Example: python -m tools.speed memory ours
    """
    if step not in steps.NAMES:
        raise BadInput(f"no step {step!r}; {choices(step, steps.NAMES)}")
    torch.set_num_threads(1)
    sizes = models.find(geometry)
    if reason := steps.available(sizes)[step]:
        raise BadInput(f"{step}: {reason}")
    peak = measure.memory_here(sizes, kind, step, pairs=pairs, checkpointing=checkpointing)
    typer.echo(json.dumps({"step": step, "peak_mb": round(peak, 1)}))
