"""Oxford HIC converted: the fixture to exact counts, and every filter by itself."""

import csv
import importlib.util
import json
import os
from pathlib import Path

import pydantic
import pytest
from PIL import Image

from hadpo.data import Report, cc_sbu_align, hic
from hadpo.data.images import ImageChecks
from hadpo.instructions.hic import HicSettings, convert
from hadpo.records import BadInput, Instruction, read_jsonl

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
PHOTOS = SHARED / "data" / "photoset" / "hic"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}")
needs_filters = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("py3langid", "profanity_check"))),
    reason="the extra filters is absent: pip install -e '.[filters]'",
)


def records(out, split="train"):
    return list(read_jsonl(out / f"{split}.jsonl", Instruction))


def photos(out, report=None, **settings):
    data = PHOTOS / "oxford_hic_data.csv"
    return convert(data, PHOTOS / "images", out, HicSettings(**settings), report or Report())


@needs_photos
def test_the_photos_give_these_counts(tmp_path):
    # README: 21 rows, 1 null caption, 1 null id, 1 exact duplicate, 1 in capitals, 2 ids (3 rows)
    # without a photo: 19 rows read, 17 differ, 14 have a photo
    assert photos(tmp_path) == {
        "captions of train": 14,
        "hic: captions of images that cannot be used": 3,
        "hic: duplicates": 2,
        "hic: images: no such file": 2,
        "hic: rows read": 19,
        "hic: rows without caption": 1,
        "hic: rows without image_id": 1,
        "images of train": 4,
    }
    found = records(tmp_path)
    assert [r.answer for r in found[:2]] == [
        "The flowers checked the mirror, liked what they saw, and spread out.",  # 2,056
        "When the florist says 'just a few stems' and you also own a very brave vase.",  # 1,234
    ]
    assert not any(r.answer.isupper() for r in found)  # the one with more votes stays
    assert all(Path(r.image).is_file() and r.weight == 1 and r.task == "humour" for r in found)
    assert len({r.instruction_id for r in found}) == 14
    assert json.loads((tmp_path / "counts.json").read_text())["captions of train"] == 14
    assert not list(tmp_path.glob("*.part"))


@needs_photos
def test_the_layout_is_minigpt4s_own(tmp_path):
    photos(tmp_path)
    captions = cc_sbu_align.read(tmp_path / "train", Report())
    assert [c.answer for c in captions] == [r.answer for r in records(tmp_path)]
    first = json.loads((tmp_path / "train" / "filter_cap.json").read_text())["annotations"][0]
    assert (first["image_id"], first["funny_score"], first["rank"]) == ("000417", 2056, 1)


@needs_photos
def test_score_words_and_top_k(tmp_path):
    counts = photos(tmp_path, min_score=1, max_words=10, top_k=1)
    kept = {r.image_id: r.answer for r in records(tmp_path)}
    assert kept == {
        "000417": "My autumn mood board, now in 3D.",
        "102938": "Late for ballet practice, early for the slalom.",
        "5530a1": "The broccoli came as a chaperone.",
    }
    assert counts["hic: score below min_score"] == 5  # zeros
    assert counts["hic: words outside the limits"] == 5
    assert counts["hic: not among the best of their image"] > 0


@needs_photos
def test_the_split_is_by_image_and_by_seed(tmp_path):
    counts = photos(tmp_path / "a", val_share=0.5)
    train, val = records(tmp_path / "a"), records(tmp_path / "a", "val")
    assert counts["images of train"] == counts["images of val"] == 2
    assert len(train) + len(val) == 14
    assert not {r.image_id for r in train} & {r.image_id for r in val}
    photos(tmp_path / "b", val_share=0.5)
    assert records(tmp_path / "b", "val") == val
    splits = set()
    for seed in range(5):
        photos(tmp_path / str(seed), val_share=0.5, seed=seed)
        splits.add(tuple(sorted({r.image_id for r in records(tmp_path / str(seed), "val")})))
    assert len(splits) > 1


@needs_photos
@pytest.mark.parametrize("weighting", ["log", "rank"])
def test_weights_have_mean_one_and_follow_the_score(tmp_path, weighting):
    photos(tmp_path, weighting=weighting)
    found = records(tmp_path)
    assert sum(r.weight for r in found) / len(found) == pytest.approx(1)
    by_image = {}
    for record in found:
        by_image.setdefault(record.image_id, []).append(record.weight)
    for weights in by_image.values():
        assert weights == sorted(weights, reverse=True)
    if weighting == "rank":
        assert by_image["000417"][1] == pytest.approx(by_image["000417"][0] / 2)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("1", "2"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def converted(folder, rows, report=None, **settings):
    with (folder / "data.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image_id", "caption", "funny_score"), *rows])
    report = report or Report()
    where = folder / "out"
    return convert(folder / "data.csv", folder / "images", where, HicSettings(**settings), report)


