"""Training curves, from finished logs and live in a notebook."""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hadpo.figures._style import (
    BLUE,
    GREY,
    INK,
    Figure,
    house_style,
    new_drawing,
    spread,
    write_title,
)
from hadpo.records import BadInput

Step = Mapping[str, Any]  # objective, step, epoch, metrics
_ROOMY = "Pairs with a positive margin"  # its lines run high: room for the legend below them
_ALONE, _REJECTED = ("-", ""), ("--", "rejected")
_PANELS = (  # title, unit, metrics with the style of their line and its label
    ("Loss", "nats", {"loss": ("-", "whole"), "preference_loss": ("--", "preference")}),
    ("Rewards", "nats", {"rewards/chosen": ("-", "chosen"), "rewards/rejected": _REJECTED}),
    ("Reward margin", "nats", {"rewards/margins": _ALONE}),
    (_ROOMY, "share", {"rewards/accuracies": _ALONE}),
    (
        "Log-probability of the answer",
        "nats",
        {"logps/chosen": ("-", "chosen"), "logps/rejected": _REJECTED},
    ),
    ("Language-modelling loss", "nats per token", {"lm_loss": _ALONE}),
)
_CROWDED = 3  # more lines than these are named in a legend
_HELD_OUT = "eval_"  # what the trainer puts before the name of a metric of held-out pairs
_OBJECTIVES = {"dpo": BLUE, "sft": GREY}
_MORE = ("#5a3e8e", "#2f7f6f", "#a0522d", "#444444", "#b8860b", "#c2185b")


def read_steps(path: Path) -> list[Step]:
    """Steps of a training log; a last line that a killed run left unfinished is dropped.

    Raises:
        BadInput: a line that is no step.
    """
    steps = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                break
            try:
                steps.append(as_step(json.loads(line)))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                message = f"{path}:{number}: no training step ({error!r}): {line[:60]!r}"
                raise BadInput(message) from error
    return steps


def as_step(step: Any) -> Step:
    """A step as objective, step and metrics; takes the trainer's objects, and flat mappings too."""
    values = dict(step) if isinstance(step, Mapping) else dataclasses.asdict(step)
    own = {"objective": str(values.pop("objective", "dpo")), "step": int(values.pop("step"))}
    values.pop("epoch", None)
    metrics = values.pop("metrics", values)
    return own | {"metrics": {k: float(v) for k, v in metrics.items() if _is_number(v)}}


