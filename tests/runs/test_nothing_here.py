"""A real recipe where nothing was downloaded: what is missing, and how to get it."""

import nbformat
import pytest

from hadpo import doctor, runs
from hadpo.records import BadInput
from hadpo.runs import execute


@pytest.mark.slow
def test_prepare_shows_what_is_missing_and_stops_with_one_message(tmp_path, monkeypatch):
    folders = {
        "HADPO_DATA": str(tmp_path / "data"),
        "HADPO_MODELS": str(tmp_path / "models"),
        "HADPO_RUNS": str(tmp_path / "runs"),
    }
    for name, value in folders.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as error:  # what a notebook does that no command checked before
        execute.execute("prepare", "llava-1.5-7b", "llava-1.5-7b", {})
    missing = [row for row in doctor.check("llava-1.5-7b").rows if row["status"] == "missing"]
    assert len(missing) == 13
    said = str(error.value).splitlines()
    assert said[0] == "recipe llava-1.5-7b lacks files:"
    assert said[1:] == [
        f"  {row['what']}: missing, {row['found']}; {row['fix']}" for row in missing
    ]
    assert all("hadpo fetch " in line for line in said[1:])

    folder = tmp_path / "runs" / "llava-1.5-7b" / "prepare"
    book = nbformat.read(folder / "notebook.ipynb", as_version=4)
    cells = {cell.id: cell for cell in book.cells}
    [table] = cells["01-06"].outputs
    report = (folder / "report.html").read_text(encoding="utf-8")
    for row in missing:  # the table stands in the executed notebook and in the report
        line = "".join(f"<td>{row[key]}</td>" for key in ("what", "status", "found", "fix"))
        assert line in table.data["text/html"]
        assert line in report
    [error] = cells["01-27"].outputs
    assert (error.output_type, error.ename) == ("error", "BadInput")
    assert error.traceback == [f"BadInput: {error.evalue}"]  # the message, not our code
    assert not cells["01-12"].outputs
    manifest = runs.read_manifest(folder)
    assert manifest is not None
    assert manifest.status == "failed"
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "notebook.ipynb",
        "report.html",
    ]
