"""What the notebooks ask of the figures: every picture of a run says whether it is mini."""

import ast
import inspect
import json
from pathlib import Path

import pytest

from hadpo import figures

BOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def calls(path: Path) -> list[ast.Call]:
    """The calls of `figures.<function>` in a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return [
        node
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("figures.")
    ]


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.name)
def test_pictures_of_a_run_are_marked_as_the_run_is(path: Path):
    found = calls(path)
    for call in found:
        function = getattr(figures, ast.unparse(call.func).removeprefix("figures."))
        if "is_mini" not in inspect.signature(function).parameters:
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("is_mini", "").endswith(".is_mini"), ast.unparse(call)
    assert found


def text_of(name: str) -> str:
    (path,) = [path for path in BOOKS if path.name.startswith(name)]
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def test_the_walkthrough_names_the_colour_that_the_mask_has():
    figure = figures.mask_picture([[1, 0], [1, 1]], is_mini=True)
    (picture,) = figure.drawing.axes[0].get_images()
    red, green, blue, _ = picture.cmap(1.0)  # allowed
    assert blue > max(red, green) and "Blue means" in text_of("00")


def test_the_pairs_shown_before_merging_are_those_that_the_proof_compares():
    proof = (Path(figures.__file__).parents[1] / "adapter" / "proof.py").read_text()
    for source in (proof, text_of("03")):
        assert "pairs_to_check(run)" in source and "held_out" not in source
    assert "per token" in proof and "mean log-probability of its tokens" in text_of("03")
