"""`hadpo instructions` as a user types it."""

import json
import os
from pathlib import Path

import pytest

from hadpo.records import Instruction, read_jsonl

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
PHOTOS = SHARED / "data" / "photoset"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """What the commands remember of pictures and replies lies beside the runs."""
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))


@needs_photos
def test_oxford_hic(hadpo, tmp_path):
    data, images = PHOTOS / "hic" / "oxford_hic_data.csv", PHOTOS / "hic" / "images"
    options = ["--images", images, "--out", tmp_path / "out", "--top-k", "2", "--json"]
    done = hadpo("instructions", "hic", data, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["captions of train"] == 8
    assert len(list(read_jsonl(tmp_path / "out" / "train.jsonl", Instruction))) == 8
    wrong = hadpo("instructions", "hic", data, *options, "--val-share", "1.5")
    assert wrong.returncode == 2 and "val_share" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@needs_photos
def test_lrv_filtered(hadpo, tmp_path):
    folder = PHOTOS / "lrv"
    done = hadpo(
        *("instructions", "filter", folder / "filter_cap.json", folder / "filter_cap1.json"),
        *("--images", folder / "image", "--out", tmp_path / "out", "--json"),
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["instructions: has coordinates"] == 5  # README
    assert counts["instructions: answers reworded"] == 2  # README: "no mention" style


@needs_photos
def test_the_cost_of_generating_is_told_first(hadpo, tmp_path):
    prices = ["--input-price", "2", "--output-price", "8"]
    done = hadpo(
        *(
            "instructions",
            "generate",
            PHOTOS / "VG",
            "--model",
            "teacher",
            "--out",
            tmp_path / "out",
        ),
        *(*prices, "--dry-run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["requests"] == 15 and 0.3 < facts["usd_at_most"] < 1
    assert not (tmp_path / "out").exists()
