"""Broken files end in one clear message: file, record, field, what was found and expected."""

import json

import pytest
from PIL import Image

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
from hadpo.records import BadInput, Evidence


def vg_image(key, **other):
    url = f"https://example.org/VG_100K/{key}.jpg"
    return {"image_id": key, "url": url, "width": 8, "height": 8} | other


IMAGES = {"7": Evidence(image_id="7", image="", width=8, height=8)}
DESC = {"image_id": 7, "chosen": ["A cup."], "rejected": ["A dog."]}
LRV = {"image_id": "7", "question": "What is there?", "answer": "A cup.", "task": "negative"}
INSTANCES = {
    "images": [{"id": 7, "file_name": "7.jpg", "width": 8, "height": 8}],
    "annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]}],
    "categories": [{"id": 1, "name": "cup"}],
}
HIC_HEAD = "image_id,caption,funny_score"
QUESTION = {"image_id": 7, "question": "Is there a cup in the image?", "chosen": "Yes."}


@pytest.fixture
def folder(tmp_path):
    """All official layouts in one folder, small and right."""
    return layouts(tmp_path)


def layouts(folder):
    for name in ("VG_100K", "val2014", "image", "annotations"):
        (folder / name).mkdir()
        Image.new("RGB", (8, 8)).save(folder / name / "7.jpg")
    write(folder / "image_data.json", [vg_image(7)])
    region = {"image_id": 7, "x": 1, "y": 1, "width": 2, "height": 2, "phrase": "a cup"}
    write(folder / "region_descriptions.json", [{"id": 7, "regions": [region]}])
    write(folder / "vg_annotation.json", {"7": [{"caption": "a cup", "bbox": [1, 1, 2, 2]}]})
    write(folder / "desc_data.json", [DESC])
    write(folder / "pope_data.json", [QUESTION | {"reject": "No."}])
    write(folder / "val_images_final.json", [{"image_id": 7}])
    write(folder / "shr_factual_part1.jsonl", {"7": ["A cup."]})
    write(folder / "shr_factual_part2.jsonl", {"7": ["Two cups."]})
    write(folder / "objects.json", {"image": "7.jpg", "objects": ["cup"]})
    write(folder / "filter_cap.json", {"annotations": [{"image_id": 7, "caption": "A cup."}]})
    write(folder / "filter_cap1.json", [LRV])
    write(folder / "evaluation_set.json", [{"image_id": "7", "question": "What is there?"}])
    write(folder / "annotations" / "instances_val2014.json", INSTANCES)
    caption = {"image_id": 7, "id": 1, "caption": "A cup."}
    write(folder / "annotations" / "captions_val2014.json", {"annotations": [caption]})
    (folder / "oxford_hic_data.csv").write_text(f'{HIC_HEAD}\n7,A cup walks.,"1,234"\n')
    (folder / "oxford_hic_image_info.csv").write_text("image_id,image_url\n7,https://x.org/7\n")
    (folder / "synonyms.txt").write_text("cup, mug\n")
    question = {"question_id": 1, "image": "7.jpg", "text": "Is there a cup?", "label": "yes"}
    for split in pope.SPLITS:
        write(pope.path_of(folder, split), question)
    return folder


def write(path, value):
    path.write_text(value if path.suffix == ".csv" else json.dumps(value))


def read_pairs(folder, report):
    images = {"7": Evidence(image_id="7", image=str(folder / "image/7.jpg"), width=8, height=8)}
    return hadpo_pairs.read(folder, schema="minigpt4", images=images, seed=1, report=report)


def read_lrv(folder, report):
    return list(lrv.read(folder / "filter_cap1.json", folder / "image", report))


def read_instances(folder, report):
    path = folder / "annotations" / "instances_val2014.json"
    return coco.instances(path, folder / "val2014", report)


