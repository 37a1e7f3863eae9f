"""What the speed benchmarks were called before says what they are called now."""

import subprocess
import sys
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).parents[3]


def test_the_old_command_names_the_new_one():
    done = subprocess.run(
        [sys.executable, "-m", "hadpo.speed", "train", "--json", "my file.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "python -m tools.speed train --json 'my file.json'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_notebook_finds_the_tools_from_another_folder(tmp_path):
    found = papermill.execute_notebook(
        str(ROOT / "notebooks" / "06_speed.ipynb"),
        str(tmp_path / "06_speed.ipynb"),
        parameters={"geometry": "tiny", "rounds": 1, "folder": str(tmp_path / "out")},
        cwd=str(tmp_path),
        progress_bar=False,
    )
    assert not [cell for cell in found.cells if cell.metadata.get("papermill", {}).get("exception")]
    assert (tmp_path / "out" / "train-cpu-tiny.md").is_file()
