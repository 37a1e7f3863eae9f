"""What stands twice, under two forms of one name, nowhere, or unseen in a file of others."""

import json
import unicodedata

import pytest

from hadpo.data import Report, asked, check_text, coco, gqa, pope
from hadpo.data.fetch.images import addresses
from hadpo.records import BadInput, Evidence
from tests.data.test_bad_input import (
    DESC,
    INSTANCES,
    LRV,
    QUESTION,
    READERS,
    layouts,
    vg_image,
    write,
)

IMAGES, ANNOTATIONS = INSTANCES["images"], INSTANCES["annotations"]
COCO = "annotations/instances_val2014.json"
PHOTO = {"id": 8, "file_name": "8.jpg", "width": 8, "height": 8}
CAFE = unicodedata.normalize("NFD", "caf\u00e9")


def instances(**parts):
    return INSTANCES | parts


def categories(*names):
    return instances(categories=[{"id": n, "name": name} for n, name in enumerate(names, 1)])


def box(*sides):
    return instances(annotations=[ANNOTATIONS[0] | {"bbox": list(sides)}])


ATTACKS = {  # what is fed -> file, its content, and what the message must say
    "an image twice by its id": (
        COCO,
        instances(images=[*IMAGES, PHOTO | {"id": 7}]),
        "images 1: id 7 is there twice",
    ),
    "an image twice by its file": (
        COCO,
        instances(images=[*IMAGES, PHOTO | {"file_name": "7.jpg"}]),
        "images 1: file_name 7.jpg is there twice",
    ),
    "a category twice by its id": (
        COCO,
        instances(categories=[{"id": 1, "name": "cup"}, {"id": 1, "name": "dog"}]),
        "categories 1: id 1 is there twice",
    ),
    "a category twice by its name": (
        COCO,
        categories("cup", "cup"),
        "categories 1: name cup is there twice",
    ),
    "a category in two forms of Unicode": (
        COCO,
        categories("cup", "caf\u00e9", CAFE),
        "categories 2: name caf\u00e9 is there twice",
    ),
    "a character of no width in a category": (
        COCO,
        categories("cup", "c\u200bup"),
        r"categories 1: field 'name': a character of no width in the name 'c\\u200bup'",
    ),
    "a category without a name": (COCO, categories("cup", " "), "'name': the name is empty"),
    "an object without a name": (
        "objects.json",
        {"image": "7.jpg", "objects": ["cup", ""]},
        r"objects.json:1: field 'objects\[1\]': the name is empty",
    ),
    "an object of a character without width": (
        "objects.json",
        {"image": "7.jpg", "objects": ["\u2060"]},
        r"field 'objects\[0\]': the name is empty",
    ),
    "an object with a soft hyphen": (
        "objects.json",
        {"image": "7.jpg", "objects": ["cup\u00ad"]},
        "a character of no width",
    ),
    "a negative width": (COCO, box(1, 1, -2, 2), "'bbox': expected a place and a size inside"),
    "a negative height": (COCO, box(1, 1, 2, -2), "'bbox': expected a place and a size inside"),
    "a negative place": (COCO, box(-1, 1, 2, 2), "'bbox': expected a place and a size inside"),
    "an annotation of an image that is not listed": (
        COCO,
        instances(annotations=[*ANNOTATIONS, ANNOTATIONS[0] | {"image_id": 9}]),
        "annotations 1: field 'image_id': 9 is not among the images",
    ),
    "an image of no width": (
        COCO,
        instances(images=[IMAGES[0] | {"width": 0}]),
        "images 0: field 'width'",
    ),
    "an image of Visual Genome twice": (
        "image_data.json",
        [vg_image(7), vg_image("07")],
        "record 1: image_id 7 is there twice",
    ),
    "a pair_id twice": (
        "desc_data.json",
        [DESC | {"pair_id": "a"}, DESC | {"pair_id": "a"}],
        "record 1: pair_id a is there twice",
    ),
    "a pair_id twice to the eye": (
        "desc_data.json",
        [DESC | {"pair_id": "a"}, DESC | {"pair_id": "a\u200d"}],
        "record 1: pair_id a\u200d is there twice",
    ),
    "a pair_id that another record has without saying so": (
        "desc_data.json",
        [DESC | {"pair_id": "desc-1"}, DESC],
        "record 1: pair_id desc-1 is there twice",
    ),
    "a pair_id in both files": (
        "pope_data.json",
        [QUESTION | {"reject": "No.", "pair_id": "desc-0"}],
        "pope_data.json: record 0: pair_id desc-0 is there twice",
    ),
    "a question without a text": (
        "coco_pope_popular.json",
        {"question_id": 1, "image": "7.jpg", "text": " ", "label": "yes"},
        "field 'text': the text is empty",
    ),
    "a question without a visible text": (
        "evaluation_set.json",
        [{"image_id": 7, "question": "\u200b\ufeff"}],
        "field 'question': the text is empty",
    ),
    "a question of 6,000 words": (
        "evaluation_set.json",
        [{"image_id": 7, "question": "cup " * 6000}],
        "field 'question': 6000 words; no model reads more than 2000",
    ),
    "a NUL in an instruction": (
        "filter_cap1.json",
        [LRV | {"question": "Is it\0 red?"}],
        r"field 'question': the control character '\\x00' in 'Is it",
    ),
    "an escape in a caption": (
        "oxford_hic_data.csv",
        "image_id,caption,funny_score\n7,A \x1b[1mcup.,3\n",
        r":2: the control character '\\x1b'",
    ),
    "a column twice": (
        "oxford_hic_image_info.csv",
        "image_id,image_url,image_url\n7,https://x.org/7,https://x.org/8\n",
        ":1: column 'image_url' is there twice",
    ),
    "a column twice that nobody reads": (
        "oxford_hic_data.csv",
        "image_id,caption,funny_score,a,a\n7,A cup.,3,1,2\n",
        ":1: column 'a' is there twice",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_stands_twice_or_unseen_is_named(tmp_path, attack):
    name, content, says = ATTACKS[attack]
    write(layouts(tmp_path) / name, content)
    report = Report()
    with pytest.raises(BadInput, match=says) as caught:
        READERS[name](tmp_path, report)
        report.finish()
    assert name in str(caught.value)


def test_boxes_without_an_area_and_names_in_one_form_are_read(tmp_path):
    """COCO's files have boxes of no height; a name is composed, so that answers meet it."""
    found = layouts(tmp_path)
    content = box(1, 1, 2, 0) | {"categories": [{"id": 1, "name": CAFE}]}
    write(found / COCO, content)
    report = Report()
    assert READERS[COCO](found, report)["7"].objects == ("caf\u00e9",)
    write(found / "objects.json", {"image": "7.jpg", "objects": [CAFE]})
    assert coco.read(found, report)["7"].objects == ("caf\u00e9",)
    assert report.finish() == {}


POPE = {"question_id": 1, "image": "7.jpg", "text": "Is there a cup?", "label": "yes"}


@pytest.mark.parametrize("text", ["Is there a cup?", "is there  a cup", "Is there a c\u200bup?"])
@pytest.mark.parametrize("label", ["yes", "no"])
def test_a_question_is_yes_or_no_of_one_image(tmp_path, text, label):
    folder = layouts(tmp_path)
    again = POPE | {"question_id": 2, "text": text, "label": label}
    other = again | {"question_id": 3, "image": "8.jpg"}
    (folder / "val2014" / "8.jpg").write_bytes((folder / "val2014" / "7.jpg").read_bytes())
    path = pope.path_of(folder, "random")
    path.write_text("\n".join(map(json.dumps, (POPE, again, other))))
    report = Report()
    found = [q.question_id for q in pope.read(path, folder, report)]
    if label == "yes":
        assert found == ["pope-random-1", "pope-random-2", "pope-random-3"]
        assert report.finish() == {}
        return
    assert found == ["pope-random-1", "pope-random-3"]
    with pytest.raises(BadInput, match=r"random\.json:2: image 7 is asked .*: no, and yes before"):
        report.finish()


def test_captions_of_photos_that_the_instances_do_not_list_are_counted(tmp_path):
    folder = layouts(tmp_path) / "annotations"
    texts = [{"image_id": n, "caption": "A cup."} for n in (7, 9, 9)]
    for part in coco.PARTS:
        known = [IMAGES[0] | {"file_name": "COCO_val2014_000000000007.jpg"}]
        write(folder / f"instances_{part}.json", INSTANCES | {"images": known})
        write(folder / f"captions_{part}.json", {"annotations": texts})
    report = Report()
    found = coco.annotated(folder, tmp_path, None, report)
    assert [e.facts for e in found.values()] == [("A cup.",)]
    assert report.finish() == {"coco: captions of photos without instances": 2}


@pytest.mark.parametrize(
    ("questions", "says"),
    [
        ({"1": ("What?", "cup"), "1\u200b": ("Which?", "dog")}, "question_id 1 is there twice"),
        ({"1": (" ", "cup")}, "field 'question': the text is empty"),
        ({"1": ("What?", "")}, "field 'answer': the text is empty"),
        ({"1": ("cup " * 6000, "cup")}, "field 'question': 6000 words"),
        ({"1": ("What\0?", "cup")}, "field 'question': the control character"),
        ({"1\n": ("What?", "cup"), "1": ("Which?", "dog")}, "question_id 1 is there twice"),
    ],
)
def test_questions_of_gqa(tmp_path, questions, says):
    path = tmp_path / "gqa.json"
    write(path, {k: {"question": q, "answer": a, "imageId": 7} for k, (q, a) in questions.items()})
    report = Report()
    image = Evidence(image_id="7", image="", width=8, height=8)
    gqa.questions(path, {"7": image}, report)
    with pytest.raises(BadInput, match=says):
        report.finish()


@pytest.mark.parametrize(
    "text", ['{"1": %s, "1": %s}', '{"1": {"question": "a?", "question": "b?", "x": [%s, %s]}}']
)
def test_a_question_of_gqa_that_stands_twice_is_named(tmp_path, text):
    one = '{"question": "What?", "answer": "cup", "imageId": "7"}'
    (tmp_path / "gqa.json").write_text(text % (one, one))
    with pytest.raises(BadInput, match=r"gqa\.json: .*'(1|question)' stands twice"):
        gqa.questions(tmp_path / "gqa.json", {}, Report())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("q.csv", "image,question\n7,Is it\0 red?\n", r"q\.csv:2: .*control character '\\x00'"),
        ("q.txt", "Is it\0 red?\n", r"control character '\\x00'"),
        ("q.json", '[{"image": "7", "text": "Is \\u0000 it?"}]', "record 0: .*control character"),
        ("q.json", '[{"image": "7", "text": "Q?", "question_id": "a\\u0000"}]', "'question_id'"),
        ("q.txt", "word " * 6000, "6000 words"),
        ("q.csv", f"image,question\n7,{'word ' * 6000}\n", r"q\.csv:2: .*6000 words"),
        (
            "q.json",
            '[{"image": "7", "question": "a?", "text": "b?"}]',
            r"0: 2 questions \(a\?, b\?\)",
        ),
        ("q.csv", "image,text,instruction\n7,a,b\n", r"q\.csv:2: 2 questions \(b, a\); keep one"),
        ("q.csv", "image,question,question\u200b\n7,a,b\n", "column 'question' is there twice"),
        (
            "q.jsonl",
            '{"image": "7", "text": "Q?", "question_id": "a"}\n'
            '{"image": "7", "text": "R?", "question_id": "a\\u200b"}\n',
            r"q\.jsonl:2: question_id a is there twice",
        ),
        (
            "q.json",
            '[{"image": "7", "text": "Q?", "question_id": 2}, {"image": "7", "text": "R?"}]',
            "record 1: question_id 2 is there twice",
        ),
    ],
)
def test_a_users_own_questions(tmp_path, name, content, says):
    (layouts(tmp_path) / name).write_text(content)
    with pytest.raises(BadInput, match=says):
        asked.read(tmp_path / name, tmp_path / "image", Report())


