"""CHAIR's plain reading by hand, what it refuses, lists of photos, others' captions scored."""

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer.testing

from hadpo import benchmarks, cli, config
from hadpo.benchmarks import _english, chair
from hadpo.data import Report, coco
from hadpo.data import chair as data
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.mini.captions import TEMPLATES
from hadpo.mini.world import CATEGORIES, COLOURS, PLACES, SETTINGS
from hadpo.records import Answer, BadInput, Evidence
from hadpo.text import words as words_of

SYNONYMS = "dog, puppy\nhot dog\nperson, man, woman, glasses\ndining table, table\nbus\n\n"
IMAGE = Evidence(image_id="1", image="", width=1, height=1, objects=("puppy", "man", "vase"))
score = functools.partial(benchmarks.score, "chair")


@pytest.fixture
def words(tmp_path):
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    return Vocabulary(synonyms=data.synonyms(tmp_path / "synonyms.txt", Report()))


def answer(text, model="base", key="chair-1", image="1"):
    return Answer(
        question_id=key,
        benchmark="chair",
        split="val",
        model=model,
        image_id=image,
        text=text,
        tokens=5,
        finish="stop",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A puppy and two dogs.", ["dog", "dog"]),
        ("A hot dog, hot dogs on the Table", ["hot dog", "hot dog", "dining table"]),
        ("Three buses. A busy man!", ["bus", "person"]),
        ("glasses", ["person"]),
        ("a dining table", ["dining table"]),
        ("nothing known", []),
        ("a baby dog, adult dogs", ["dog", "dog"]),
        ("a passenger train", []),
    ],
)
def test_mentions(words, text, expected):
    assert chair.Lexicon(words.synonyms).mentions(text) == expected


def test_metrics_by_hand(words):
    photo = data.questions({"1": IMAGE})
    assert photo[0].text == "Describe this image in detail."
    said = [answer("A dog and a bus. A bus by the table. A dog."), answer("A man.", "merged")]
    found = score(said, photo, (), {"1": IMAGE}, words, samples=20)
    rows = {(m.model, m.name): m for m in found}
    assert (rows["base", "plain_i"].value, rows["base", "plain_i"].n) == (3 / 5, 5)
    assert (rows["base", "plain_s"].value, rows["base", "plain_s"].n) == (1.0, 1)
    assert (rows["base", "plain_sentence"].value, rows["base", "plain_sentence"].n) == (2 / 3, 3)
    assert rows["base", "plain_recall"].value == 1 / 2  # the vase is no object of the file
    assert not {"chair_i", "chair_s", "object_recall"} & {m.name for m in found}
    for name in ("plain_i", "plain_s", "plain_sentence", "unfinished_ratio"):
        assert (rows["merged", name].value, rows["merged", name].n) == (0, 1)
    assert rows["base", "mentions_per_answer"].value == 5
    assert rows["base", "tokens_per_answer"].value == 5
    assert rows["merged", "words_per_answer"].value == 2
    assert rows["base", "unanswered"].value == 0


def test_no_mention_is_no_value(words):
    [found] = [
        m for m in score([answer("Hm.")], [], (), {"1": IMAGE}, words) if m.name == "plain_i"
    ]
    assert (found.value, found.n, found.low) == (None, 0, None)


def test_bad_input(words, tmp_path):
    with pytest.raises(BadInput, match="chair_synonyms"):
        score([answer("A dog.")], [], (), {"1": IMAGE}, Vocabulary())
    with pytest.raises(BadInput, match="no evidence of image 2"):
        score([answer("A dog.", image="2")], [], (), {"1": IMAGE}, words)
    with pytest.raises(BadInput, match="no such file"):
        data.synonyms(tmp_path / "none.txt", Report())
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(BadInput, match="empty"):
        data.synonyms(tmp_path / "empty.txt", Report())
    (tmp_path / "two.txt").write_text("cat, pet\ndog, pet")
    report = Report()
    assert data.synonyms(tmp_path / "two.txt", report)["pet"] == "dog"
    assert list(report.counts.values()) == [1]


def test_the_photos(shared, tmp_path):
    photos = coco.read(shared / "data" / "photoset" / "coco2014", Report())
    names = sorted({name for each in photos.values() for name in each.objects})
    (tmp_path / "synonyms.txt").write_text("\n".join([*names, "zebra"]))
    words = Vocabulary(synonyms=data.synonyms(tmp_path / "synonyms.txt", Report()))
    asked = data.questions(photos)
    assert len(asked) == 4
    said = [
        answer(f"A {photos[q.image_id].objects[0]}. A zebra.", key=q.question_id, image=q.image_id)
        for q in asked
    ]
    found = {m.name: m for m in score(said, asked, (), photos, words, samples=0)}
    assert (found["plain_i"].value, found["plain_i"].n) == (0.5, 8)
    assert (found["plain_s"].value, found["plain_sentence"].value) == (1.0, 0.5)


