"""AMBER: the official files, both tasks, equality with the official scorer's records."""

import functools
import gzip
import json
import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hadpo import benchmarks
from hadpo.benchmarks import _english, amber
from hadpo.benchmarks._objects import NounReader
from hadpo.config import section_types
from hadpo.data import Report, Sources
from hadpo.data import amber as data
from hadpo.judges.oracle.vocabulary import Vocabulary, from_json
from hadpo.records import Answer, BadInput
from hadpo.tables import notes

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
OFFICIAL = SHARED / "data" / "amber"
FOLDERS = sorted({p.parent for p in (SHARED / "golden").glob("amber*/**/answers.jsonl")})
needs_golden = pytest.mark.skipif(not FOLDERS, reason=f"no {SHARED}/golden/amber")
EVALUATE = section_types()["evaluate"]
score = functools.partial(benchmarks.score, "amber")
TYPES = {
    "Descriminative Task": "all",
    "Exsitence": "existence",
    "Attribute": "attribute",
    "State": "attribute/state",
    "Number": "attribute/number",
    "Action": "attribute/action",
    "Relation": "relation",
}
FLAGS = {
    "a": "",
    "g": "generative",
    "d": "existence,attribute,relation",
    "de": "existence",
    "da": "attribute",
    "dr": "relation",
}
NAMES = {"CHAIR": "chair", "Cover": "cover", "Hal": "hal", "Cog": "cog"}
NAMES |= {name: f"official_{name.lower()}" for name in ("Accuracy", "Precision", "Recall", "F1")}


P = 99.9 / 100
F1_OF_999 = 2 * P * P / (P + P + 0.001)  # one right "No": 1 / 1.001 is 99.9 %


class Recorded:
    """nltk's recorded nouns of each text, as the three functions that read English."""

    def __init__(self, nouns):
        self._nouns = nouns

    def tokens(self, text):
        return self._nouns[text]

    def tags(self, tokens):
        return ["NN"] * len(tokens)

    def lemma(self, word, kind="n"):
        return word


def answer(question, text, model="base"):
    return Answer(
        question_id=question.question_id,
        benchmark="amber",
        split=question.split,
        model=model,
        image_id=question.image_id,
        text=text,
        tokens=3,
        finish="stop",
    )


def by_name(metrics, split="all"):
    return {m.name: m for m in metrics if m.split == split}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """AMBER's own files, unpacked, and all its questions; the photos are empty files."""
    folder = tmp_path_factory.mktemp("amber")
    for name in data.FILES:
        packed = OFFICIAL / f"{name}.gz"
        path = OFFICIAL / name
        content = gzip.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes()
        (folder / name).write_bytes(content)
    for record in json.loads((folder / "query_all.json").read_text()):
        (folder / record["image"]).touch()
    report = Report()
    asked = data.questions(folder, folder, report)
    assert report.finish() == {}
    return asked, data.words(folder)


@needs_golden
def test_the_official_files_have_what_the_paper_counts(official):
    asked, words = official
    counts = {}
    for question in asked:
        counts[question.split] = counts.get(question.split, 0) + 1
    assert counts == {
        "generative": 1004,
        "attribute/state": 4764,
        "attribute/number": 2072,
        "attribute/action": 792,
        "existence": 4924,
        "relation": 1664,
    }
    assert (len(words["relation"]), len(words["safe"])) == (340, 9)
    assert {q.label for q in asked if q.split == "existence"} == {"no"}


@needs_golden
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_every_record_and_metric_is_the_official_scorer_s(folder, official, monkeypatch):
    asked, words = official
    by_id = {q.question_id: q for q in asked}
    lines = [json.loads(text) for text in (folder / "answers.jsonl").open(encoding="utf-8")]
    expected = json.loads((folder / "expected.json").read_text())
    records = [json.loads(t) for t in (folder / "expected_generative.jsonl").open(encoding="utf-8")]
    [table] = folder.glob("similar_pairs_*.json")
    similar = json.loads(table.read_text())
    said = {line["id"]: line["response"] for line in lines}
    nouns = {said[record["id"]]: record["nouns"] for record in records}
    reader = NounReader(
        Recorded(nouns),
        words["relation"],
        words["safe"],
        lambda one, other: float(one == other or other in similar.get(one, ())),
    )
    for record in records:
        label = json.loads(by_id[f"amber-{record['id']}"].label)
        found = reader.read(said[record["id"]], label["truth"], label["hallu"])
        assert found.kept == record["kept"]
        flags = [found.invented, found.covered, found.cognitive]
        assert flags == [record["flags"], record["covered"], record["cognitive"]]
    monkeypatch.setattr(amber, "resources", lambda *_: lambda: reader)
    answers = [answer(by_id[f"amber-{key}"], text) for key, text in said.items()]
    assert answers and records
    counters = expected["counters"]
    for flag, right in expected["metrics"].items():
        some = chosen(answers, flag)
        metrics = score(some, asked, samples=0)
        for task, values in right.items():
            split = TYPES.get(task, "generative")
            found = by_name(metrics, split)
            ours = {name: round(found[NAMES[name]].value * 100, 1) for name in values}
            assert ours == values, (flag, task)
    found = by_name(score(answers, asked, samples=20))
    assert found["invented"].value == counters["chair_score"]
    assert found["official_said_no"].value == round(counters["qa_ans_no_num"])
    whole = by_name(score(answers, asked, samples=0), "attribute")["official_accuracy"].value
    right, under = (sum(counters[f"a{k}_qa_correct_{n}"] for k in "sna") for n in ("score", "num"))
    assert whole == pytest.approx(right / under, abs=1e-12)
    tasks = expected["metrics"]["a"]
    chair, f1 = tasks["Generative Task"]["CHAIR"], tasks["Descriminative Task"]["F1"]
    assert found["official_amber_score"].value * 100 == pytest.approx(
        (100 - chair + f1) / 2, abs=0.1
    )
    assert found["f1"].low < found["f1"].value < found["f1"].high


