"""The tables of the headline, from sums that are easy to check by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from hadpo import config
from hadpo.tables import results
from tools.claims import tables
from tools.claims.tables import MEASURES, every_run_rows, headline, headline_rows

F1 = ("claims", "val", "f1")
DRIFT = ("neutral", "place", "drift")


def run(control: float, tuned: float, *, images: int = 40) -> dict:
    """Sums of a run in which every image has the same share: no draw changes a difference."""
    each = {"sft": control, "merged": tuned, "base": 0.5}
    sums = {(F1, model): np.array([[share, 1.0]] * images) for model, share in each.items()}
    return sums | {(DRIFT, m): np.array([[0.2, 10.0]] * images) for m in ("sft", "merged")}


def test_tables_of_a_recipe_are_written_once_all_of_its_runs_are_exported(
    tmp_path: Path, monkeypatch, caplog
):
    there, here = results.REPRODUCED, tmp_path / "reproduced"
    monkeypatch.setattr(tables, "REPRODUCED", here)
    monkeypatch.setattr(tables, "TABLES", here / "ranked")
    monkeypatch.setattr(tables, "SEARCH", here / "search")
    monkeypatch.setattr(tables, "DEFECTS", here / "defects")
    monkeypatch.setattr(results, "REPRODUCED", here)
    names = config.names(config.load_recipe("results").compare.run_names)
    for name in names[1:]:
        shutil.copytree(there / name, here / name)
    tables.write()
    assert f"no tables of results: not exported: {names[0]}" in caplog.text
    assert not (here / "tables").exists()
    shutil.copytree(there / names[0], here / names[0])
    tables.write()
    made = {path.name: path.read_bytes() for path in (here / "tables").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (there / "tables").iterdir()}
    assert not (here / "ablations").exists()


def test_means_are_over_runs_and_differences_are_of_the_tuned_model():
    runs = {"world-1-seed-1": run(0.6, 0.8), "world-2-seed-1": run(0.8, 0.9)}
    means, differences = headline_rows(runs)
    by_method = {row["method"]: row for row in means if row["metric"] == "f1"}
    assert by_method["sft"]["mean"] == pytest.approx(0.7)
    assert by_method["merged"]["mean"] == pytest.approx(0.85)
    assert (by_method["sft"]["worlds"], by_method["sft"]["runs"]) == (2, 2)
    [row] = [r for r in differences if (r["method"], r["metric"]) == ("sft", "f1")]
    # One run a world and equal images: nothing is left to be drawn.
    assert [row[name] for name in ("difference", "low", "high")] == pytest.approx([0.15] * 3)
    assert row["clear"] == 1
    [drift] = [row for row in differences if row["metric"] == "drift"]  # the base has none
    assert (drift["method"], drift["difference"], drift["clear"]) == ("sft", 0.0, 0)


def test_the_interval_covers_the_seeds_of_each_world():
    runs = {"world-1-seed-1": run(0.6, 0.8), "world-1-seed-2": run(0.6, 0.7)}
    _, differences = headline_rows(runs)
    [row] = [r for r in differences if (r["method"], r["metric"]) == ("sft", "f1")]
    assert [row[name] for name in ("difference", "low", "high")] == pytest.approx([0.15, 0.1, 0.2])


def test_every_run_stands_by_itself():
    rows = every_run_rows({"world-1-seed-1": run(0.6, 0.8)})
    found = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert found == pytest.approx(
        {
            ("sft", "f1"): 0.6,
            ("merged", "f1"): 0.8,
            ("base", "f1"): 0.5,
            ("sft", "drift"): 0.02,
            ("merged", "drift"): 0.02,
        }
    )
    assert {row["images"] for row in rows} == {40}


def test_the_tuned_control_stands_first_and_what_is_clear_is_bold():
    text = headline(*headline_rows({"world-1-seed-1": run(0.6, 0.8)}))
    means, _, changes = text.partition("Preference training minus each other method:")
    names = [line.split(" | ")[0].strip("| ") for line in means.splitlines()[2:] if line]
    assert names == ["finetuned on the chosen texts only", "base", "preference training"]
    assert "**+20.00** [+20.00, +20.00]" in changes
    assert len(means.splitlines()[0].split(" | ")) == 1 + len(MEASURES)