def test_a_name_without_ending_is_of_one_image(tmp_path):
    (tmp_path / "q.json").write_text('[{"image": "a", "question": "Q?", "text": " Q? "}]')
    for ending in (".png", ".jpg", ".gif"):
        (tmp_path / f"a{ending}").touch()
        if ending == ".png":
            [found] = asked.read(tmp_path / "q.json", tmp_path, Report())
            assert (found.image_id, found.text) == ("a.png", "Q?")
    with pytest.raises(BadInput, match=r"image 'a' could be a\.jpg, a\.png, a\.gif; name it with"):
        asked.read(tmp_path / "q.json", tmp_path, Report())
    (tmp_path / "a").touch()
    assert asked.read(tmp_path / "q.json", tmp_path, Report())[0].image_id == "a"


def test_columns_without_a_name_may_be_many(tmp_path):
    table = tmp_path / "info.csv"
    table.write_text("image_id,image_url,,\n7,https://x.org/7,,\n")
    assert addresses(table, Report()) == {"7": "https://x.org/7"}


@pytest.mark.parametrize(
    "text", ["a\tb\nc\r\nd", "caf\u00e9 \u0092s", "\U0001f468\u200d\U0001f469"]
)
def test_texts_of_the_web_are_texts(text):
    assert check_text(text) == text