def training_curves(
    logs: Path | Iterable[Any] | Mapping[str, Path | Iterable[Any]],
    *,
    title: str = "",
    is_mini: bool,
) -> Figure:
    """Loss, rewards, margins, accuracies and log-probabilities over the steps, raw and smoothed.

    What was measured on held-out pairs, at the checkpoints, stands as dots beside the lines. The
    preference part of the loss is drawn where it is not the whole loss (gamma > 0).

    Args:
        logs: a `metrics.jsonl`, steps, or several of either by the name to show; a log with several
            objectives (dpo and the sft control) gives one line for each.
        title: the message; empty: the last accuracy and margin.
        is_mini: mark the picture as one of the synthetic world.

    Raises:
        BadInput: no steps at all.
    """
    named = logs if isinstance(logs, Mapping) else {"": logs}
    lines: dict[str, list[Step]] = {}
    for name, log in named.items():
        steps = read_steps(log) if isinstance(log, Path) else [as_step(s) for s in log]
        for step in steps:
            label = " ".join(part for part in (name, step["objective"]) if part)
            lines.setdefault(label, []).append(step)
    hidden = ""
    if len(lines) > _CROWDED and len(named) > 1:  # of many runs, without their controls
        own = {label: steps for label, steps in lines.items() if steps[0]["objective"] == "dpo"}
        hidden = " Controls are left out." if 0 < len(own) < len(lines) else ""
        lines = own or lines
    if not lines:
        raise BadInput("no training steps to draw; has the training written metrics.jsonl yet?")
    known = {name for steps in lines.values() for step in steps for name in step["metrics"]}
    panels = [p for p in _PANELS if known & p[2].keys()]
    if not panels:
        raise BadInput(f"no metric that this figure knows; found {sorted(known)}")
    rows = -(-len(panels) // 3)
    message = title or _message(lines)
    is_crowded = len(lines) > _CROWDED
    with house_style():
        drawing = new_drawing(10.0 + 1.6 * is_crowded, 2.2 * rows + 0.9)
        for at, panel in enumerate(panels):
            axes = drawing.add_subplot(rows, min(3, len(panels)), at + 1)
            _draw_panel(axes, panel, lines, has_names=not is_crowded)
        if is_crowded:  # names at the ends of so many lines would cover each other
            marks = [Line2D([], [], color=_colour(at, label)) for at, label in enumerate(lines)]
            drawing.legend(marks, list(lines), loc="outside right upper", fontsize=8)
        count = ", ".join(f"{label} {len(steps)}" for label, steps in lines.items())
        note = "Thin: each step; bold: smoothed. Solid: chosen; dashed: rejected, in "
        note += f"the loss the preference part. Steps: {count}.{hidden}"
        if is_held_out := any(name.startswith(_HELD_OUT) for name in known):
            note += " Dots: held-out pairs, never trained on; hollow where the line is dashed."
            dot = Line2D([], [], linestyle="", marker="o", color=INK, markersize=4.5)
            titles = [panel[0] for panel in panels]
            at = titles.index(_ROOMY) if _ROOMY in titles else 0
            drawing.axes[at].legend([dot], ["held-out"], loc="lower right", fontsize=8)
        write_title(drawing, message, note=note, is_mini=is_mini)
    data = [
        {"line": label, "step": step["step"], **step["metrics"]}
        for label, steps in lines.items()
        for step in steps
    ]
    names = ", ".join(panel[0].lower() for panel in panels)
    alt = f"{message} Training curves over steps for {', '.join(lines)}: {names}."
    alt += " Dots show held-out pairs." if is_held_out else ""
    return Figure(drawing, "training_curves", message, alt, data)


class Curves:
    """Training curves that grow in a notebook; one picture, redrawn in place.

    `update` takes each step as the trainer yields it and redraws at most every `seconds`, and so
    that drawing takes at most a twentieth of the time. `show` draws the final picture in the same
    place: an executed notebook holds exactly one.
    """

    def __init__(self, *, seconds: float = 3.0, title: str = "", is_mini: bool) -> None:
        self.steps: list[Step] = []
        self._seconds, self._title, self._is_mini = seconds, title, is_mini
        self._due = 0.0
        self._handle: Any = None

    def update(self, step: Any) -> None:
        """Take one step; redraw if it is time."""
        self.steps.append(as_step(step))
        if time.monotonic() >= self._due:
            started = time.monotonic()
            self._draw()
            spent = time.monotonic() - started
            self._due = time.monotonic() + max(self._seconds, 20 * spent)

    def figure(self) -> Figure:
        """The picture of all steps so far."""
        return training_curves(self.steps, title=self._title, is_mini=self._is_mini)

    def show(self) -> None:
        """Draw the final picture, in place of the growing one."""
        self._draw()

    def _draw(self) -> None:
        from IPython import display

        figure = self.figure()
        bundle = {"text/html": figure._repr_html_(), "text/plain": figure.alt}
        if self._handle is None:
            self._handle = display.display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Exponential mean over about `share` of the values, without the pull towards the start."""
    keep = 1 - 1 / max(1.0, share * len(values))
    mean, weight, found = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(mean / weight)
    return found


def _colour(at: int, label: str) -> str:
    return _OBJECTIVES.get(label, _MORE[at % len(_MORE)])


def _draw_panel(
    axes: Axes, panel: Any, lines: Mapping[str, Sequence[Step]], *, has_names: bool
) -> None:
    title, unit, metrics = panel
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    ends = []
    for at, (label, steps) in enumerate(lines.items()):
        colour = _colour(at, label)
        is_whole = _series(steps, "preference_loss") in (_series(steps, "loss"), ([], []))
        shown = {n: v for n, v in metrics.items() if not (is_whole and n == "preference_loss")}
        for name, (style, short) in shown.items():
            x, y = _series(steps, name)
            if not x:
                continue
            mean = smooth(y)
            axes.plot(x, y, style, color=colour, linewidth=0.5, alpha=0.4)
            marker = "o" if len(x) == 1 else ""
            axes.plot(x, mean, style, color=colour, linewidth=1.8, marker=marker, markersize=3)
            dots = axes.plot(
                *_series(steps, f"{_HELD_OUT}{name}"), "o", color=colour, markersize=4.5
            )
            dots[0].set_markerfacecolor("white" if style == "--" else colour)
            short = short if len(shown) > 1 else ""
            name_ = label if len(lines) > 1 else ""
            text = " ".join(part for part in (name_, short) if part) if has_names else ""
            ends.append((x[-1], mean[-1], text, colour))
    if title == _ROOMY:
        axes.set_ylim(0, 1.04)
    low, high = axes.get_ylim()
    places = spread([end[1] for end in ends], 0.1 * (high - low))
    for (x, y, text, colour), place in zip(ends, places, strict=True):
        if text:
            axes.annotate(
                text,
                (x, y),
                xytext=(1.02, (place - low) / (high - low)),
                textcoords=axes.transAxes,
                color=colour,
                fontsize=7.5,
                va="center",
                annotation_clip=False,
            )


def _series(steps: Sequence[Step], name: str) -> tuple[list[int], list[float]]:
    """The steps at which a metric was measured, and its values."""
    found = [(s["step"], s["metrics"][name]) for s in steps if name in s["metrics"]]
    return [step for step, _ in found], [value for _, value in found]


def _message(lines: Mapping[str, Sequence[Step]]) -> str:
    label = next((name for name in lines if name.endswith("dpo")), next(iter(lines)))
    steps = lines[label]
    names = ("rewards/accuracies", "rewards/margins")
    values = [smooth([s["metrics"][n] for s in steps if n in s["metrics"]]) for n in names]
    if not all(values):
        loss = [s["metrics"]["loss"] for s in steps if "loss" in s["metrics"]]
        return (
            f"After {len(steps)} steps the loss is {smooth(loss)[-1]:.3f}." if loss else "Training."
        )
    _, held_out = _series(steps, f"{_HELD_OUT}{names[0]}")
    more = f"; {held_out[-1]:.0%} of the held-out pairs do" if held_out else ""
    return (
        f"After {len(steps)} steps {values[0][-1]:.0%} of the pairs prefer the chosen answer, "
        f"by {values[1][-1]:.2f} nats of reward{more}."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
