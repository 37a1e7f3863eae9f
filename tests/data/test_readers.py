"""Every reader against the counts that the README of the photo fixture gives."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from hadpo.data import (
    Report,
    cc_sbu_align,
    coco,
    gavie,
    hadpo_pairs,
    hic,
    lrv,
    pope,
    shr,
    visual_genome,
)
from hadpo.data.fetch.images import addresses
from hadpo.mini import build

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
PHOTOS = SHARED / "data" / "photoset"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}")


@pytest.fixture
def report():
    return Report()


def test_visual_genome(report):
    found = visual_genome.read(PHOTOS / "VG", report)
    # README: 5 images; 6 entries of 15, 11, 15, 0, 12, 12 regions, one phrase is empty
    assert {k: len(e.regions) for k, e in found.items()} == {
        "2356011": 15,
        "2357653": 10,
        "2363134": 15,
        "2375304": 12,
        "2395079": 12,
    }
    assert report.finish() == {
        "visual_genome: entries without regions": 1,
        "visual_genome: regions with an empty phrase": 1,
    }
    folders = Counter(Path(e.image).parent.name for e in found.values())
    assert folders == {"VG_100K": 3, "VG_100K_2": 2}
    assert all(Path(e.image).is_file() for e in found.values())
    first = found["2356011"]
    assert (first.width, first.height) == (400, 500)
    assert first.regions[0].phrase == "tall metal pole holding two traffic lights"
    assert (first.regions[0].x, first.regions[0].height) == (131.0, 315.0)


def test_visual_genome_of_some_images(report):
    found = visual_genome.read(PHOTOS / "VG", report, image_ids={"2375304"})
    assert list(found) == ["2375304"]
    assert report.finish()["visual_genome: entries of images that are not used"] == 4
    assert visual_genome.coco_ids(PHOTOS / "VG") == {}  # null in the fixture


def test_coco(report):
    found = coco.read(PHOTOS / "coco2014", report)
    assert report.finish() == {}
    assert len(found) == 4
    photo = found["COCO_val2014_000000043917"]
    assert (photo.width, photo.height) == (640, 429)
    assert photo.objects == ("broccoli", "fork", "dining table", "steak", "parsley")


def test_pope(report):
    questions = pope.read(PHOTOS / "POPE" / "output" / "coco", PHOTOS / "coco2014", report)
    assert report.finish() == {}
    labels = Counter((q.split, q.label) for q in questions)
    assert labels == {(s, label): 12 for s in pope.SPLITS for label in ("yes", "no")}
    per_photo = Counter((q.split, q.image_id) for q in questions)
    assert set(per_photo.values()) == {6} and len(per_photo) == 12
    yes = {s: [q.text for q in questions if q.split == s and q.label == "yes"] for s in pope.SPLITS}
    assert yes["random"] == yes["popular"] == yes["adversarial"]
    assert len({q.question_id for q in questions}) == 72


def test_shr(report):
    ids = shr.image_ids(PHOTOS / "shr", report)
    assert ids == ["2356011", "2357653", "2363134", "2375304", "2395079"]  # one of them as text
    facts = shr.facts(PHOTOS / "shr", report)
    assert len(facts) == 5
    assert len(facts["2363134"]) == 8  # part 2 wins over the 3 of part 1
    assert report.finish() == {"shr: facts of part 1 that part 2 replaces": 1}


def test_cc_sbu_align(report):
    captions = cc_sbu_align.read(PHOTOS / "cc_sbu_align", report)
    assert report.finish() == {}
    assert [c.image_id for c in captions] == ["2363134", "2375304"]  # one as text, one as a number
    assert captions[1].answer.startswith("The picture shows a two-colored vase")


# README: 35 records (20 + 15); 15 records (10 + 5), wrapped; 2 on one chart, one without a task
@pytest.mark.parametrize(
    ("name", "images", "kinds"),
    [
        ("filter_cap1.json", "image", {"positive": 20, "negative": 15}),
        ("filter_cap.json", "image", {"positive": 10, "negative": 5}),
        ("chart_release_update.json", "chart_image", {"chart": 2}),
    ],
)
@pytest.mark.parametrize("shape", ["list", "annotations"])
def test_lrv(report, tmp_path, name, images, kinds, shape):
    folder = PHOTOS / "lrv"
    found = list(lrv.read(folder / name, folder / images, report))
    assert report.finish() == {}
    assert Counter(r.kind for r in found) == kinds
    assert all(Path(r.image).is_file() and r.instruction and r.answer for r in found)
    assert len({r.instruction_id for r in found}) == len(found)
    assert lrv.write(found, tmp_path / name, shape=shape) == len(found)
    assert json.loads((tmp_path / name).read_text()).__class__ is {"list": list}.get(shape, dict)
    assert list(lrv.read(tmp_path / name, folder / images, report)) == found


def test_lrv_records_hold_what_the_file_says(report):
    folder = PHOTOS / "lrv"
    found = list(lrv.read(folder / "filter_cap.json", folder / "image", report))
    assert sum("X:" in r.instruction + r.answer for r in found) == 5  # README: with coordinates
    assert found[2].kind == "negative" and found[2].task == "negative"
    assert found[2].answer.startswith("There is no mention of a red fire truck")
    charts = list(lrv.read(folder / "chart_release_update.json", folder / "chart_image", report))
    assert [r.task for r in charts] == ["chart question answering", ""]


# README: 5 descriptions each; 20 question records, of which `correct` leaves 15 and 18
@pytest.mark.parametrize(
    ("schema", "questions", "counts"),
    [
        ("minigpt4", 20, {}),
        ("instructblip", 15, {"hadpo_pairs: questions marked as correct": 5}),
        ("llava-v1.5", 18, {"hadpo_pairs: questions marked as correct": 2}),
    ],
)
def test_pairs(report, schema, questions, counts):
    pairs = read_pairs(schema, report)
    assert report.finish() == counts
    assert Counter(p.kind for p in pairs) == {"description": 5, "pope": questions}
    assert len({p.pair_id for p in pairs}) == len(pairs)
    assert all(p.chosen != p.rejected and p.instruction for p in pairs)


def read_pairs(schema, report, folder=None, **rest):
    return hadpo_pairs.read(
        folder or PHOTOS / "hadpo" / schema,
        schema=schema,
        images=visual_genome.images(PHOTOS / "VG", report),
        seed=42,
        report=report,
        **rest,
    )


def test_one_text_and_instruction_are_drawn_by_the_seed(report):
    images = visual_genome.images(PHOTOS / "VG", report)
    folder = PHOTOS / "hadpo" / "llava-v1.5"
    draws = [
        hadpo_pairs.read(folder, schema="llava-v1.5", images=images, seed=seed, report=report)
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    file = json.loads((folder / "desc_data.json").read_text())
    for pair in draws[0][:5]:
        assert pair.chosen in file[pair.image_id]["chosen"]
        assert pair.rejected in file[pair.image_id]["rejected"]
        assert pair.instruction in hadpo_pairs.INSTRUCTIONS


def test_newlines_become_spaces_or_vanish_or_stay(report, tmp_path):
    source = json.loads((PHOTOS / "hadpo" / "minigpt4" / "desc_data.json").read_text())
    for entry in source:
        entry["chosen"] = entry["chosen"][1:2]  # the text with a newline
    assert any("\n" in entry["chosen"][0] for entry in source)
    (tmp_path / "desc_data.json").write_text(json.dumps(source))
    (tmp_path / "pope_data.json").write_text("[]")
    ours = read_pairs("minigpt4", report, tmp_path)
    theirs = read_pairs("minigpt4", report, tmp_path, newlines="upstream")
    for entry, one, other in zip(source, ours, theirs, strict=True):
        assert "\n" not in one.chosen
        assert one.chosen.split() == entry["chosen"][0].split()
        assert other.chosen == entry["chosen"][0].replace("\n", "")
    assert any(o.chosen.split() != t.chosen.split() for o, t in zip(ours, theirs, strict=True))
    kept = read_pairs("llava-v1.5", report)
    assert any("\n\n" in p.chosen + p.rejected for p in kept)


@pytest.mark.parametrize("schema", sorted(hadpo_pairs.SCHEMAS))
def test_write_then_read_is_identity(schema, report, tmp_path):
    pairs = read_pairs(schema, report)
    counts = hadpo_pairs.write(pairs, tmp_path, schema=schema)
    assert counts == {"desc_data.json": 5, "pope_data.json": len(pairs) - 5}
    assert read_pairs(schema, report, tmp_path) == pairs


def test_vg_annotation_has_the_regions_of_visual_genome(report):
    found = visual_genome.read_annotation(PHOTOS / "VG" / "vg_annotation.json", report)
    assert report.finish() == {}
    # README: the same regions without the empty phrase (64)
    assert sum(map(len, found.values())) == 64
    evidence = visual_genome.read(PHOTOS / "VG", report)
    assert found == {key: e.regions for key, e in evidence.items()}
    one = visual_genome.read_annotation(
        PHOTOS / "VG" / "vg_annotation.json", report, image_ids={"2375304"}
    )
    assert {key: len(regions) for key, regions in one.items()} == {"2375304": 12}


def test_gavie(report):
    images = visual_genome.images(PHOTOS / "VG", report)
    found = gavie.questions(PHOTOS / "gavie" / "evaluation_subset.json", images, report)
    assert report.finish() == {}
    assert len(found) == 12 and len({q.image_id for q in found}) == 5
    assert sum("X:" in q.text for q in found) == 1  # README: one with coordinates


def test_hic(report):
    # README: 21 rows: 1 null caption, 1 null id, scores with commas, ids that need their zeros
    rows = list(hic.read(PHOTOS / "hic" / "oxford_hic_data.csv", report))
    assert report.finish() == {
        "hic: rows without caption": 1,
        "hic: rows without image_id": 1,
    }
    assert len(rows) == 19
    assert Counter(row.image_id for row in rows) == {
        "000417": 5,
        "102938": 4,
        "5530a1": 4,
        "778201": 3,
        "900001": 2,
        "900002": 1,
    }
    assert rows[0].score == 1234 and sum("\n" in row.caption for row in rows) == 1


def test_hic_addresses(report):
    urls = addresses(PHOTOS / "hic" / "oxford_hic_image_info.csv", report)
    assert report.finish() == {"images: addresses of an id that was there": 1}
    assert len(urls) == 6 and urls["000417"].endswith("/000417.jpg")


def test_coco_of_the_official_files_knows_what_objects_json_knows(report, tmp_path):
    build(tmp_path, seed=3, train_images=1, test_images=3)
    folder = tmp_path / "coco2014"
    known = coco.read(folder, report)
    (folder / "objects.json").unlink()
    official = coco.read(folder, report)
    assert report.finish() == {}
    assert {k: sorted(e.objects) for k, e in official.items()} == {
        k: sorted(set(e.objects)) for k, e in known.items()
    }
    for key, evidence in official.items():
        assert (evidence.image, evidence.width) == (known[key].image, known[key].width)
        assert all(r.x + r.width <= evidence.width for r in evidence.regions)
    texts = coco.captions(folder / "annotations" / "captions_val2014.json", report)
    assert len(texts) == 3 and all(len(some) == 2 for some in texts.values())
