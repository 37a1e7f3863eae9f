"""Trackers beside our own log: off by default, by name, and only where they are installed."""

from dataclasses import replace

import pytest

from hadpo import runs, trainer
from hadpo.records import BadInput
from hadpo.trainer import launch


def test_off_by_default_and_refused_by_name(fast, monkeypatch):
    assert launch.tracker_names(fast) == []
    with pytest.raises(ValueError, match="no 'tensorbord'; did you mean 'tensorboard'"):
        replace(fast, trackers="tensorbord")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="wandb is not installed; pip install wandb"):
        launch.tracker_names(replace(fast, trackers="wandb"))


def test_tensorboard_gets_every_step(tiny_run):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe, _ = tiny_run(trackers="tensorboard")
    run = runs.open_run("train", recipe, "a", {})
    steps = list(trainer.train(run))
    (folder,) = run.path("trackers", "dpo").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    found = events.Scalars("rewards/margins")
    assert [event.step for event in found] == [step.step for step in steps]
    expected = [step.metrics["rewards/margins"] for step in steps]
    assert [event.value for event in found] == pytest.approx(expected, abs=1e-6)
