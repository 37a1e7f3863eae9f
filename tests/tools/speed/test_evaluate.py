"""The measurement measures what it says: the same answers, and the real lengths."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from tools.speed import evaluate, models

SMALL = replace(models.TALKING, width=32, mlp_width=48, tower_width=16, tower_mlp_width=24)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_all_ways_give_the_same_answers_and_ratios_are_written(tmp_path):
    found = evaluate.measure(tmp_path, images=1, rounds=1, geometry=SMALL)
    assert found["equal_answers"] is True
    assert found["questions"] == {"pope": 18, "pope_stop": 18, "beam5": 2}
    assert found["equal"] == found["questions"]
    assert found["distinct_answers"] > 3  # else equality says little
    assert found["prompt_tokens"] > 580
    ratios = ("vs_sequential", "vs_sequential_stop", "beam5_vs_sequential")
    assert all(found[name] > 0 for name in ratios)
    assert json.loads(json.dumps(found)) == found
    evaluate._draw(found, tmp_path / "evaluate.json")
    assert (tmp_path / "evaluate.png").stat().st_size > 1000
    with (tmp_path / "evaluate.csv").open(newline="") as file:
        assert [float(row["times"]) for row in csv.DictReader(file)] == [found[n] for n in ratios]


def test_the_period_comes_where_it_is_said_to_come(tmp_path):
    backbone = models.talking(SMALL)
    evaluate.never_end(backbone)
    path = evaluate._picture(tmp_path / "0.png", 0)
    questions = evaluate._pope(path)
    assert len(questions) == 18
    assert len({q.text for q in questions}) == 12  # three positives stand in every split
    end = max(len(evaluate.prompt_ids(backbone, q)) for q in questions) + 4
    evaluate.say_period_at(backbone, end)
    for question, text in zip(
        questions, evaluate.ours(backbone, questions, evaluate.STOPPED), strict=True
    ):
        assert text.endswith(".") or "." in text, question.text
