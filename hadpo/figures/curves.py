"""Training curves, from finished logs and live in a notebook."""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hadpo.figures._style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    Figure,
    finish,
    house_style,
    label_ends,
    new_drawing,
    panels,
    percent,
)
from hadpo.records import BadInput, Pair
from hadpo.tables import RunResults, learning_metric, measure_of, split_title

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
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    return own | {"metrics": {k: float(v) for k, v in numbers.items() if not isinstance(v, bool)}}


def training_curves(
    logs: Path | Iterable[Any] | Mapping[str, Path | Iterable[Any]],
    *,
    title: str = "",
) -> Figure:
    """Loss, rewards, margins, accuracies and log-probabilities over the steps, raw and smoothed.

    What was measured on held-out pairs, at the checkpoints, stands as dots beside the lines. The
    preference part of the loss is drawn if it is not the whole loss (gamma > 0).

    Args:
        logs: a `metrics.jsonl`, steps, or several of either by the name to show; a log with several
            objectives (dpo and the sft control) gives one line for each.
        title: the message; empty: the last accuracy and margin.

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
    data = [
        {"line": label, "step": step["step"], **step["metrics"]}
        for label, steps in lines.items()
        for step in steps
    ]
    names = ", ".join(panel[0].lower() for panel in panels)
    alt = f"Training curves over steps for {', '.join(lines)}: {names}."
    alt += " Dots show held-out pairs." * is_held_out
    return finish(drawing, "training_curves", message, note=note, alt=alt, data=data)


class Curves:
    """Training curves that grow in a notebook; one picture, redrawn in place.

    `update` takes each step as the trainer yields it and redraws at most every `seconds`, and so
    that drawing takes at most a twentieth of the time. `show` draws the final picture in the same
    place: an executed notebook holds exactly one.
    """

    def __init__(self, *, seconds: float = 3.0, title: str = "") -> None:
        self.steps: list[Step] = []
        self._seconds, self._title = seconds, title
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
        return training_curves(self.steps, title=self._title)

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
    axes.set(title=title, xlabel="step", ylabel=unit)
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
            dots = axes.plot(*_series(steps, f"{_HELD_OUT}{name}"), "o", color=colour, ms=4.5)
            dots[0].set_markerfacecolor("white" if style == "--" else colour)
            names = (label if len(lines) > 1 else "", short if len(shown) > 1 else "")
            ends.append((mean[-1], " ".join(filter(None, names)), colour))
    if title == _ROOMY:
        axes.set_ylim(0, 1.04)
    if has_names:
        label_ends(axes, ends, 0.1)


def _series(steps: Sequence[Step], name: str) -> tuple[list[int], list[float]]:
    """The steps at which a metric was measured, and its values."""
    found = [(s["step"], s["metrics"][name]) for s in steps if name in s["metrics"]]
    return [step for step, _ in found], [value for _, value in found]


def _message(lines: Mapping[str, Sequence[Step]]) -> str:
    label = next((name for name in lines if name.endswith("dpo")), next(iter(lines)))
    steps = lines[label]
    names = ("rewards/accuracies", "rewards/margins")
    values = [smooth(_series(steps, name)[1]) for name in names]
    if not all(values):
        _, loss = _series(steps, "loss")
        whole = f"After {len(steps)} steps the loss is {smooth(loss)[-1]:.3f}." if loss else ""
        return whole or "Training."
    _, held_out = _series(steps, f"{_HELD_OUT}{names[0]}")
    more = f"; {held_out[-1]:.0%} of the held-out pairs do" if held_out else ""
    return (
        f"After {len(steps)} steps {values[0][-1]:.0%} of the pairs prefer the chosen answer, "
        f"by {values[1][-1]:.2f} nats of reward{more}."
    )


# What a training does to the benchmarks on its way: base, kept steps, tuned.

STEP = "step-"  # what the names of kept steps begin with
_STYLES = ("-", "--", ":", "-.")  # told apart without colour
_COLOURS = (BLUE, INK, GREY, "#5a3e8e")
_Point = tuple[int, float, float | None, float | None, int]  # updates, value, its interval, n


def learning_curve(result: RunResults, *, updates: int) -> Figure:
    """One line a benchmark and split over the updates, with the 95 % interval of each point.

    Args:
        result: a run that evaluated `step-<n>` models; the benchmarks declare the metric to draw.
        updates: of the whole training: where the tuned model stands; the base stands at 0.

    Raises:
        BadInput: no kept step was evaluated.
    """
    measures = {key[0]: learning_metric(key[0]) for key in result.metrics}
    steps = {m: int(m.removeprefix(STEP)) for *_, m in result.metrics if m.startswith(STEP)}
    if not steps:
        raise BadInput(
            "no step-<n> was evaluated: train with keep_steps, and name steps in evaluate.models"
        )
    places = {"base": 0, **steps, "merged": updates}
    lines: dict[str, list[_Point]] = {}
    for (benchmark, split, name, model), metric in result.metrics.items():
        if measures[benchmark] != name or model not in places or metric.value is None:
            continue
        measure = measure_of(benchmark, name)
        scale = 100 if measure.is_fraction else 10  # scores of 0 to 10 as tenths
        place = split_title(benchmark, split)
        label = f"{place}: {measure.label}" if place else measure.label
        low, high = (None if e is None else scale * e for e in (metric.low, metric.high))
        point = (places[model], scale * metric.value, low, high, metric.n)
        lines.setdefault(label, []).append(point)
    if not lines:
        raise BadInput(f"none of {', '.join(measures.values())} was measured")
    changes, ends = [], []
    with panels(7.0, 3.6) as (drawing, axes):
        for at, (label, points) in enumerate(lines.items()):
            points.sort(key=lambda point: point[0])
            x, y = [p[0] for p in points], [p[1] for p in points]
            colour, style = _COLOURS[at % len(_COLOURS)], _STYLES[at % len(_STYLES)]
            axes.plot(x, y, style, marker="o", markersize=4, color=colour)
            bands = [(p[0], p[2], p[3]) for p in points if p[2] is not None and p[3] is not None]
            if bands:
                axes.fill_between(*np.array(bands).T, color=colour, alpha=0.12, linewidth=0)
            changes.append(f"{label} {y[0]:.1f} to {y[-1]:.1f}")
            ends.append((y[-1], label, colour))
        axes.set(xlabel="updates", ylabel="percent")
        axes.set_xticks(sorted(places.values()))
        label_ends(axes, ends, 0.07)
    message = f"Over {updates} updates: {'; '.join(changes)}."
    note = f"{result.name}; 0 is the base. Bands: 95 % intervals over images."
    columns = ("line", "updates", "value", "low", "high", "n")
    data: list[dict[str, Any]] = [
        dict(zip(columns, (label, *point), strict=True))
        for label, points in lines.items()
        for point in points
    ]
    alt = f"Lines over {', '.join(map(str, sorted(places.values())))} updates."
    name, is_mini = "learning_curve", result.is_mini
    return finish(drawing, name, message, note=note, alt=alt, data=data, is_mini=is_mini)


# Reward margins pair by pair: how many pairs are the right way round, and by how much.

_MORE_MARGINS = (BLUE, "#5a3e8e", "#2f7f6f", "#a0522d")


def margin_histogram(
    margins: Sequence[tuple[Pair, float]] | Mapping[str, Sequence[float]],
) -> Figure:
    """Histogram of reward margins, one outline a run or a kind; right of zero is the right way.

    Without margins the picture says so, because a training without held-out pairs is a good one;
    those that are not finite are counted below it.

    Args:
        margins: pairs with their margins, in nats, drawn by kind; or margins of runs by name.
    """
    if isinstance(margins, Mapping):
        found = margins
    else:
        kinds = sorted({pair.kind for pair, _ in margins})
        names = {kind: kind if len(kinds) > 1 else "" for kind in kinds}
        found = {n: [v for pair, v in margins if pair.kind == kind] for kind, n in names.items()}
    named = {n: [float(v) for v in values if np.isfinite(v)] for n, values in found.items()}
    strange = sum(map(len, found.values())) - sum(map(len, named.values()))
    named = {name: values for name, values in named.items() if values}
    every = [value for values in named.values() for value in values]
    wide = max([1e-6, *(abs(value) for value in every)])
    edges = np.linspace(-wide, wide, 2 * min(20, max(4, len(every) // 4)) + 1)
    shares = {name: float(np.mean(np.array(v) > 0)) for name, v in named.items()}
    text = ", ".join(f"{name} {percent(s)}".strip() for name, s in shares.items())
    if not isinstance(margins, Mapping) and len(named) > 1:
        text = f"{percent(float(np.mean(np.array(every) > 0)))} of {len(every)} ({text})"
    message = f"Held-out pairs the right way round: {text}."
    if not named:
        message = "No pair was held out of training: there are no margins to show."
    data = []
    with panels() as (drawing, axes):
        for at, (name, values) in enumerate(named.items()):
            counts, _ = np.histogram(values, edges)
            colour, style = _MORE_MARGINS[at % len(_MORE_MARGINS)], _STYLES[at % len(_STYLES)]
            axes.stairs(counts, edges, color=colour, linestyle=style, linewidth=1.8)
            if len(named) == 1:
                axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
            middle = float(np.median(values))
            axes.axvline(middle, color=colour, linestyle=style, linewidth=0.8)
            label = f"{name} median {middle:+.2f}".strip()
            place = (0.02, 0.95 - 0.08 * at)
            axes.text(*place, label, color=colour, transform=axes.transAxes, fontsize=7.5)
            ends = edges.round(6).tolist()
            data += [
                {"run": name or "-", "low": low, "high": high, "pairs": n}
                for low, high, n in zip(ends, ends[1:], counts.tolist(), strict=False)
            ]
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set(xlabel="reward margin, chosen minus rejected (nats)", ylabel="pairs")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(axis="x", colors=GREY)
    counts = ", ".join(f"{name} {len(v)}".strip() for name, v in named.items())
    note = f"n pairs: {counts or 0}. Left of zero: the rejected text is still preferred."
    note += f" Not finite and not drawn: {strange}." if strange else ""
    alt = "Histogram of margins."
    return finish(drawing, "reward_margins", message, note=note, alt=alt, data=data)


# What beta does: the margin that the best policy reaches, and how far it goes for it.


def beta_sweep(start: np.ndarray, betas: Sequence[float], marked: float) -> Figure:
    """KL from the reference against the margin of the best policy, one point a beta.

    Between the two answers of a pair, the policy that is best for reward 1 on the chosen one less
    beta times KL is the reference with 1 / beta added to its log-odds (Eq. 4 of
    https://arxiv.org/abs/2305.18290).

    Args:
        start: the reference's log-odds of chosen over rejected, in nats, one a pair.
        betas: to draw.
        marked: the beta that the slider stands on.
    """
    from scipy import special  # here, because importing it takes long

    def divergence(odds: np.ndarray) -> np.ndarray:
        """Mean KL of each row's chances from those of `start`."""
        chances = ((special.expit(sign * odds), special.expit(sign * start)) for sign in (1, -1))
        return np.sum([special.rel_entr(*pair) for pair in chances], axis=0).mean(axis=1)

    every = np.array(betas, dtype=float)
    odds = start + 1 / every[:, None]
    kl, margin, right = divergence(odds), odds.mean(axis=1), (odds > 0).mean(axis=1)
    at, before = int(np.abs(every - marked).argmin()), float(start.mean())
    title = (
        f"beta {every[at]:g}: log-odds {margin[at]:+.1f} nats, {before:+.1f} before; "
        f"{right[at]:.0%} of the pairs the right way round, at a KL of {kl[at]:.2f}."
    )
    with panels(6.4, 3.6) as (drawing, axes):
        fine = start + 1 / np.geomspace(every.min(), every.max(), 200)[:, None]
        axes.plot(fine.mean(axis=1), divergence(fine), "-", color=GREY, linewidth=1)
        axes.plot(margin, kl, "o", color=BLUE, markersize=5)
        near = {"textcoords": "offset points"}
        for i, beta in enumerate(every):  # by turns below and above: large betas lie close
            axes.annotate(
                f"{beta:g}", (margin[i], kl[i]), xytext=((4, -10), (-5, 6))[i % 2], **near
            )
        axes.plot(margin[at], kl[at], "D", color=ORANGE, markersize=9, markerfacecolor="none")
        axes.axvline(before, color=GREY, linestyle=":", linewidth=1)
        axes.annotate("reference", (before, kl.max()), xytext=(4, -4), color=FAINT, **near)
        axes.set_xlabel("log-odds of chosen over rejected (nats)")
        axes.set_ylabel("KL from reference (nats)")
    note = f"n = {len(start)} pairs, means. Beside the points: beta. Diamond: the chosen beta."
    columns = ("beta", "log_odds", "kl", "right")
    rows = zip(every, margin, kl, right, strict=True)
    data: list[dict[str, Any]] = [dict(zip(columns, map(float, row), strict=True)) for row in rows]
    alt = "KL against log-odds for each beta."
    return finish(drawing, "beta_sweep", title, note=note, alt=alt, data=data)
