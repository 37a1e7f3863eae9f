"""The script that made the weights still runs from nothing to a checkpoint, and can go on."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tools.train_mini import training


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3}
    monkeypatch.setattr(training, "IMAGES", 6)
    monkeypatch.setattr(training, "TOWER", numbers)
    stages = [(name, lesson, numbers) for name, lesson, _ in training.STAGES]
    monkeypatch.setattr(training, "STAGES", stages)


def test_trains_saves_and_resumes(tiny, tmp_path):
    training.train(tmp_path, threads=torch.get_num_threads())
    model = tmp_path / "llava" / "llava-v1.5-mini" / "model.safetensors"
    first = load_file(model)
    record = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert {"tower", "lessons", "clean", "faulty"} <= set(record)
    # A bad last stage is redone from the stage before, which stays as it is.
    (tmp_path / "faulty.pt").unlink()
    kept = (tmp_path / "clean.pt").stat().st_mtime_ns
    training.train(tmp_path, threads=torch.get_num_threads())
    assert (tmp_path / "clean.pt").stat().st_mtime_ns == kept
    again = load_file(model)
    assert all((first[name] == again[name]).all() for name in first)


def test_faulty_lessons_are_the_last_stage():
    names = [name for name, _, _ in training.STAGES]
    assert names == ["lessons", "clean", "faulty"]