READERS = {
    "image_data.json": visual_genome.read,
    "region_descriptions.json": visual_genome.read,
    "desc_data.json": read_pairs,
    "pope_data.json": read_pairs,
    "val_images_final.json": shr.image_ids,
    "shr_factual_part1.jsonl": shr.facts,
    "objects.json": coco.read,
    "filter_cap.json": cc_sbu_align.read,
    "coco_pope_popular.json": lambda folder, report: pope.read(folder, folder, report),
    "vg_annotation.json": lambda f, report: visual_genome.read_annotation(
        f / "vg_annotation.json", report
    ),
    "filter_cap1.json": read_lrv,
    "evaluation_set.json": lambda f, report: gavie.questions(
        f / "evaluation_set.json", IMAGES, report
    ),
    "annotations/instances_val2014.json": read_instances,
    "annotations/captions_val2014.json": lambda f, report: coco.captions(
        f / "annotations" / "captions_val2014.json", report
    ),
    "oxford_hic_data.csv": lambda f, report: list(hic.read(f / "oxford_hic_data.csv", report)),
    "oxford_hic_image_info.csv": lambda f, report: addresses(
        f / "oxford_hic_image_info.csv", report
    ),
}
every_file = pytest.mark.parametrize("name", sorted(READERS))
WHOLE_FILES = {
    "empty": (" \n", "the file is empty"),
    "html": ("<!DOCTYPE html><html>404</html>", "HTML page"),
    "utf16": ("cup".encode("utf-16"), "not UTF-8"),
}


@every_file
def test_the_right_files_are_read(folder, name):
    report = Report()
    assert READERS[name](folder, report)
    assert "broken" not in str(report.finish())


@every_file
def test_a_byte_order_mark_does_no_harm(folder, name):
    before = READERS[name](folder, Report())
    path = folder / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert READERS[name](folder, Report()) == before


@every_file
@pytest.mark.parametrize("fault", sorted(WHOLE_FILES))
def test_a_file_that_cannot_be_read_is_named(folder, name, fault):
    content, message = WHOLE_FILES[fault]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=message) as caught:
        READERS[name](folder, Report("skip"))
    assert name in str(caught.value)
    assert "expected" in str(caught.value) or "has a" in str(caught.value)


@every_file
def test_an_absent_file_is_named(folder, name):
    if name in ("region_descriptions.json", "objects.json"):  # not needed everywhere
        (folder / name).unlink()
        (folder / "annotations" / "instances_val2014.json").unlink()
        report = Report()
        READERS[name](folder, report)
        assert any(f"no {name}" in key for key in report.finish())
        return
    (folder / name).unlink()
    with pytest.raises(BadInput, match=f"{name}: no such file"):
        READERS[name](folder, Report())


@every_file
def test_a_cut_off_file_is_named(folder, name):
    path = folder / name
    path.write_text(path.read_text()[:-8])
    report = Report()
    if name == "oxford_hic_image_info.csv":
        path.write_text('image_id,image_url\n7,"https://x.o')
    says = "not JSON|not CSV|expected a"
    with pytest.raises(BadInput, match=rf"{name}.*({says})"):
        READERS[name](folder, report)
        report.finish()


@every_file
def test_a_wrong_top_level_is_named(folder, name):
    write(folder / name, "3\n" if name.endswith("csv") else 3)
    report = Report()
    with pytest.raises(BadInput, match=rf"{name}.*(top level is|expected an object|no column)"):
        READERS[name](folder, report)
        report.finish()


RECORDS = {  # file -> broken value of the whole file, and what the message must say
    "image_data.json": ([vg_image(7), vg_image(8, width="8")], "record 1: field 'width'.*'8'"),
    "region_descriptions.json": ([{"id": 7}], "record 0: no field 'regions'"),
    "desc_data.json": ([DESC, DESC | {"chosen": []}], "record 1: field 'chosen'"),
    "pope_data.json": ([QUESTION | {"rejected": "No."}], "record 0: no field 'reject'"),
    "val_images_final.json": ([{"image_id": 7}, {"id": 7}], "record 1: no field 'image_id'"),
    "shr_factual_part1.jsonl": (
        {"7": "A cup."},
        "1: field '7': expected a list, found str",
    ),
    "objects.json": ({"image": "../7.jpg", "objects": []}, "does not stay inside"),
    "filter_cap.json": ({"annotations": [{"image_id": "../7", "caption": ""}]}, "stay inside"),
    "coco_pope_popular.json": (
        {"question_id": 1, "image": "7.jpg", "text": "?", "label": "maybe"},
        "expected one of 'yes' or 'no', found 'maybe'",
    ),
    "vg_annotation.json": (
        {"7": [{"caption": "a", "bbox": [1, 2]}]},
        "'7': field '.0..bbox'",
    ),
    "filter_cap1.json": ([LRV, LRV | {"answer": 3}], "record 1: field 'answer': expected str"),
    "evaluation_set.json": ([{"image_id": 7.5, "question": "?"}], "record 0: field 'image_id'"),
    "annotations/instances_val2014.json": (
        INSTANCES | {"annotations": [{"image_id": 7, "category_id": 9, "bbox": [1, 1, 2, 2]}]},
        "annotations 0: field 'category_id': 9 is not among",
    ),
    "annotations/captions_val2014.json": (
        {"annotations": [{"image_id": 7, "caption": ["A cup."]}]},
        "annotations 0: field 'caption': expected str, found list",
    ),
    "oxford_hic_data.csv": (f"{HIC_HEAD}\n7,A cup.,NaN\n", ":2: field 'funny_score'.*'NaN'"),
    "oxford_hic_image_info.csv": (
        "image_id,image_url\n../7,https://x.org/7\n",
        ":2: image_id '../7' is no file name",
    ),
}


