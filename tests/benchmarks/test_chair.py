"""CHAIR by hand: mentions, synonyms, plurals, longest words; on the photos with our own words."""

import functools

import pytest

from hadpo import benchmarks
from hadpo.benchmarks import chair
from hadpo.data import Report, coco
from hadpo.data import chair as data
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput, Evidence

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
    ],
)
def test_mentions(words, text, expected):
    assert chair.Lexicon(words.synonyms).mentions(text) == expected


def test_metrics_by_hand(words):
    photo = data.questions({"1": IMAGE})
    said = [answer("A dog and a bus. A bus by the table. A dog."), answer("A man.", "merged")]
    found = score(said, photo, (), {"1": IMAGE}, words, samples=20)
    rows = {(m.model, m.name): m for m in found}
    assert (rows["base", "chair_i"].value, rows["base", "chair_i"].n) == (3 / 5, 5)
    assert (rows["base", "chair_s"].value, rows["base", "chair_s"].n) == (1.0, 1)
    assert (rows["base", "chair_sentence"].value, rows["base", "chair_sentence"].n) == (2 / 3, 3)
    assert rows["base", "object_recall"].value == 1 / 2  # the vase is no object of the file
    for name in ("chair_i", "chair_s", "chair_sentence", "unfinished_ratio"):
        assert (rows["merged", name].value, rows["merged", name].n) == (0, 1)
    assert rows["base", "mentions_per_answer"].value == 5
    assert rows["base", "tokens_per_answer"].value == 5
    assert rows["merged", "words_per_answer"].value == 2
    assert rows["base", "unanswered"].value == 0


def test_no_mention_is_no_value(words):
    [found] = [
        m for m in score([answer("Hm.")], [], (), {"1": IMAGE}, words) if m.name == "chair_i"
    ]
    assert (found.value, found.n, found.low) == (None, 0, None)


def test_bad_input(words, tmp_path):
    with pytest.raises(BadInput, match="chair_synonyms"):
        score([answer("A dog.")], [], (), {"1": IMAGE}, Vocabulary())
    with pytest.raises(BadInput, match="no objects are known of image 2"):
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
    assert (found["chair_i"].value, found["chair_i"].n) == (0.5, 8)
    assert (found["chair_s"].value, found["chair_sentence"].value) == (1.0, 0.5)


def test_the_longest_term_wins_and_none_overlap():
    synonyms = {
        "table": "table",
        "dining table": "dining table",
        "small dining table lamp": "lamp",
        "lamp": "lamp",
        "hot dog": "hot dog",
        "dog": "dog",
    }
    mentions = chair.Lexicon(synonyms).mentions
    assert mentions("a table and a dining table") == ["table", "dining table"]
    assert mentions("a small dining table lamp") == ["lamp"]
    assert mentions("a small dining table with a lamp") == ["dining table", "lamp"]
    assert mentions("dining dining table table lamp") == ["dining table", "table", "lamp"]
    assert mentions("a hot dog, a hot day, a dog") == ["hot dog", "dog"]
    assert mentions("dining") == [] and mentions("dining lamp") == ["lamp"]
