"""The walkthrough as a class uses it: it runs, and its ten checks tell right from wrong."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_walkthrough.ipynb"
SMALL = {"train_images": 24, "test_images": 6, "steps": 4}
WRONG = """
for wrong in (-1234, "no such thing", True, {off}):
    answer_{n} = wrong
    try:
        {check}
    except classroom.WrongAnswer:
        continue
    raise AssertionError(f"{{wrong!r}} passed as the answer to question {n}")
answer_{n} = None
"""


def checks(book):
    """Question -> the code cell that checks its answer."""
    cells = [c for c in book.cells if "answer" in c.metadata.get("tags", [])]
    return {int(re.search(r"check\(answer_(\d+)", c.source)[1]): c for c in cells}


def right_of(source):
    """The expression that a check holds the answer against."""
    call = ast.parse(source).body[-1].value
    return ast.unparse(next(k.value for k in call.keywords if k.arg == "right"))


def test_there_are_ten_chapters_each_with_a_question_and_a_folded_check():
    book = nbformat.read(NOTEBOOK, as_version=4)
    text = "\n".join(cell.source for cell in book.cells)
    assert re.findall(r"^## (\d+)\. ", text, flags=re.M) == [str(n) for n in range(1, 11)]
    assert re.findall(r"^\*\*Question (\d+)\.", text, flags=re.M) == [str(n) for n in range(1, 11)]
    found = checks(book)
    assert list(found) == list(range(1, 11))
    for number, cell in found.items():
        assert cell.metadata.jupyter.source_hidden
        assert f"answer_{number} = None" in text
        assert "hint=" in cell.source


def test_numbers_in_its_prose_are_names_of_things_not_results():
    book = nbformat.read(NOTEBOOK, as_version=4)
    prose = [c.source for c in book.cells[2:] if c.cell_type == "markdown"]
    left = re.sub(
        r"`[^`]*`|^#+ .*$|[Qq]uestion \d+|1 / beta|ln 2|float64", "", "\n".join(prose), flags=re.M
    )
    assert re.findall(r"\d+", left) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_checks_take_right_answers_and_refuse_wrong_ones(tmp_path):
    book = nbformat.read(NOTEBOOK, as_version=4)
    found = checks(book)
    cells = []
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            values = "\n".join(f"{key} = {value}" for key, value in SMALL.items())
            cell.source = f"{cell.source}\n{values}"
        cells.append(cell)
        for number, check in found.items():
            if cell is check:
                right = right_of(check.source)
                call = check.source.splitlines()[-1]
                off = f"({right}) + 1 if not isinstance({right}, str) else ({right}) + 's'"
                wrong = WRONG.format(n=number, off=off, check=call)
                cells.append(nbformat.v4.new_code_cell(wrong))
                cells.append(nbformat.v4.new_code_cell(f"answer_{number} = {right}\n{call}"))
    book.cells = cells
    nbformat.write(book, tmp_path / "asked.ipynb")
    # In a process of its own: nothing that earlier tests left in this one's event loop matters.
    command = [sys.executable, "-m", "papermill", "asked.ipynb", "done.ipynb", "-k", "python3"]
    environment = {**os.environ, "HADPO_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    book = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    praised = [
        output.data["text/markdown"]
        for cell in book.cells
        for output in cell.get("outputs", ())
        if "Right" in output.get("data", {}).get("text/markdown", "")
    ]
    assert len(praised) == 10
    shown = [o for c in book.cells for o in c.get("outputs", ()) if "data" in o]
    pictures = [o.data["text/html"] for o in shown if "<img" in o.data.get("text/html", "")]
    assert len(pictures) >= 10
    assert all('alt="' in picture for picture in pictures)