def chosen(answers, flag):
    name, _, rest = flag.partition(": ")
    splits = tuple(FLAGS[name].split(","))
    some = [a for a in answers if not FLAGS[name] or a.split.startswith(splits)]
    if rest == "only Yes":
        return [replace(each, text="Yes") for each in some]
    if rest:
        return [a for a in some if a.text in ("", "   ", ".")][:3]
    return some


# By hand, without a recording

RELATION = {"dog": ["puppy"], "cat": [], "sky": ["cloud"], "tree": [], "cloud": []}
TRUTH, HALLU = ["dog", "sky", "tree"], ["cat", "puppy"]


def reader_of(nouns, similar=()):
    pairs = {*similar, *((b, a) for a, b in similar)}
    return NounReader(
        Recorded({"text": nouns}), RELATION, ["tree"], lambda a, b: float(a == b or (a, b) in pairs)
    )


@pytest.mark.parametrize(
    ("nouns", "similar", "invented", "covered", "cognitive"),
    [
        (["dog", "house"], (), [False], [1, 0, 0], [0, 0]),  # "house" is no word of AMBER
        (["puppy"], (), [False], [1, 0, 0], [0, 0]),  # there is tried before expected
        (["tree"], (), [False], [0, 0, 0], [0, 0]),  # safe: neither invented nor covered
        (["cat"], (), [True], [0, 0, 0], [1, 0]),
        (["cat"], [("cat", "dog")], [False], [1, 0, 0], [1, 0]),  # expected, but similar to a thing
        (["cloud", "cloud"], (), [False, False], [0, 1, 0], [0, 0]),
        (["cat"], [("cat", "puppy")], [False], [1, 0, 0], [1, 0]),  # the dog's puppy comes first
        ([], (), [], [0, 0, 0], [0, 0]),
    ],
)
def test_nouns_mark_what_they_name(nouns, similar, invented, covered, cognitive):
    found = reader_of(nouns, similar).read("text", TRUTH, HALLU)
    assert (found.invented, found.covered, found.cognitive) == (invented, covered, cognitive)


