"""The learning curve: every kept step at its place, base and tuned at the ends."""

from dataclasses import replace
from pathlib import Path

import pytest

from hadpo.figures.curves import learning_curve
from hadpo.records import BadInput, Metric
from hadpo.tables import RunResults


def metric(model: str, value: float | None, split: str = "random") -> Metric:
    ends = {} if value is None else {"low": value - 0.02, "high": value + 0.02}
    place = {"benchmark": "pope", "split": split, "name": "accuracy", "n": 90}
    return Metric(model=model, value=value, **place, **ends)


def results(*metrics: Metric) -> RunResults:
    found = {(m.benchmark, m.split, m.name, m.model): m for m in metrics}
    return RunResults(name="run", recipe="mini/llava", is_mini=True, metrics=found)


def test_steps_stand_in_their_order_between_base_and_tuned(tmp_path: Path):
    values = {"merged": 0.95, "step-100": 0.9, "base": 0.8, "step-20": 0.85, "sft": 0.5}
    figure = learning_curve(results(*(metric(m, v) for m, v in values.items())), updates=120)
    assert [(row["updates"], row["value"]) for row in figure.data] == [
        (0, pytest.approx(80)),
        (20, pytest.approx(85)),
        (100, pytest.approx(90)),
        (120, pytest.approx(95)),
    ]
    assert "POPE random: accuracy 80.0 to 95.0" in figure.title
    assert len(figure.save(tmp_path)) == 3


def test_scores_are_tenths_and_what_was_not_measured_has_no_point():
    score = replace(metric("base", 5.0), benchmark="gavie", split="all")
    found = results(score, replace(score, model="step-5", value=6.5), metric("step-5", None))
    figure = learning_curve(found, updates=10)
    assert [(row["line"], row["value"]) for row in figure.data] == [
        ("GAVIE: accuracy (0-10)", 50.0),
        ("GAVIE: accuracy (0-10)", 65.0),
    ]


def test_a_run_without_kept_steps_says_how_to_keep_them():
    with pytest.raises(BadInput, match="train with keep_steps"):
        learning_curve(results(metric("base", 0.8)), updates=10)