@every_file
def test_a_broken_record_is_named_or_skipped_and_counted(folder, name):
    value, message = RECORDS[name]
    write(folder / name, value)
    report = Report("error")
    READERS[name](folder, report)
    with pytest.raises(BadInput, match=message) as caught:
        report.finish()
    assert name in str(caught.value)
    lenient = Report("skip")
    READERS[name](folder, lenient)
    assert sum(n for key, n in lenient.finish().items() if "broken" in key) == 1


@pytest.mark.parametrize("name", ["desc_data.json", "filter_cap.json", "evaluation_set.json"])
def test_a_key_that_stands_twice_is_named(folder, name):
    path = folder / name
    path.write_text(path.read_text().replace('"image_id": ', '"image_id": 1, "image_id": ', 1))
    with pytest.raises(BadInput, match=rf"{name}: .*key 'image_id' stands twice"):
        READERS[name](folder, Report())


def test_all_problems_of_a_record_are_named_at_once(folder):
    write(folder / "image_data.json", [vg_image("x", width="8", url=None)])
    READERS["image_data.json"](folder, report := Report())
    with pytest.raises(BadInput, match=r"'image_id': .*; field 'url': .*; field 'width': .* '8'"):
        report.finish()


def test_pope_questions_in_a_list_are_read_like_lines(folder):
    path = pope.path_of(folder, "random")
    path.write_text(f"[{path.read_text()}]")
    [question] = [q for q in pope.read(folder, folder, Report()) if q.split == "random"]
    assert question.label == "yes"
    path.write_text("[")
    with pytest.raises(BadInput, match=r"random\.json: not JSON \(it is cut off\)"):
        pope.read(folder, folder, Report())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, r"random.json:2: field 'label'"),
        ({}, r"random.json:2: no field 'label'"),
        ({"label": ""}, r"random.json:2: field 'label': expected one of 'yes' or 'no', found ''"),
        ({"label": "no", "question_id": 1}, r"random.json:2: question_id 1 is there twice"),
    ],
)
def test_questions_without_labels_and_double_ids_are_named(folder, change, message):
    first = {"question_id": 1, "image": "7.jpg", "text": "Is there a cup?", "label": "no"}
    second = {"question_id": 2, "image": "7.jpg", "text": "Is there a dog?"} | change
    lines = [json.dumps(line) for line in (first, second)]
    pope.path_of(folder, "random").write_text("\n".join(lines))
    report = Report()
    found = [q for q in pope.read(folder, folder, report) if q.split == "random"]
    assert [(q.question_id, q.label) for q in found] == [("pope-random-1", "no")]
    with pytest.raises(BadInput, match=message):
        report.finish()


def test_images_that_are_named_twice_are_counted(folder):
    write(folder / "val_images_final.json", [{"image_id": 7}, {"image_id": 8}, {"image_id": "7"}])
    objects = [{"image": "7.jpg", "objects": [name]} for name in ("cup", "dog")]
    (folder / "objects.json").write_text("\n".join(map(json.dumps, objects)))
    report = Report()
    assert shr.image_ids(folder, report) == ["7", "8"]
    assert coco.read(folder, report)["7"].objects == ("dog",)
    assert report.finish() == {
        "coco: photos named again, the last counts": 1,
        "shr: images named again": 1,
    }