def test_a_photo_in_which_nothing_is_known_is_scored(words):
    empty = replace(IMAGE, objects=())
    found = {m.name: m for m in score([answer("A dog.")], [], (), {"1": empty}, words, samples=0)}
    assert (found["plain_i"].value, found["plain_s"].value) == (1.0, 1.0)
    assert (found["plain_recall"].value, found["plain_recall"].n) == (None, 0)


def test_captions_name_what_is_there(words):
    said = replace(IMAGE, facts=("A bus stops.",))
    found = {m.name: m for m in score([answer("A bus.")], [], (), {"1": said}, words, samples=0)}
    assert (found["plain_i"].value, found["plain_recall"].value) == (0.0, 1 / 3)


def settings(**values):
    return replace(config.load_recipe("mini/benchmarks").evaluate, **values)


def test_official_readings_refuse_evidence_without_captions(words):
    """Evidence that a run of before has: objects alone."""
    official = settings(chair_reading="original", chair_words="mini")
    known = replace(IMAGE, objects=("dog",))
    for evidence, expected in (
        (known, "no captions; CHAIR needs COCO's instances and captions: set data.chair_annot"),
        (IMAGE, "the synonyms lack vase"),
    ):
        with pytest.raises(BadInput, match=expected):
            score([answer("A dog.")], [], (), {"1": evidence}, words, settings=official)
    known = replace(known, facts=("A dog.", "Two buses."))
    said = [answer("Dogs. A bus. Men.")]
    for reading, value in (("original", 1 / 2), ("lemmatizer", 1)):
        # Pattern's singulars: dog, bu, man. The mini world's table has no "dogs" and no "buses".
        chosen = settings(chair_reading=reading, chair_words="mini")
        rows = score(said, [], (), {"1": known}, words, settings=chosen, samples=0)
        found = {m.name: m.value for m in rows}
        assert (found["chair_i"], found["chair_words"]) == (value, 7)
        assert not {"plain_i", "plain_s", "plain_recall"} & found.keys()


def test_nltk_without_data_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HADPO_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(BadInput, match=r"nltk.*not installed.*hadpo\[benchmarks\]"):
        _english.load("nltk")


@pytest.mark.extra
def test_nltk_with_no_data_names_it(monkeypatch, tmp_path):
    nltk = pytest.importorskip("nltk", reason="the extra benchmarks is not installed")
    monkeypatch.setenv("HADPO_DATA", str(tmp_path))
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(BadInput, match=r"punkt_tab, averaged_\w+, wordnet .*hadpo fetch nltk-data"):
        _english.load("nltk")
    assert nltk.data.path == [str(tmp_path / "nltk_data")]


def test_the_mini_worlds_words_are_all_in_its_table():
    known = json.loads((Path(_english.__file__).parent / "words_mini.json").read_text())
    said = {word for name in (*CATEGORIES, *COLOURS, *PLACES, *SETTINGS) for word in name.split()}
    said |= {word for text in TEMPLATES.values() for word in words_of(text)}
    assert said - {"place", "phrase", "setting"} <= known.keys()
    table = _english.load("mini")
    assert _english.lemmas(table, "cups Cups birds shows zebra") == [
        *("cup", "Cups", "bird", "show", "zebra"),
    ]
    assert table.tokens("The center shows a red cup.") == [
        *("The", "center", "shows", "a", "red", "cup", "."),
    ]


ANNOTATED = {
    "val2014": {7: ("COCO_val2014_000000000007.jpg", ["dog"], ["A bus.", "Hm."])},
    "train2014": {1000007: ("COCO_train2014_000001000007.jpg", [], [])},
}


