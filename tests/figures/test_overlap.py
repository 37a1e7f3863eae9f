"""No text of a figure lies on another: every kind of figure, drawn, and its text boxes compared."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from hadpo import figures, tables
from hadpo.classroom import BETAS
from hadpo.figures import Figure
from hadpo.figures._style import finish, house_style, panels
from hadpo.figures.bars import dumbbell, published_dumbbell
from hadpo.figures.curves import learning_curve
from hadpo.records import Metric
from tools.speed.bars import speedup_bars

NAMES = ["ball", "cat", "umbrella", "refrigerator", "kite", "traffic light"]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """The texts of a figure that share pixels, two by two."""
    canvas, drawn = FigureCanvasAgg(figure.drawing), {}
    draw = Text.draw

    def note(text: Text, renderer: Any) -> None:  # ticks out of sight are texts that nobody draws
        drawn[text] = True
        draw(text, renderer)

    with house_style(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", note)
        canvas.draw()
    shown = [t for t in drawn if t.get_visible() and t.get_text().strip()]
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer()).padded(-1)) for t in shown]
    pairs = itertools.combinations(boxes, 2)
    return [(one, other) for (one, a), (other, b) in pairs if a.overlaps(b)]


def results(metrics: list[Metric]) -> tables.RunResults:
    found = {(m.benchmark, m.split, m.name, m.model): m for m in metrics}
    return tables.RunResults(name="a", recipe="mini/llava", is_mini=False, metrics=found)


def learning(metrics: list[Metric]) -> Figure:
    own = [m for m in metrics if m.model in ("base", "merged")]
    steps = [
        replace(m, model=f"step-{n}") for n in (20, 40, 60, 80) for m in own if m.model == "base"
    ]
    return learning_curve(results(own + steps), updates=100)


def heat(_: list[Metric]) -> Figure:
    shares, counts = np.full((3, 6), 0.5), np.arange(18).reshape(3, 6) * 3
    named, of = {"is there": shares, "is said": shares}, {"is there": counts, "is said": counts}
    return figures.heat_maps(named, of, rows=["a kitchen", "b", "c"], columns=NAMES, title="T")


COSTS = [
    {"way": way, "tokens": n, "seconds": n / 9000, "activation_bytes": 5000 * n}
    for way, n in (("two rows a pair", 1200), ("one packed row", 700))
]
MAKE: dict[str, Callable[[list[Metric]], Figure]] = {
    "pope": figures.pope_bars,
    "shr": lambda metrics: figures.score_bars(metrics, "shr"),
    "dumbbell": lambda metrics: dumbbell(tables.comparison([results(metrics)])),
    "published": lambda _: published_dumbbell(tables.read_reported(["hadpo", "lrv"])),
    "learning": learning,
    "margins": lambda _: figures.margin_histogram({"seed 1": [0.5, 1.5], "seed 2": [0.6, -1]}),
    "beta": lambda _: figures.beta_sweep(np.array([-0.84, 0.45, -2.72]), BETAS, 0.1),
    "heat": heat,
    "cost": lambda _: figures.cost_bars(COSTS),
    "mask": lambda _: figures.mask_picture(np.eye(60), {"prefix": 40, "chosen": 10, "rejected": 9}),
    "speedup": lambda _: speedup_bars(dict.fromkeys(NAMES, 2.5), name="speed"),
}


@pytest.mark.parametrize("name", MAKE)
def test_no_text_lies_on_another(name: str, metrics: list[Metric]):
    assert overlapping(MAKE[name](metrics)) == []


def test_no_label_of_a_curve_lies_on_another(steps):
    runs = {f"seed {n}": [s for s in steps if s["objective"] == "dpo"] for n in (1, 2, 3)}
    for logs in (steps, runs, {**runs, "seed 4": steps}):
        assert overlapping(figures.training_curves(logs)) == []


def test_texts_that_do_overlap_are_found():
    with panels(3, 2) as (drawing, axes):
        axes.text(0.5, 0.5, "one")
        axes.text(0.5, 0.52, "other")
    assert overlapping(finish(drawing, "x", "T", alt="")) == [("one", "other")]