def test_all_missing_images_are_listed_at_once(folder):
    lines = [
        {"question_id": i, "image": f"{i}.jpg", "text": "Is there a cup?", "label": "no"}
        for i in (1, 2, 3, 7)
    ]
    path = pope.path_of(folder, "random")
    path.write_text("\n".join(json.dumps(line) for line in lines))
    report = Report()
    found = pope.read(folder, folder, report)
    assert [q.image_id for q in found if q.split == "random"] == ["7"]
    with pytest.raises(BadInput) as caught:
        report.finish()
    for number in (1, 2, 3):
        assert f"coco_pope_random.json:{number}: no image file" in str(caught.value)


def test_long_lists_of_problems_are_cut_and_counted(folder):
    write(folder / "val_images_final.json", [{}] * 30)
    report = Report()
    assert shr.image_ids(folder, report) == []
    with pytest.raises(BadInput, match="and 10 more"):
        report.finish()


def test_unknown_schema_names_the_nearest(folder):
    with pytest.raises(BadInput, match="did you mean 'minigpt4'"):
        hadpo_pairs.read(folder, schema="minigpt", images=IMAGES, seed=1, report=Report())
    with pytest.raises(BadInput, match=r"did you mean 'llava-v1\.5'"):
        hadpo_pairs.write([], folder, schema="llava-1.5")


def test_a_pair_of_an_unknown_image_is_broken(folder):
    write(folder / "pope_data.json", [QUESTION | {"reject": "No.", "image_id": 9}])
    report = Report()
    assert len(read_pairs(folder, report)) == 1
    with pytest.raises(BadInput, match=r"pope_data.json: record 0: image 9 is not in image_data"):
        report.finish()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("###Human: <Img><ImageHere></Img> Hello.", "prompt marker"),
        ("It ends.</s>", "prompt marker '</s>'"),
        ("[INST] Hello. [/INST]", "prompt marker"),
        ("word " * 4000, "4000 words"),
        (" \n", "is empty"),
    ],
)
@pytest.mark.parametrize("name", ["filter_cap1.json", "filter_cap.json", "desc_data.json"])
def test_texts_that_no_prompt_can_hold_are_broken(folder, name, text, says):
    values = {
        "filter_cap1.json": [LRV, LRV | {"answer": text}],
        "filter_cap.json": {"annotations": [{"image_id": 7, "caption": text}]},
        "desc_data.json": [DESC, DESC | {"rejected": ["A dog.", text]}],
    }
    write(folder / name, values[name])
    report = Report()
    READERS[name](folder, report)
    with pytest.raises(BadInput, match=says):
        report.finish()


def test_half_a_character_is_broken_or_a_question_mark(folder):
    write(folder / "desc_data.json", [DESC | {"rejected": ["half \ud83d"]}])
    read_pairs(folder, report := Report())
    with pytest.raises(BadInput, match="half a character"):
        report.finish()
    write(folder / "filter_cap1.json", [LRV | {"answer": "half \ud83d"}])
    assert read_lrv(folder, Report())[0].answer == "half ?"  # so the streaming parser reads it


def test_emoji_and_right_to_left_text_are_texts(folder):
    text = "\U0001f600 \u202e\u0645\u0631\u062d\u0628\u0627 ### 2 < 3"
    write(folder / "filter_cap1.json", [LRV | {"answer": text}])
    [record] = read_lrv(folder, report := Report())
    assert record.answer == text and report.finish() == {}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("7", 7),
        ("1,234", 1234),
        ("-1,234,567.5", -1234567.5),
        ("1.234,5", None),
        ("12,34", None),
        ("1,2345", None),
        (",234", None),
        ("1_000", None),
        ("\u0661\u0662", None),
    ],
)
def test_a_comma_in_a_score_parts_thousands(text, score, tmp_path):
    path = tmp_path / "oxford_hic_data.csv"
    path.write_text(f'image_id,caption,funny_score\n7,A cup walks.,"{text}"\n')
    report = Report("skip")
    assert [row.score for row in hic.read(path, report)] == ([] if score is None else [score])
    assert report.problems == (
        [f"{path}:2: field 'funny_score': expected a number, found {text!r}"]
        if score is None
        else []
    )
