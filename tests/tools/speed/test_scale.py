"""What grows with the pairs: measured at sizes that show only that it is measured."""

import pytest

from tools.speed import scale


@pytest.mark.parametrize(("what", "updates"), [("epoch", 2), ("data", 2)])
def test_a_training_is_measured(tmp_path, what, updates):
    found = scale.in_own_process(what, 20, tmp_path)
    assert (found["pairs"], found["updates"]) == (20, updates)
    assert 0 < found["cpu_seconds_to_first_update"] <= found["cpu_seconds"]
    assert found["peak_mb"] > 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"pairs-20.jsonl", "19.png"} <= names
