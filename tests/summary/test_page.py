"""`runs/<name>/index.html`: what stands on it, what it warns of, what it says that it lacks."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hadpo import summary
from hadpo.records import BadInput
from hadpo.runs.manifest import read_manifest
from tests.tables.made_up_run import write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path, "a", seed=1)
    return tmp_path


def change(folder: Path, stage: str, **values: object) -> None:
    path = folder / "a" / stage / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class Cells(HTMLParser):
    """The cells of the table `headline`, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._is_in = self._is_cell = False

    def handle_starttag(self, tag, attrs):
        self._is_in |= tag == "table" and ("id", "headline") in attrs
        if self._is_in and tag == "tr":
            self.rows.append([])
        if self._is_in and tag in ("td", "th"):
            self._is_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._is_in &= tag != "table"
        self._is_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self._is_cell and self.rows:
            self.rows[-1][-1] += data


def headline(path: Path) -> list[list[str]]:
    cells = Cells()
    cells.feed(path.read_text())
    return cells.rows


def test_the_headline_holds_the_metrics_of_the_run_and_nothing_published(folder: Path):
    page = summary.write("a", folder)
    assert page.path == folder / "a" / "index.html"
    heads, *rows = headline(page.path)
    assert heads[:2] == ["Measure", "Base"]
    assert {"Tuned", "Difference", "95 % interval", "n"} <= set(heads)
    assert not [head for head in heads if "eported" in head]
    metrics = [
        json.loads(x) for x in (folder / "a/evaluate/metrics.jsonl").read_text().splitlines()
    ]
    value = {
        m["model"]: m["value"]
        for m in metrics
        if (m["benchmark"], m["split"], m["name"]) == ("pope", "random", "accuracy")
    }
    [row] = [row for row in rows if row[0] == "POPE random: accuracy (%)"]
    assert row[heads.index("Base")] == f"{100 * value['base']:.2f}"
    assert row[heads.index("Tuned")] == f"{100 * value['merged']:.2f}"


def test_the_page_is_one_file_that_asks_nobody(folder: Path):
    text = summary.write("a", folder).path.read_text()
    assert "<script" not in text and "http" not in text
    assert not re.search(r"@import|url\(", text)
    assert summary.write("a", folder).path.read_text() == text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


COUNTS = {"x: broken, left out": 3, "images missing": 0, "entries of images that are not used": 9}


def test_what_a_reader_must_know_stands_at_the_top(folder: Path):
    change(folder, "train", facts={"plan": {"answers_cut": 7}, "skipped_updates": {"dpo": 2}})
    change(folder, "prepare", facts={"counts": COUNTS})
    change(
        folder, "evaluate", facts={"verdicts": {"correct": 1, "unparsed": 5}, "warnings": ["w1"]}
    )
    samples = folder / "a" / "evaluate" / "samples.jsonl"
    answer = {"question_id": "1", "benchmark": "shr", "split": "val", "model": "base"}
    answer |= {"image_id": "1", "text": "A", "tokens": 9, "finish": "length"}
    samples.write_text(json.dumps(answer) + "\n")
    page = summary.write("a", folder)
    assert "Training: 7 answers were cut to max_answer_tokens or max_length." in page.warnings
    assert "Training dpo: 2 updates were left out (overflow)." in page.warnings
    assert "Stage prepare: 3 x: broken, left out." in page.warnings
    assert "5 verdicts of the judge could not be read." in page.warnings
    assert "w1" in page.warnings
    assert "SHR, base: 1 of 1 answers were cut at the limit of new tokens." in page.warnings
    assert not [t for t in page.warnings if "images missing" in t or "not used" in t]
    text = page.path.read_text()
    assert text.index("5 verdicts") < text.index('id="headline"')


def test_what_was_done_is_said_in_words(folder: Path):
    plan = {"objective": "dpo", "trained": "adapter", "updates": 1200, "pairs_seen": 2880}
    change(folder, "train", facts={"plan": plan})
    counts = {"base, pope": 3240, "base, shr": 200, "merged, shr": 200}
    change(folder, "evaluate", facts={"answers": counts})
    text = summary.write("a", folder).path.read_text()
    assert "adapter by dpo: 1,200 updates, 2,880 pairs seen<" in text
    assert "answers of base (pope 3,240, shr 200), tuned (shr 200); judge: oracle<" in text
    change(folder, "train", facts={"plan": plan | {"objective": "sft"}})
    assert "2,880 instructions seen<" in summary.write("a", folder).path.read_text()


def test_a_stage_that_failed_and_one_that_is_stale_are_warned_of(folder: Path):
    change(folder, "train", status="failed", error="ValueError: loss is NaN", run_id="another")
    change(folder, "evaluate", parents={"train": "before"})
    found = summary.write("a", folder).warnings
    assert "Stage train is failed: ValueError: loss is NaN." in found
    assert any(text.startswith("Stage evaluate was made from another train") for text in found)


def test_what_an_older_run_lacks_is_named(folder: Path):
    (folder / "a" / "evaluate" / "outcomes.jsonl").unlink()
    page = summary.write("a", folder)
    assert page.headline is None
    assert any("outcomes.jsonl is not there" in text for text in page.lacks)
    assert "outcomes.jsonl is not there" in page.path.read_text()
    shutil.rmtree(folder / "a" / "evaluate")
    assert "results: stage evaluate has not been run" in summary.write("a", folder).lacks
    with pytest.raises(BadInput, match="no run 'b'"):
        summary.write("b", folder)


def test_settings_come_from_the_manifest_and_those_given_are_bold(folder: Path):
    manifest = read_manifest(folder / "a" / "train")
    assert manifest is not None
    settings = manifest.settings
    settings["train"]["beta"] = 0.37
    change(folder, "train", settings=settings, overrides={"beta": 0.37}, recipe="no/longer-there")
    text = summary.write("a", folder).path.read_text()
    assert "<strong>0.37</strong>" in text


def test_names_in_a_run_are_text_and_no_markup(folder: Path):
    change(folder, "train", status="failed", error="<img src=x onerror=alert(1)>")
    assert "<img src=x" not in summary.write("a", folder).path.read_text()


def test_published_numbers_stand_below_with_the_reason(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path))
    from hadpo.runs import open_run

    run = open_run("compare", "mini/llava", "a", {})
    run.finish()
    text = summary.write("a", folder).path.read_text()
    assert text.index('id="headline"') < text.index("They may not be compared with the numbers")
    assert text.index("They may not be compared") < text.index("89.60")
    assert "Audit of the POPE numbers" in text
