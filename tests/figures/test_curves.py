import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hadpo.figures import Curves, training_curves
from hadpo.figures.curves import read_steps, smooth
from hadpo.records import BadInput


@dataclass(frozen=True)
class StepMetrics:
    """What the trainer yields."""

    objective: str
    step: int
    epoch: float
    metrics: dict[str, float] = field(default_factory=dict)


def test_smoothing_keeps_a_constant_and_follows_a_change():
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    mean = smooth([0.0] * 50 + [1.0] * 50)
    assert mean[49] == pytest.approx(0) and 0.9 < mean[-1] <= 1
    assert smooth([3.0, 5.0], share=0.5) == [3.0, 5.0]


def test_a_log_with_two_objectives_gives_two_lines(tmp_path: Path, steps):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    figure = training_curves(path)
    assert {row["line"] for row in figure.data} == {"dpo", "sft"}
    assert len(figure.data) == 60
    titles = [axes.get_title(loc="left") for axes in figure.drawing.axes]
    assert titles[:2] == ["Loss", "Rewards"] and len(titles) == 5
    assert "After 30 steps 100%" in figure.title or "After 30 steps 9" in figure.title


def test_several_runs_are_laid_over_each_other(steps):
    dpo = [step for step in steps if step["objective"] == "dpo"]
    figure = training_curves({"seed 1": dpo, "seed 2": dpo[:20]})
    assert {row["line"] for row in figure.data} == {"seed 1 dpo", "seed 2 dpo"}
    lines = figure.drawing.axes[0].get_lines()
    widths = [line.get_linewidth() for line in lines if line.get_marker() in ("", "None")]
    assert widths == [0.5, 1.8, 0.5, 1.8]  # raw thin, smoothed bold


def texts(figure) -> set[str]:
    return {t.get_text() for axes in figure.drawing.axes for t in axes.texts}


def test_held_out_pairs_are_dots_labelled_so(steps):
    watched = [dict(step, metrics=dict(step["metrics"])) for step in steps]
    for step in watched:
        if step["step"] in (9, 29):
            own = step["metrics"]
            step["metrics"] = own | {f"eval_{name}": value - 0.3 for name, value in own.items()}
    figure = training_curves(watched)
    for axes in figure.drawing.axes:
        dots = [
            line for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata())
        ]
        assert dots and all(list(line.get_xdata()) == [9, 29] for line in dots)
    margins = figure.drawing.axes[2]
    dot = next(line for line in margins.get_lines() if line.get_marker() == "o")
    assert list(dot.get_ydata()) == pytest.approx([2 * 0.1 * 9 - 0.3, 2 * 0.1 * 29 - 0.3])
    legends = [axes.get_legend() for axes in figure.drawing.axes]
    assert [t.get_text() for legend in legends if legend for t in legend.get_texts()] == [
        "held-out"
    ]
    assert "70% of the held-out pairs do" in figure.title
    assert "Dots show held-out pairs" in figure.alt
    assert sum("eval_loss" in row for row in figure.data) == 4
    plain = training_curves(steps)
    assert "held-out" not in plain.title + plain.alt
    assert not any(axes.get_legend() for axes in plain.drawing.axes)


def test_the_preference_part_is_drawn_where_it_is_not_the_whole_loss():
    def made(gamma: float) -> list[dict]:
        values = [(0.69 - 0.01 * k, 1.2 - 0.02 * k) for k in range(9)]
        return [
            {"step": k, "loss": a + gamma * b, "preference_loss": a, "lm_loss": b}
            for k, (a, b) in enumerate(values)
        ]

    figure = training_curves(made(0.5))
    assert {"whole", "preference"} <= texts(figure)
    lines = figure.drawing.axes[0].get_lines()
    assert [line.get_ydata()[0] for line in lines if line.get_linestyle() == "--"] == [0.69, 0.69]
    plain = training_curves(made(0.0))
    assert not {"whole", "preference"} & texts(plain)
    assert not [line for line in plain.drawing.axes[0].get_lines() if line.get_linestyle() == "--"]


def test_flat_lines_and_the_trainers_objects_are_steps_too():
    flat = {"step": 3, "epoch": 0.1, "loss": 0.5, "objective": "sft"}
    made = StepMetrics("sft", 3, 0.1, {"loss": 0.5})
    assert training_curves([flat]).data == training_curves([made]).data


def test_a_torn_last_line_is_dropped_and_a_broken_one_is_named(tmp_path: Path, steps):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(step) + "\n" for step in steps[:3]]
    path.write_text("".join(lines) + '{"step": 4, "lo')
    assert len(read_steps(path)) == 3
    path.write_text(lines[0] + '{"epoch": 1}\n')
    with pytest.raises(BadInput, match=r"metrics\.jsonl:2: no training step"):
        read_steps(path)
    path.write_text("")
    with pytest.raises(BadInput, match="no training steps"):
        training_curves(path)
    with pytest.raises(BadInput, match=r"found \['other'\]"):
        training_curves([{"step": 1, "other": 2.0}])


class Screen:
    """Stands in for the notebook: what was displayed anew, and what was redrawn."""

    def __init__(self) -> None:
        self.shown: list[dict] = []
        self.redrawn: list[dict] = []

    def display(self, bundle, *, raw, display_id):
        assert raw and display_id
        self.shown.append(bundle)
        return self

    def update(self, bundle, *, raw):
        self.redrawn.append(bundle)


def test_live_curves_leave_exactly_one_picture(monkeypatch: pytest.MonkeyPatch, steps):
    screen = Screen()
    monkeypatch.setattr("IPython.display.display", screen.display)
    curves = Curves(seconds=60)
    for step in steps:
        curves.update(StepMetrics(**step))
    assert len(screen.shown) == 1 and len(screen.redrawn) == 0  # one drawing in the first minute
    curves.show()
    assert len(screen.shown) == 1 and len(screen.redrawn) == 1
    assert "After 30 steps" in screen.redrawn[-1]["text/plain"]
    assert screen.redrawn[-1]["text/html"].count("<img") == 1
    assert len(curves.figure().data) == 60


def test_live_curves_redraw_when_it_is_time(monkeypatch: pytest.MonkeyPatch, steps):
    screen, now = Screen(), [0.0]
    monkeypatch.setattr("IPython.display.display", screen.display)
    monkeypatch.setattr("hadpo.figures.curves.time.monotonic", lambda: now[0])
    curves = Curves(seconds=3.0)
    for step in steps[:9]:
        curves.update(step)
        now[0] += 1.0
    assert (len(screen.shown), len(screen.redrawn)) == (1, 2)  # at 0, 3 and 6 seconds
