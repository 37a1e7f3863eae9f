"""What the notebooks say of the figures, and that a page of a mini run is marked as one."""

import json
from pathlib import Path

import pytest

from hadpo import figures

BOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", BOOKS[:6], ids=lambda p: p.name)
def test_a_page_of_a_run_shows_the_run_which_says_whether_it_is_mini(path: Path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = ["".join(cell["source"]).splitlines() for cell in cells if cell["cell_type"] == "code"]
    opened = [own for own in lines if any("runs.start(" in x or "open_run(" in x for x in own)]
    assert opened[0][-1] in ("run", "prepare")  # shown by Run._repr_html_, with the mark
    assert not any("is_mini" in x for own in lines for x in own)


def text_of(name: str) -> str:
    (path,) = [path for path in BOOKS if path.name.startswith(name)]
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def test_the_walkthrough_names_the_colour_that_the_mask_has():
    figure = figures.mask_picture([[1, 0], [1, 1]])
    (picture,) = figure.drawing.axes[0].get_images()
    red, green, blue, _ = picture.cmap(1.0)  # allowed
    assert blue > max(red, green) and "Blue means" in text_of("00")


def test_the_pairs_shown_before_merging_are_those_that_the_proof_compares():
    proof = (Path(figures.__file__).parents[1] / "adapter" / "proof.py").read_text()
    for source in (proof, text_of("03")):
        assert "pairs_to_check(run)" in source and "held_out" not in source
    assert "per token" in proof and "mean log-probability of its tokens" in text_of("03")