def test_emoji_and_other_scripts_are_captions_too(folder):
    texts = [
        "\U0001f600\U0001f600",
        "\U0001f61b",
        "\u0645\u0631\u062d\u0628\u0627",
        "A cup.",
        "a CUP",
    ]
    rows = [hic.Row("1", text, float(number)) for number, text in enumerate(texts)]
    counts = converted(folder, rows)
    assert {r.answer for r in records(folder / "out")} == {*texts[:3], "a CUP"}
    assert counts["hic: duplicates"] == 1


def test_broken_images_are_counted_and_looked_at_once(folder):
    (folder / "images" / "2.jpg").write_text("<html>gone</html>")
    rows = [hic.Row("1", "A cup.", 1.0), hic.Row("2", "A dog.", 2.0), hic.Row("2", "Two.", 1.0)]
    counts = converted(folder, rows)
    assert counts["hic: images: no readable image"] == 1
    assert counts["hic: captions of images that cannot be used"] == 2
    assert counts["captions of train"] == 1


def test_an_id_that_climbs_is_broken(folder):
    rows = [hic.Row("../images/1", "A cup.", 1.0), hic.Row("1", "A cup.", 1.0)]
    with pytest.raises(BadInput, match="does not stay inside"):
        converted(folder, rows)
    counts = converted(folder, rows, Report("skip"))
    assert counts["hic: broken, left out"] == 1 and counts["captions of train"] == 1
    assert not (folder / "out" / "rows.sqlite.part").exists()


def test_nothing_left_is_an_error(folder):
    with pytest.raises(BadInput, match="no caption is left"):
        converted(folder, [hic.Row("1", "A cup.", 1.0)], min_score=5)


@pytest.mark.parametrize("wrong", [{"top_k": -1}, {"weighting": "linear"}, {"val_share": 1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(pydantic.ValidationError):
        HicSettings(**wrong)


@pytest.mark.extra
@needs_filters
def test_language_and_profanity(folder):
    rows = [
        hic.Row("1", "He walks so fast that even the camera gave up.", 3.0),
        hic.Row("1", "Der Hund ist sehr schnell nach Hause gelaufen.", 2.0),
        hic.Row("1", "LATE FOR BALLET PRACTICE, EARLY FOR THE SLALOM.", 2.0),
        hic.Row("1", "lol", 1.0),  # too short to tell
        hic.Row("1", "You fucking piece of shit.", 9.0),
    ]
    counts = converted(folder, rows, languages=("en",), profanity="drop")
    assert {r.answer for r in records(folder / "out")} == {rows[i].caption for i in (0, 2, 3)}
    assert counts["hic: another language"] == 1 and counts["hic: profane"] == 1
    with pytest.raises(BadInput, match="no language 'english'"):
        converted(folder, rows, languages=("english",))


def test_verdicts_on_images_are_kept(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (8, 4)).save(path)
    Image.new("I;16", (5, 5)).save(tmp_path / "b.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "c.png")
    (tmp_path / "d.jpg").write_bytes(path.read_bytes()[:-60])
    (tmp_path / "e.jpg").touch()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "f.jpg", exif=turned)
    first = ImageChecks(tmp_path / "verdicts.jsonl").findings(sorted(tmp_path.glob("*.[jp]*")))
    shown = {Path(key).name: verdict for key, verdict in first.items()}
    assert shown["a.jpg"].notes == ("stored as CMYK",) and not shown["a.jpg"].problem
    assert shown["b.png"].notes == ("stored as I;16",)
    assert shown["c.png"].problem == "1 x 1 pixels"
    assert "no readable image" in shown["d.jpg"].problem
    assert shown["e.jpg"].problem == "the file is empty"
    assert (shown["f.jpg"].width, shown["f.jpg"].height) == (4, 8)
    again = ImageChecks(tmp_path / "verdicts.jsonl")
    assert again.findings([path]) == {str(path): shown["a.jpg"]}
    state = path.stat()
    path.write_bytes(b"\0" * state.st_size)  # as large and, below, as old: the verdict is kept
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not again.findings([path])[str(path)].problem
    path.write_text("no image")
    assert again.findings([path])[str(path)].problem
    assert (
        again.findings([tmp_path / "none.jpg"])[str(tmp_path / "none.jpg")].problem
        == "no such file"
    )
