import numpy as np
import pytest

from hadpo.figures import heat_maps, mask_picture
from hadpo.records import BadInput


def test_the_data_is_the_mask():
    mask = np.tril(np.ones((5, 5), bool))
    mask[4, 3] = False
    figure = mask_picture(mask, {"prefix": 3, "chosen": 1, "rejected": 1})
    assert [[row[str(j)] for j in range(5)] for row in figure.data] == mask.astype(int).tolist()
    words = [t.get_text() for t in figure.drawing.axes[0].texts]
    assert words == ["prefix", "prefix", "chosen", "chosen", "rejected", "rejected"]
    assert "prefix of 3" in figure.alt


def test_what_is_no_square_mask_is_refused():
    with pytest.raises(BadInput, match=r"shape \(2, 3\)"):
        mask_picture(np.ones((2, 3)))
    with pytest.raises(BadInput, match="segments of 9 positions in a mask of 3"):
        mask_picture(np.ones((3, 3)), {"prefix": 9})


def test_a_heat_map_says_of_how_many_and_greys_what_is_too_few():
    shares, counts = np.array([[0.5, 1.0]]), np.array([[40, 3]])
    figure = heat_maps({"a": shares}, {"a": counts}, rows=["r"], columns=["x", "y"], title="t")
    assert [(row["share"], row["n"]) for row in figure.data] == [(0.5, 40), (1.0, 3)]
    axes = figure.drawing.axes[0]
    assert [t.get_text() for t in axes.texts] == ["50", "of 40", "100", "of 3"]
    drawn = axes.images[0].get_array()
    assert drawn.mask.tolist() == [[False, True]]  # the cell's ground, grey, is seen
    assert "fewer than 20" in figure.note
