"""Speed and memory as bars against the peers."""

import pytest

from hadpo.records import BadInput
from tools.speed.bars import speed_bars


def row(what, pairs, median, **more):
    empty = {"least": None, "greatest": None, "floor": None, "aim": None, "verdict": ""}
    return {"what": what, "pairs": pairs, "than": "TRL", "median": median, **empty, **more}


ROWS = [
    row("times faster", "descriptions", 1.91, least=1.8, greatest=2.0, floor=1.6, aim=1.9),
    row("times faster", "POPE pairs", 2.25, floor=1.8, aim=2.2),
    row("times faster", "POPE pairs", None),
    row("peak memory, ours over theirs", "descriptions", 0.51, floor=0.65, aim=0.5),
]


def test_bars_of_what_was_measured():
    figure = speed_bars(ROWS)
    assert figure.title == "A training step is 1.9 to 2.2 times faster than the peers'"
    assert [r["median"] for r in figure.data] == [1.91, 2.25, 0.51]
    assert "descriptions, TRL: 1.91" in figure.alt
    first, second = figure.drawing.axes
    assert [patch.get_width() for patch in first.patches] == [1.91, 2.25]
    assert [patch.get_width() for patch in second.patches] == [0.51]
    assert figure.png()[:4] == b"\x89PNG"


def test_nothing_measured_is_an_error():
    with pytest.raises(BadInput, match="was anything measured"):
        speed_bars([ROWS[2]])
