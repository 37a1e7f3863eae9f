"""The written world: every file has its official shape and says what the pictures show."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hadpo.data import Report, hadpo_pairs, visual_genome
from hadpo.mini import build
from hadpo.mini.world import COLOURS
from hadpo.records import BadInput
from hadpo.text import sentences

TRAIN, TEST = 30, 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build(folder, seed=5, train_images=TRAIN, test_images=TEST)
    return folder


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_split_and_images(world: Path):
    split = read(world / "split.json")
    assert [len(split["train"]), len(split["test"])] == [TRAIN, TEST]
    images = read(world / "VG" / "image_data.json")
    assert [entry["image_id"] for entry in images] == split["train"] + split["test"]
    folders = set()
    for entry in images:
        assert set(entry) == {"image_id", "url", "width", "height", "coco_id", "flickr_id"}
        tail = entry["url"].split("/")[-2:]
        folders.add(tail[0])
        with Image.open(world / "VG" / Path(*tail)) as image:
            assert image.size == (entry["width"], entry["height"]) == (96, 96)
        assert (entry["coco_id"] is not None) == (entry["image_id"] in split["test"])
    assert folders == {"VG_100K", "VG_100K_2"}
    assert not [path for path in world.rglob("*") if path.is_symlink()]


def test_regions_are_the_true_objects_in_their_colour(world: Path):
    truth = read(world / "truth.json")
    for entry in read(world / "VG" / "region_descriptions.json"):
        *regions, whole = entry["regions"]
        known = truth[str(entry["id"])]
        assert whole["phrase"] == f"the scene is a {known['scene']}"
        assert len(regions) == 9
        count = len(known["objects"])
        assert all(region["phrase"].endswith(" is empty") for region in regions[count:])
        for region, thing in zip(regions[:count], known["objects"], strict=True):
            assert region["image_id"] == entry["id"]
            assert [region[key] for key in ("x", "y", "width", "height")] == thing["box"]
            assert (
                f"{thing['colour']} {thing['category']} at the {thing['place']}"
                in (region["phrase"])
            )


def test_pictures_show_the_true_colours(world: Path):
    truth = read(world / "truth.json")
    for entry in read(world / "VG" / "image_data.json"):
        path = world / "VG" / Path(*entry["url"].split("/")[-2:])
        pixels = np.asarray(Image.open(path), dtype=float)
        for thing in truth[str(entry["image_id"])]["objects"]:
            x, y, width, height = thing["box"]
            cell = pixels[y : y + height, x : x + width]
            near = np.abs(cell - COLOURS[thing["colour"]]).max(axis=2) < 30
            assert near.sum() >= 8, (entry["image_id"], thing)


def test_coco_has_the_test_images_in_its_own_schema(world: Path):
    truth, split = read(world / "truth.json"), read(world / "split.json")
    lines = read_lines(world / "coco2014" / "objects.json")
    assert len(lines) == TEST
    for key, line in zip(split["test"], lines, strict=True):
        assert line["image"] == f"COCO_val2014_{key:012d}.jpg"
        assert line["objects"] == sorted(t["category"] for t in truth[str(key)]["objects"])
        assert (world / "coco2014" / "val2014" / line["image"]).is_file()
    instances = read(world / "coco2014" / "annotations" / "instances_val2014.json")
    assert set(instances) == {"info", "images", "licenses", "annotations", "categories"}
    assert {entry["id"] for entry in instances["images"]} == set(split["test"])
    names = {entry["id"]: entry["name"] for entry in instances["categories"]}
    for annotation in instances["annotations"]:
        things = truth[str(annotation["image_id"])]["objects"]
        [thing] = [t for t in things if t["category"] == names[annotation["category_id"]]]
        x, y, width, height = annotation["bbox"]
        left, top, side, _ = thing["box"]
        assert left <= x and x + width <= left + side
        assert top <= y and y + height <= top + side
        assert 0 < annotation["area"] <= width * height
        [outline] = annotation["segmentation"]
        assert len(outline) % 2 == 0 and len(outline) >= 6
    captions = read(world / "coco2014" / "annotations" / "captions_val2014.json")
    assert {entry["image_id"] for entry in captions["annotations"]} == set(split["test"])
    assert all(entry["caption"].endswith(".") for entry in captions["annotations"])


def test_pope_splits_share_their_positives_and_tell_the_truth(world: Path):
    truth = read(world / "truth.json")
    positives = []
    for split in ("random", "popular", "adversarial"):
        lines = read_lines(world / "POPE" / "output" / "coco" / f"coco_pope_{split}.json")
        assert [line["question_id"] for line in lines] == list(range(1, len(lines) + 1))
        assert [line["label"] for line in lines] == ["yes", "no"] * (len(lines) // 2)
        for line in lines:
            key = str(int(line["image"].removesuffix(".jpg").split("_")[-1]))
            name = line["text"].removesuffix(" in the image?").split()[-1]
            present = {thing["category"] for thing in truth[key]["objects"]}
            assert (name in present) == (line["label"] == "yes")
        positives.append([line for line in lines if line["label"] == "yes"])
    assert positives[0] == positives[1] == positives[2]
    assert 2 * 2 * TEST <= 2 * len(positives[0]) <= 2 * 3 * TEST


def test_shr_and_auxiliary_captions(world: Path):
    split = read(world / "split.json")
    images = read(world / "shr" / "val_images_final.json")
    assert [entry["image_id"] for entry in images] == split["test"]
    lines = [
        *read_lines(world / "shr" / "shr_factual_part1.jsonl"),
        *read_lines(world / "shr" / "shr_factual_part2.jsonl"),
    ]
    assert [list(line) for line in lines] == [[str(k)] for k in split["train"] + split["test"]]
    annotations = read(world / "cc_sbu_align" / "filter_cap.json")["annotations"]
    truth = read(world / "truth.json")
    for entry in annotations:
        assert int(entry["image_id"]) in split["train"]
        assert (world / "cc_sbu_align" / "image" / f"{entry['image_id']}.jpg").is_file()
        said = [f"{text.strip()}." for text in entry["caption"].split(".") if text.strip()]
        assert set(said) <= set(truth[entry["image_id"]]["sentences"])


def test_vocabulary_names_every_word_of_the_truth(world: Path):
    vocabulary, truth = read(world / "vocabulary.json"), read(world / "truth.json")
    for known in truth.values():
        assert known["scene"] in vocabulary["scenes"]
        for thing in known["objects"]:
            assert thing["category"] in vocabulary["objects"]
            assert thing["colour"] in vocabulary["attributes"]["colour"]
            assert thing["place"] in vocabulary["attributes"]["place"]


def test_same_seed_same_bytes(world: Path, tmp_path: Path):
    build(tmp_path, seed=5, train_images=TRAIN, test_images=TEST)
    files = [path.relative_to(world) for path in world.rglob("*") if path.is_file()]
    assert len(files) > 100
    for name in files:
        assert (world / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_built_once(world: Path):
    before = (world / "truth.json").stat().st_mtime_ns
    build(world, seed=5, train_images=TRAIN, test_images=TEST)
    assert (world / "truth.json").stat().st_mtime_ns == before


def test_another_world_in_the_same_folder_is_refused(world: Path):
    with pytest.raises(BadInput, match="holds the mini world"):
        build(world, seed=6, train_images=TRAIN, test_images=TEST)


def test_a_world_needs_images(tmp_path: Path):
    with pytest.raises(BadInput, match="train_images=0"):
        build(tmp_path, seed=0, train_images=0, test_images=5)


@pytest.mark.parametrize("schema", hadpo_pairs.SCHEMAS)
def test_published_pairs_are_of_train_images_and_differ_in_truth_only(world: Path, schema: str):
    truth, report = read(world / "truth.json"), Report()
    images = visual_genome.images(world / "VG", report)
    pairs = hadpo_pairs.read(
        world / "hadpo" / schema, schema=schema, images=images, seed=0, report=report
    )
    assert not report.finish()
    assert {int(pair.image_id) for pair in pairs} == set(read(world / "split.json")["train"])
    descriptions = [pair for pair in pairs if pair.kind == "description"]
    assert TRAIN / 2 < len(descriptions) <= TRAIN
    for pair in descriptions:
        true = set(truth[pair.image_id]["sentences"])
        chosen, rejected = (
            [f"{text}." for text in sentences(answer)] for answer in (pair.chosen, pair.rejected)
        )
        assert set(chosen) <= true
        assert not set(rejected) <= true
        assert len(chosen) == len(rejected)
        changed = [(c, r) for c, r in zip(chosen, rejected, strict=True) if c != r]
        assert all(c.endswith(" is empty.") and r not in true for c, r in changed)
    questions = [pair for pair in pairs if pair.kind == "pope"]
    assert len(questions) == 2 * TRAIN
    for pair in questions:
        present = {thing["category"] for thing in truth[pair.image_id]["objects"]}
        name = pair.instruction.removesuffix(" in the image?").split()[-1]
        assert pair.chosen == ("Yes." if name in present else "No.")
        assert {pair.chosen, pair.rejected} == {"Yes.", "No."}