@pytest.fixture
def annotations(tmp_path):
    """COCO's four files of two photos whose ids end alike."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    for part, photos in ANNOTATED.items():
        images = [
            {"id": n, "file_name": name, "width": 4, "height": 3}
            for n, (name, _, _) in photos.items()
        ]
        boxes = [
            {"image_id": n, "category_id": 1, "bbox": [0, 0, 1, 1]}
            for n, (_, objects, _) in photos.items()
            for _ in objects
        ]
        texts = [
            {"image_id": n, "caption": text} for n, (_, _, said) in photos.items() for text in said
        ]
        categories = [{"id": 1, "name": "dog"}]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / f"instances_{part}.json").write_text(json.dumps(content))
        (folder / f"captions_{part}.json").write_text(json.dumps({"annotations": texts}))
    return folder


def test_objects_and_captions_come_from_train_and_val(annotations, tmp_path):
    found = coco.annotated(annotations, tmp_path, [1000007, 7], Report())
    assert [*found] == ["COCO_train2014_000001000007", "COCO_val2014_000000000007"]
    one, two = found.values()
    assert (one.objects, one.facts) == ((), ("",))
    assert (two.objects, two.facts) == (("dog",), ("A bus.", "Hm."))
    assert two.image == str(tmp_path / "val2014" / "COCO_val2014_000000000007.jpg")
    assert [*coco.annotated(annotations, tmp_path, None, Report())] == [two.image_id]
    assert [*coco.of_list(found, [7])] == [two.image_id]
    assert [*coco.of_list({"2400001": one, **found}, None)] == [two.image_id]
    with pytest.raises(BadInput, match=r"nothing of 1 photos of the list: \[8\]"):
        coco.annotated(annotations, tmp_path, [7, 8], Report())
    (annotations / "captions_train2014.json").unlink()
    with pytest.raises(BadInput, match=r"captions_train2014\.json: no such file; .*all four"):
        coco.annotated(annotations, tmp_path, [7], Report())


def test_lists_by_name_and_by_file(tmp_path, shared):
    folder = shared / "data" / "chair"
    for name, path in (
        ("opera", "chair-500_opera_image_ids.txt"),
        ("opera-instructblip", "chair-500_opera_instructblip_image_ids.txt"),
        ("less-is-more", "chair-500_less-is-more.jsonl"),
    ):
        found = data.listed(name, Path)
        assert found == data.listed(str(folder / path), Path)
        assert len(set(found)) == 500
    assert data.listed("", Path) is None
    (tmp_path / "ids.txt").write_text("COCO_val2014_000001000007.jpg\n7\n")
    assert data.listed(str(tmp_path / "ids.txt"), Path) == [1000007, 7]
    (tmp_path / "ids.txt").write_text("7\nno photo\n")
    with pytest.raises(BadInput, match=r"ids\.txt:2: no photo's id in 'no photo'"):
        data.listed(str(tmp_path / "ids.txt"), Path)
    with pytest.raises(BadInput, match="did you mean 'opera'"):
        data.listed("opora", Path)


@pytest.mark.parametrize(
    "content",
    [
        '{"image_id": 7, "caption": "A dog and a bus and a man."}',
        '{"image_id": "COCO_val2014_000000000007.jpg", "text": "A dog and a bus and a man."}',
        json.dumps(
            {
                "overall": {"Bleu_1": 0},
                "imgToEval": {"7": {"image_id": 7, "caption": "A dog and a bus and a man."}},
            }
        ),
    ],
)
def test_official_files_of_captions_are_scored(annotations, tmp_path, content):
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    (tmp_path / "said.json").write_text(content)
    (tmp_path / "ids.txt").write_text("1000007\n7\n")
    words = ["score", tmp_path / "said.json", "--benchmark", "chair", "--json"]
    words += ["--questions", tmp_path / "ids.txt", "-p", f"chair_annotations={annotations}"]
    words += ["-p", f"chair_synonyms={tmp_path / 'synonyms.txt'}", "-p", "chair_words=mini"]
    done = typer.testing.CliRunner().invoke(cli.app, [*map(str, words)])
    assert done.exit_code == 0, done.exception
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert (found["chair_i"]["value"], found["chair_i"]["n"]) == (1 / 3, 3)
    assert found["object_recall"]["value"] == 1.0
    assert (found["unanswered"]["value"], found["unanswered"]["n"]) == (1, 2)
    assert found["tokens_per_answer"]["value"] is None


def test_the_longest_term_wins_and_none_overlap():
    synonyms = {
        "table": "table",
        "dining table": "dining table",
        "small dining table lamp": "lamp",
        "lamp": "lamp",
        "hot dog": "hot dog",
        "dog": "dog",
        "dog bed": "bed",
        "hot dog bun": "bun",
    }
    mentions = chair.Lexicon(synonyms).mentions
    assert mentions("a table and a dining table") == ["table", "dining table"]
    assert mentions("a small dining table lamp") == ["lamp"]
    assert mentions("a small dining table with a lamp") == ["dining table", "lamp"]
    assert mentions("dining dining table table lamp") == ["dining table", "table", "lamp"]
    assert mentions("a hot dog, a hot day, a dog") == ["hot dog", "dog"]
    assert mentions("a dog bed, a dog") == ["bed", "dog"]  # terms that begin longer ones
    assert mentions("a hot dog bun beside two hot dogs") == ["bun", "hot dog"]
    assert mentions("dining") == [] and mentions("dining lamp") == ["lamp"]
