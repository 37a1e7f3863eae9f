"""Exports and joined reports, of a run whose stages were really opened and closed."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from hadpo.records import BadInput, Metric, write_jsonl
from hadpo.runs import export, join_reports, read_manifest
from hadpo.runs.run import open_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One run: train and evaluate done, with files that must stay behind."""
    root = tmp_path / "runs"
    monkeypatch.setenv("HADPO_RUNS", str(root))
    train = open_run("train", "mini/llava", "a", {"beta": 0.2})
    train.note(data=f"{root}/a/prepare/pairs.jsonl", source="https://example.org/a/b/c.json")
    train.log({"objective": "dpo", "step": 1, "metrics": {"loss": 0.69}})
    for name in ("adapter/adapter.safetensors", "figures/x.png", "samples.jsonl", "notebook.ipynb"):
        train.path(name).write_bytes(b"heavy")
    train.finish()
    evaluate = open_run("evaluate", "mini/llava", "a", {})
    metric = Metric(benchmark="pope", split="random", model="base", name="accuracy", value=0.5, n=4)
    write_jsonl(evaluate.path("metrics.jsonl"), [metric])
    evaluate.path("tables", "pope.md").write_text("| a |\n")
    evaluate.finish()
    return root


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_an_export_holds_small_files_without_paths_only(folder: Path, tmp_path: Path):
    export("a", tmp_path / "out", runs_folder=folder)
    found = files(tmp_path / "out")
    assert set(found) == {
        "train/manifest.json",
        "train/metrics.jsonl",
        "evaluate/manifest.json",
        "evaluate/metrics.jsonl",
        "evaluate/tables/pope.md",
    }
    assert not [name for name, content in found.items() if str(tmp_path).encode() in content]
    manifest = json.loads(found["train/manifest.json"])
    assert manifest["facts"] == {
        "data": ".../pairs.jsonl",
        "source": "https://example.org/a/b/c.json",
    }
    assert (manifest["command"], manifest["pid"]) == ("", 0)
    read = read_manifest(tmp_path / "out" / "train")
    assert read is not None and read.status == "done" and read.overrides == {"beta": 0.2}


def test_exporting_twice_gives_the_same_bytes(folder: Path, tmp_path: Path):
    export("a", tmp_path / "out", runs_folder=folder)
    before = files(tmp_path / "out")
    export("a", tmp_path / "out", runs_folder=folder)
    assert files(tmp_path / "out") == before


def test_a_key_stops_the_export(folder: Path, tmp_path: Path, monkeypatch):
    path = folder / "a" / "evaluate" / "tables" / "pope.md"
    path.write_text("| sk-abcdefghijklmnop1234 |\n")
    with pytest.raises(BadInput, match=r"pope\.md: a key or token stands in it"):
        export("a", tmp_path / "out", runs_folder=folder)
    path.write_text("| my-own-key-of-today |\n")
    monkeypatch.setenv("SOME_API_KEY", "my-own-key-of-today")
    with pytest.raises(BadInput, match="a key or token") as caught:
        export("a", tmp_path / "out", runs_folder=folder)
    assert "my-own-key" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe{}", r"metrics\.jsonl: not UTF-8 \(byte 0\); redo the stage"),
        (b'{"step": 1}\n{"step": 2', r"metrics\.jsonl:2: not JSON \(it is cut off\)"),
        (b"<html>", r"metrics\.jsonl: an HTML page"),
        (b'{"loss": NaN}\n', r"metrics\.jsonl:1: loss: expected a finite number, found NaN"),
    ],
)
def test_a_log_that_cannot_be_read_is_not_shared(folder: Path, tmp_path: Path, content, message):
    (folder / "a" / "train" / "metrics.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        export("a", tmp_path / "out", runs_folder=folder)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_named(folder: Path, tmp_path: Path):
    with pytest.raises(BadInput, match=r"'b' .*no such run"):
        export("b", tmp_path / "out", runs_folder=folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="mine holds other files"):
        export("a", tmp_path / "mine", runs_folder=folder)
    big = folder / "a" / "evaluate" / "tables" / "big.csv"
    big.write_text("1" * 1_000_001)
    with pytest.raises(BadInput, match=r"too large.*big\.csv \(1,000,001 bytes\)"):
        export("a", tmp_path / "out", runs_folder=folder)
    big.unlink()
    open_run("merge", "mini/llava", "a", {})
    with pytest.raises(BadInput, match="merge is running"):
        export("a", tmp_path / "out", runs_folder=folder)


def notebook(stage: str) -> str:
    """An executed notebook with a heading that every stage has, and a picture."""
    data = {"text/html": f"<p>{stage} text</p>", "text/plain": "x"}
    shown = nbformat.v4.new_output("display_data", data)
    picture = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_markdown_cell(f"# {stage}\n\n## Setup\n\nWith `code`.", id=f"{stage}-1"),
        nbformat.v4.new_code_cell("1 < 2", outputs=[shown, picture], id=f"{stage}-2"),
    ]
    return nbformat.writes(book)


def test_the_joined_report_has_contents_and_asks_no_host(folder: Path):
    for stage in ("train", "evaluate"):
        (folder / "a" / stage / "notebook.ipynb").write_text(notebook(stage))
    text = join_reports("a", folder).read_text()
    assert text.index('href="#train"') < text.index('href="#evaluate"') < text.index("train text")
    assert text.index("train text") < text.index("evaluate text")
    for anchor in ("train-Setup", "evaluate-Setup"):
        assert text.count(f'id="{anchor}"') == 1 and text.count(f'href="#{anchor}"') == 2
    body = text[text.index("<body") :]  # nbconvert's style names its licences
    assert "<script" not in text and "http" not in body
    assert not re.search(r"""url\(["']?http|@import""", text)
    assert "<code>code</code>" in body and "data:image/png;base64,iVBORw0KGgo=" in body
    assert "it teaches, it is not a result" in text
    ids = re.findall(r' id="([^"]*)"', body)
    assert len(ids) == len(set(ids))
    assert join_reports("a", folder).read_text() == text


def test_a_notebook_that_cannot_be_read_is_named(folder: Path):
    with pytest.raises(BadInput, match=r"train.notebook\.ipynb: no notebook"):
        join_reports("a", folder)  # it holds the word heavy


def test_a_run_without_reports_says_so(folder: Path):
    (folder / "a" / "train" / "notebook.ipynb").unlink()
    with pytest.raises(BadInput, match="'a' has no report"):
        join_reports("a", folder)
    with pytest.raises(BadInput, match="it has no stage"):
        join_reports("nobody", folder)