def written(folder, **files):
    """AMBER's four files, small and right, but for those that are given; photos too."""
    queries = [
        {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
        {"id": 2, "image": "AMBER_1.jpg", "query": "Is there a cat in this image?"},
        {"id": 3, "image": "AMBER_2.jpg", "query": "Is the sky blue in this image?"},
    ]
    truths = [
        {"id": 1, "type": "generative", "truth": TRUTH, "hallu": HALLU},
        {"id": 2, "type": "discriminative-hallucination", "truth": "no"},
        {"id": 3, "type": "discriminative-attribute-state", "truth": "yes"},
    ]
    right = {"query_all": queries, "annotations": truths, "relation": RELATION} | files
    for name, value in right.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_text(text)
    (folder / "safe_words.txt").write_text("tree\r\nline\n")
    for number in (1, 2):
        Image.new("RGB", (2, 2)).save(folder / f"AMBER_{number}.jpg")
    return queries, truths


def asked_of(folder):
    report = Report()
    found = data.questions(folder, folder, report)
    return found, report.finish()


def test_questions_meet_their_annotations_by_id(tmp_path):
    queries, truths = written(tmp_path)
    written(tmp_path, query_all=queries[::-1], annotations=[*truths[1:], truths[0]])
    asked, counts = asked_of(tmp_path)
    assert [(q.question_id, q.split, q.image_id) for q in asked] == [
        ("amber-1", "generative", "AMBER_1"),
        ("amber-2", "existence", "AMBER_1"),
        ("amber-3", "attribute/state", "AMBER_2"),
    ]
    assert (json.loads(asked[0].label)["hallu"], asked[1].label, counts) == (HALLU, "no", {})
    assert data.words(tmp_path) == {"relation": RELATION, "safe": ["tree", "line"]}


def test_bad_files_are_named_and_counted(tmp_path):
    queries, truths = written(tmp_path)
    for name, value, message in (
        ("query_all", [queries[0], queries[0]], r"query_all.json: record 1: id 1 is there twice"),
        ("annotations", truths[:2], r"query_all.json: record 2: id 3 is not in annotations.json"),
        ("annotations", "\r\n".join(map(json.dumps, truths)), r"annotations.json: .*a list of obj"),
        ("annotations", [truths[0] | {"hallu": None}, *truths[1:]], r"record 0: type generative: "),
        (
            "annotations",
            [truths[0] | {"type": "new"}, *truths[1:]],
            r"'type': found 'new', expected",
        ),
        ("query_all", [queries[0] | {"image": "../x.jpg"}], r"does not stay inside its folder"),
        ("query_all", [queries[0] | {"image": "AMBER_9.jpg"}], r"no image file .*AMBER_9\.jpg"),
    ):
        written(tmp_path, **{name: value})
        with pytest.raises(BadInput, match=message):
            asked_of(tmp_path)
    written(tmp_path, relation={"dog": "puppy"})
    with pytest.raises(
        BadInput, match=r"relation.json: 'dog': found 'puppy'; expected AMBER's rel"
    ):
        data.words(tmp_path)
    (tmp_path / "safe_words.txt").unlink()
    written(tmp_path)
    (tmp_path / "annotations.json").write_text(json.dumps([*truths, truths[0] | {"id": 4}]))
    assert asked_of(tmp_path)[1] == {"amber: annotations without a question": 1}


def test_both_readings_of_yes_and_no_and_the_unread(tmp_path):
    written(tmp_path)
    asked, _ = asked_of(tmp_path)
    answers = [answer(asked[1], "No, there is none."), answer(asked[2], "Perhaps.")]
    found = by_name(score(answers, asked, samples=0))
    values = {n: found[n].value for n in ("right", "official_right", "readings_differ")}
    assert values == {"right": 1, "official_right": 0, "readings_differ": 1}
    assert found["accuracy"].value == 1 / 2.001
    assert (found["accuracy"].n_unreadable, found["unanswered"].value) == (1, 1)
    assert by_name(score(answers, asked, samples=0), "existence")["f1"].value == F1_OF_999


def test_what_reads_words_is_named_and_asked_for_only_if_needed(tmp_path, monkeypatch):
    written(tmp_path)
    asked, _ = asked_of(tmp_path)
    section = section_types()["data"](amber=str(tmp_path), amber_images=str(tmp_path))
    sources = Sources(data=section, resolve=Path, note=lambda p: p, report=Report())
    assert amber.questions(sources) == asked
    words = from_json(amber.vocabulary(sources))
    mini = EVALUATE(amber_words="mini", amber_vectors="")
    name = amber.readings(mini)["official_"]
    assert name == "exactly Yes or No, words by mini, similar by no vectors"
    assert (
        "similar by some_model (not installed here)"
        in amber.readings(EVALUATE(amber_vectors="some_model"))[""]
    )
    said = [answer(asked[0], "the dog with some cat")]
    found = by_name(score(said, asked, vocabulary=words, settings=mini, samples=0), "generative")
    assert (found["kept"].value, found["invented"].value) == (2, 1)
    assert found["amber_score"].value is None
    with pytest.raises(BadInput, match=r"need its words: run prepare again, with data\.amber"):
        score(said, asked, vocabulary=Vocabulary(), settings=mini, samples=0)
    monkeypatch.setitem(sys.modules, "spacy", None)
    _english.spacy_model.cache_clear()
    with pytest.raises(BadInput, match=r"not installed; install the extra: pip install 'hadpo\[sp"):
        score(said, asked, vocabulary=words, settings=EVALUATE(amber_words="mini"), samples=0)
    fake = types.SimpleNamespace(load=_no_model)
    monkeypatch.setitem(sys.modules, "spacy", fake)
    with pytest.raises(BadInput, match="spaCy has no model 'en_core_web_lg'; get it with: python"):
        _english.spacy_model("en_core_web_lg")


def _no_model(name):
    raise OSError(f"[E050] Can't find model {name!r}.")


def test_tables_name_the_model_of_vectors():
    settings = {"benchmark_names": "amber,pope", "amber_beams": 1, "amber_max_new_tokens": 9}
    settings |= {"amber_vectors": "en_core_web_md", "amber_words": "nltk"}
    [note] = notes._evaluation(settings)
    assert "AMBER greedy, at most 9 new tokens, amber_vectors en_core_web_md, amber_words" in note


def test_a_file_of_answers_is_scored(tmp_path):
    written(tmp_path)
    rows = [{"id": 2, "response": "No"}, {"id": 3, "response": "No, grey."}]
    (tmp_path / "said.json").write_text(json.dumps(rows))
    section = section_types()["data"](amber=str(tmp_path), amber_images=str(tmp_path))
    found = benchmarks.score_file(
        "amber", tmp_path / "said.json", data=section, settings=EVALUATE(), resolve=Path
    )
    values = {m.name: m.value for m in found.metrics if m.split == "all"}
    assert (values["accuracy"], values["official_said_no"], values["said_no"]) == (1 / 2.001, 1, 2)
