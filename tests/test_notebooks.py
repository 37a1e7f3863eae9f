"""The notebooks as files: what they take, how they read, and that nothing was left in them."""

import ast
import dataclasses
import itertools
import json
from pathlib import Path

import nbformat
import papermill
import pytest

from hadpo import config
from hadpo.runs.execute import NOTEBOOKS
from hadpo.runs.parameters import RUN_PARAMETERS
from hadpo.runs.translator import papermill_translators  # noqa: F401  # as its entry point does

FOLDER = Path(__file__).parents[1] / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
STAGES = {name: stage for stage, name in NOTEBOOKS.items()}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [c for c in read(path).cells if c.cell_type == "code"]


def is_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


def test_every_stage_has_its_notebook_and_there_is_a_walkthrough():
    assert {p.name for p in BOOKS} >= {*STAGES, "00_walkthrough.ipynb"}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_parameters_are_the_settings_of_the_stage(name):
    found = papermill.inspect_notebook(str(FOLDER / name))
    expected = config.settings(STAGES[name])
    assert set(found) == {*RUN_PARAMETERS, *expected}
    for key, setting in expected.items():
        type_name = setting.kind.__name__ if setting.kind in (str, int, float, bool) else "str"
        assert found[key]["inferred_type_name"] == type_name, key
        assert found[key]["default"] == "None", key
        assert found[key]["help"], key


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_parameter_cell_shows_what_people_turn_in_14_lines(name):
    [cell] = [c for c in code_cells(FOLDER / name) if is_parameters(c)]
    lines = cell.source.splitlines()
    assert len(lines) <= 14
    assert f"`hadpo settings {STAGES[name]}`" in lines[0]
    assert all("  # " in line for line in lines[1:])
    named = [line.partition(":")[0] for line in lines[1:]]
    assert named == [*RUN_PARAMETERS, *config.MAIN[STAGES[name]]]


@pytest.mark.parametrize("name", sorted(STAGES))
def test_no_cell_of_a_stage_uses_the_name_of_a_setting(name):
    """Rerun in Lab, its setup would take that for a setting."""
    for cell in code_cells(FOLDER / name):
        stored = {
            node.id
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assert is_parameters(cell) or not stored & config.settings(STAGES[name]).keys()


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.name)
def test_a_notebook_is_stripped_and_opens_anywhere(path):
    book = read(path)
    assert book.metadata.kernelspec.name == "python3"
    assert set(book.metadata) <= {"kernelspec", "language_info"}
    ids = [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert len(set(ids)) == len(ids)  # nbformat would draw another one at each reading
    for cell in code_cells(path):
        assert not cell.outputs
        assert cell.execution_count is None
    assert sum(is_parameters(c) for c in code_cells(path)) == 1


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.name)
def test_cells_are_short_and_hold_no_logic(path):
    for cell in code_cells(path):
        if is_parameters(cell):
            continue
        assert len(cell.source.splitlines()) <= 15, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            banned = (ast.FunctionDef, ast.ClassDef, ast.Try, ast.While)
            assert not isinstance(node, banned), cell.source
            if isinstance(node, ast.For):  # the one loop a notebook may have
                assert ast.unparse(node.target) == "step", cell.source
                assert ast.unparse(node.iter).startswith("trainer.train("), cell.source


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.name)
def test_prose_stands_before_every_code_cell(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert cells[-1].cell_type == "markdown"
    for before, cell in itertools.pairwise(cells):
        if cell.cell_type == "code" and not is_parameters(cell):
            assert before.cell_type == "markdown", cell.source


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_stages_share_one_anatomy(name):
    heads = [
        line.removeprefix("## ")
        for cell in read(FOLDER / name).cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    assert heads == [
        "Parameters",
        "Setup",
        "Look at the inputs",
        "Check before spending",
        "Do it",
        "Look at the results",
        "What was written, and what comes next",
    ]


def test_no_setting_is_a_secret():
    names = [f.name for kind in config.section_types().values() for f in dataclasses.fields(kind)]
    assert not [
        n for n in names if any(word in n for word in ("key", "token_", "secret", "password"))
    ]
