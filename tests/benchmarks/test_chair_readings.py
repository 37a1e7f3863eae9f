"""CHAIR's two official readings: every recorded caption, photo and metric, in place of nltk's data.

`readings.jsonl.gz` has the tokens and lemmas that nltk gave; the recorded scorers did the rest.
"""

import gzip
import json
from dataclasses import replace

import pytest

from hadpo.benchmarks import _english, chair
from hadpo.benchmarks._tally import Benchmark, tallies
from hadpo.benchmarks._tally import metrics as metrics_of
from hadpo.data import Report, coco
from hadpo.data import chair as data
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer

READINGS = ("original", "lemmatizer")


def lines(path):
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.decode().splitlines()]


class Recorded:
    """What nltk gave for known texts; lemmas are asked for in the order of the tokens."""

    def __init__(self, readings):
        self.readings = readings  # lower-cased text -> tokens, and lemmas by place
        self.lemmas = iter(())

    def tokens(self, text):
        tokens, lemmas = self.readings[text]
        self.lemmas = iter([lemmas.get(str(at), token) for at, token in enumerate(tokens)])
        return tokens

    def tags(self, tokens):
        return ["NN" for _ in tokens]

    def lemma(self, word, kind="n"):
        return next(self.lemmas)


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden" / "chair"
    assert folder.is_dir()
    return folder


@pytest.fixture(scope="module")
def popes(golden):
    return lines(golden / "pope_captions_mentions.jsonl.gz")


@pytest.fixture(scope="module")
def english(golden, popes):
    """The recorded tokens and lemmas of every answer, reference and caption."""
    texts = {("answer", a["image_id"]): a["caption"] for a in lines(golden / "answers.jsonl")}
    for path in sorted((golden / "annotations").glob("captions_*.json")):
        for each in json.loads(path.read_text())["annotations"]:
            texts["reference", each["id"]] = each["caption"]
    texts |= {("pope", f"{p['model']} {p['question_id']}"): p["caption"] for p in popes}
    found = {}
    for each in lines(golden / "readings.jsonl.gz"):
        tokens = each["tokens"].split(" ") if each["tokens"] else []
        found[texts[each["kind"], each["id"]].lower()] = tokens, each["lemmas"]
    assert found
    return Recorded(found)


@pytest.fixture(scope="module")
def synonyms(shared):
    return data.synonyms(shared / "data" / "chair" / "synonyms.txt", Report())


@pytest.fixture(scope="module")
def photos(golden):
    """What is known of every photo that is answered about, in the order of the answers."""
    ids = [a["image_id"] for a in lines(golden / "answers.jsonl")]
    report = Report()
    found = coco.annotated(golden / "annotations", golden, ids, report)
    report.finish()
    return found


def named(found, place=""):
    keys = ("words", "nodes", "idxs")
    return dict(zip((f"{place}{key}" for key in keys), found[:3], strict=True))


@pytest.mark.parametrize(("reading", "prefix"), [("original", ""), ("lemmatizer", "lemmatizer_")])
def test_every_recorded_caption_of_real_models(popes, english, synonyms, reading, prefix):
    reader = chair.Reader(synonyms, english, reading)
    assert popes
    for each in popes:
        found = named(reader.read(each["caption"]), prefix)
        assert found == {key: each[key] for key in found}, each["caption"]


@pytest.mark.parametrize("reading", READINGS)
def test_every_recorded_answer_and_metric(golden, english, synonyms, photos, reading):
    expected = json.loads(gzip.decompress((golden / f"expected_{reading}.json.gz").read_bytes()))
    answers = lines(golden / "answers.jsonl")
    asked = data.questions(coco.of_list(photos, [a["image_id"] for a in answers]))
    benchmark = replace(
        Benchmark.named("chair"),
        resources=lambda words, settings: chair.Reader(words.synonyms, english, reading),
    )
    said = [answer_to(q, a["caption"]) for q, a in zip(asked, answers, strict=True)]
    words = Vocabulary(synonyms=synonyms)
    rows = tallies(benchmark, said, asked, (), photos, words)
    reader = chair.Reader(synonyms, english, reading)
    assert expected["sentences"]
    for row, answer, right in zip(rows, answers, expected["sentences"], strict=True):
        found, truth = reader.read(answer["caption"]), reader.present(photos[row.answer.image_id])
        assert answer["image_id"] == right["image_id"]
        assert sorted(truth) == right["gt"]
        assert named(found) == {key: right[key] for key in ("words", "nodes", "idxs")}
        assert found.said == right["raw_words"]
        wrong = [each for each in zip(*found[:3], strict=True) if each[1] not in truth]
        assert [[word, node] for word, node, _ in wrong] == right["hallucinated"]
        assert [place for *_, place in wrong] == right["hallucination_idxs"]
        tally, metrics = row.tally, right["metrics"]
        over, under = tally["chair_i"]
        assert (over / under if under else 0) == metrics["CHAIRi"]
        assert tally["chair_s"][0] == metrics["CHAIRs"]
        if "Recall" in metrics:
            over, under = tally["object_recall"]
            assert (over / under if under else 0) == metrics["Recall"]
    made = metrics_of(benchmark, rows, asked, samples=0, seed=1)
    values = {metric.name: metric for metric in made}
    overall = expected["overall"]
    assert values["chair_s"].value == overall["CHAIRs"]
    assert values["chair_i"].value == overall["CHAIRi"]
    if "Recall" in overall:
        assert values["object_recall"].value == overall["Recall"]
        count = values["chair_words"]
        assert 0.01 * (count.value * count.n) / count.n == pytest.approx(overall["Len"], rel=1e-15)


def answer_to(question, text):
    return Answer(
        question_id=question.question_id,
        benchmark="chair",
        split=question.split,
        model="base",
        image_id=question.image_id,
        text=text,
        tokens=5,
        finish="stop",
    )


def test_singulars_are_patterns(golden):
    known = json.loads((golden / "singularize.json").read_text())
    assert known
    assert {word: _english.singular(word) for word in known} == known


def test_what_the_original_never_finds(synonyms, english):
    """Stray blanks and a capital of the file stay, so these words name nothing."""
    assert {" motor bike", " cheesecake", "iPhone"} <= synonyms.keys()
    assert not {"motor bike", "cheesecake", "iphone"} & synonyms.keys()


class Split:
    """Words between blanks, each its own lemma."""

    def tokens(self, text):
        return text.split()

    def tags(self, tokens):
        return ["NN"] * len(tokens)

    def lemma(self, word, kind="n"):
        return word


@pytest.mark.parametrize(
    ("text", "words", "places"),
    [
        ("baby elephant", ["elephant"], [0]),
        ("a toilet seat and a seat", ["toilet"], [1]),
        ("a home plate by a train track", [], []),
        ("hot dog dog", ["hot dog", "dog"], [0, 2]),
        ("a stove top oven", ["stove", "oven"], [1, 3]),
        ("a bow tie", ["tie"], [1]),
        ("a seat a toilet a dog", ["toilet", "dog"], [2, 4]),
    ],
)
def test_double_words_and_the_toilet(synonyms, text, words, places):
    known = {**synonyms, "seat": "chair", "home plate": "x"}
    del known["home plate"]
    found = chair.Reader(known, Split(), "lemmatizer").read(text)
    assert (found.words, found.places) == (words, places)
