"""Object HalBench: phrases, captions and replies, equality with the official scorer's records."""

import functools
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hadpo import benchmarks
from hadpo.benchmarks import objhal
from hadpo.benchmarks._objects import PhraseReader, named
from hadpo.config import section_types
from hadpo.data import Report, Sources, chair, coco
from hadpo.data import objhal as data
from hadpo.judges import JudgeSettings, oracle, prompt_of, rule_all
from hadpo.judges.oracle.vocabulary import Vocabulary, from_json
from hadpo.records import Answer, BadInput, Evidence, Question

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
OFFICIAL, CHAIR = SHARED / "data" / "objhal", SHARED / "golden" / "chair"
FOLDERS = sorted({p.parent for p in (SHARED / "golden").glob("objhal*/**/answers.jsonl")})
needs_golden = pytest.mark.skipif(not FOLDERS, reason=f"no {SHARED}/golden/objhal")
EVALUATE = section_types()["evaluate"]
score = functools.partial(benchmarks.score, "objhal")


class Recorded:
    """nltk's recorded tokens; as lemmas of nouns, those of words that are no verb or adjective."""

    def __init__(self, readings):
        self._tokens, self._lemmas = {}, {}
        for reading in readings:
            tokens = reading["tokens"].split(" ")
            self._tokens["".join(tokens)] = tokens
            self._lemmas |= {
                tokens[int(at)]: lemma
                for at, lemma in reading["lemmas"].items()
                if not tokens[int(at)].endswith(("ing", "ed", "er"))
            }

    def tokens(self, text):
        return self._tokens["".join(text.replace('"', "``").split())]

    def tags(self, tokens):
        return ["NN"] * len(tokens)

    def lemma(self, word, kind="n"):
        return self._lemmas.get(word, word)


def read(path):
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")


def question(key, text="Describe it."):
    name = f"objhal-{key}"
    return Question(
        question_id=name, benchmark="objhal", split="all", image_id=name, image="", text=text
    )


def answer(key, text, model="base"):
    name = f"objhal-{key}"
    return Answer(
        question_id=name,
        benchmark="objhal",
        split="all",
        model=model,
        image_id=name,
        text=text,
        tokens=3,
        finish="stop",
    )


@needs_golden
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_every_record_and_metric_is_the_official_scorer_s(folder, monkeypatch, tmp_path):
    rows = [json.loads(line) for line in read(folder / "answers.jsonl").splitlines()]
    records = [json.loads(line) for line in read(folder / "expected_per_item.jsonl").splitlines()]
    expected = json.loads(read(folder / "expected.json"))
    spacy = json.loads(read(folder / "spacy_reading.json.gz"))
    readings = map(json.loads, read(CHAIR / "readings.jsonl.gz").splitlines())
    reader = PhraseReader(
        chair.synonyms(OFFICIAL / "synonyms_refine.txt", Report()),
        Recorded(readings),
        lambda phrase: [(lemma, tag) for _, lemma, tag in spacy[phrase]],
    )
    ids = {row["image_id"] for row in rows}
    photos = coco.annotated(CHAIR / "annotations", tmp_path, ids, Report())
    keys = (f"objhal-{number}" for number in ids)
    known = {k: replace(e, image_id=k) for k, e in zip(keys, photos.values(), strict=True)}
    assert len(rows) == len(records) == len(known) > 0
    answers = [answer(row["image_id"], row["answer"]) for row in rows]
    asked = [question(row["image_id"], row["question"]) for row in rows]
    by_id = {q.question_id: q for q in asked}
    cases = {c.case_id: c for c in objhal.cases(answers, by_id, known, EVALUATE())}
    assert len(cases) == expected["prompts_sent"]
    verdicts = []
    for row, right in zip(rows, records, strict=True):
        key = f"objhal-{row['image_id']}"
        assert row["image_id"] == right["image_id"]
        assert sorted(reader.present(known[key])) == right["gt"]
        phrases = objhal.tolerant_list(row["extraction_reply"]) if key in cases else []
        assert objhal.official_list(row["extraction_reply"]) is not None
        assert reader.objects(phrases or []) == right["objs"]
        said = named(right["objs"], reader.synonyms)
        assert [[word, node] for _, word, node in said] == right["generated"]
        wrong = [at for at, _, node in said if node not in right["gt"]]
        assert wrong == right["hallucination_idxs"]
        if key in cases:
            verdicts += objhal.RUBRICS[0].read(row["extraction_reply"], cases[key])
    monkeypatch.setattr(objhal, "resources", lambda *_: reader)
    found = {m.name: m for m in score(answers, asked, verdicts, known, samples=20)}
    overall = expected["overall_metrics"]
    assert found["response_hall"].value == overall["CHAIRs_refine"]
    assert found["response_hall"].n == overall["coco_sentence_num"]
    assert found["mention_hall"].value == overall["CHAIRi"]
    assert found["chair_s"].value == overall["CHAIRs"]
    assert (found["object_recall"].value, found["object_recall"].n) == (
        overall["obj_rec"],
        overall["gt_word_count"],
    )
    assert found["words_per_answer"].value == overall["avg_word_len"]
    assert found["with_objects"].value == overall["coco_sentence_num"] / overall["sentence_num"]
    assert found["readings_differ"].value == 0


SYNONYMS = {"dog": "dog", "puppy": "dog", "toilet": "toilet", "seat": "chair", "hot dog": "hot dog"}


class Plain:
    """English of this test: blanks part words, an s is a plural."""

    def tokens(self, text):
        return text.split()

    def tags(self, tokens):
        return [
            "NNS" if token.endswith("s") else "NN" if len(token) > 1 else "DT" for token in tokens
        ]

    def lemma(self, word, kind="n"):
        return word.removesuffix("s")


def parse(text):
    english = Plain()
    tokens = english.tokens(text)
    return [(english.lemma(t), tag) for t, tag in zip(tokens, english.tags(tokens), strict=True)]


READER = PhraseReader(SYNONYMS, Plain(), parse)


@pytest.mark.parametrize(
    ("phrases", "objects", "nodes"),
    [
        (["dogs", "dog"], ["dog"], ["dog"]),
        (["hot dogs"], ["hot dog"], ["hot dog"]),
        (["baby dog"], ["dog"], ["dog"]),
        (["tennis player"], ["tenni player"], []),
        (["toilet seat"], ["toilet"], ["toilet"]),
        (["toilet", "seat"], ["toilet", "seat"], ["toilet"]),
        (["seat"], ["seat"], ["chair"]),
        (["puppy", "dog"], ["puppy", "dog"], ["dog", "dog"]),  # two words of one object are two
        ([], [], []),
    ],
)
def test_phrases_are_read_as_objects(phrases, objects, nodes):
    assert READER.objects(phrases) == objects
    assert [node for _, _, node in named(objects, SYNONYMS)] == nodes


@pytest.mark.parametrize(
    ("reply", "official", "tolerant"),
    [
        ('["dog", "cat"]', ["dog", "cat"], ["dog", "cat"]),
        ("[]", [], []),
        ('Here are the objects:\n["dog"]', ["dog"], ["dog"]),
        ('```json\n["dog"]\n```', None, ["dog"]),
        ('Objects: ["dog"] and that is all', None, ["dog"]),
        ("It shows a dog.", None, None),
        ('["dog"] or ["cat"]', None, None),
        ('{"objects": 3}', None, None),
        ("[1, 2]", None, None),
        ("", None, None),
    ],
)
def test_a_reply_is_read_as_officially_and_tolerantly(reply, official, tolerant):
    assert (objhal.official_list(reply), objhal.tolerant_list(reply)) == (official, tolerant)
    [case] = objhal.cases(
        [answer(1, "A dog and a cat.")], {"objhal-1": question(1)}, {}, EVALUATE()
    )
    [verdict] = objhal.RUBRICS[0].read(reply, case)
    assert (verdict.label, verdict.raw) == ("unparsed" if tolerant is None else "scored", reply)


def test_short_answers_ask_nobody_and_lost_replies_are_counted(monkeypatch):
    monkeypatch.setattr(objhal, "resources", lambda *_: READER)
    photo = {"image": "", "width": 1, "height": 1, "objects": ("dog",), "facts": ("a seat",)}
    known = {f"objhal-{n}": Evidence(image_id=f"objhal-{n}", **photo) for n in (1, 2, 3)}
    texts = {1: "Assistant: A dog.", 2: "A puppy on a toilet", 3: "Two seats and a dog"}
    answers, asked = [answer(n, t) for n, t in texts.items()], [question(n) for n in texts]
    cases = objhal.cases(answers, {q.question_id: q for q in asked}, known, EVALUATE())
    assert [c.case_id for c in cases] == ["objhal-2", "objhal-3"]
    judge = oracle.make(
        vocabulary=from_json({"objects": ["puppy", "toilet", "dog"]}),
        settings=JudgeSettings(rubrics=objhal.RUBRICS),
    )
    verdicts = rule_all(judge, cases)
    found = {m.name: m for m in score(answers, asked, verdicts, known, samples=0)}
    values = {n: (m.value, m.n) for n, m in found.items()}
    assert values["response_hall"] == (0.5, 2)
    assert values["mention_hall"] == (1 / 3, 3)
    assert values["chair_s"] == (1 / 3, 3)
    assert values["object_recall"] == (2 / 6, 6)
    lost = objhal.RUBRICS[0].read("A puppy, I think.", cases[0])
    found = {m.name: m for m in score(answers, asked, [*lost, verdicts[1]], known, samples=0)}
    assert (found["chair_s"].n, found["chair_s"].n_unreadable) == (2, 1)
    with pytest.raises(BadInput, match="no verdict on objhal-2; judge again"):
        score(answers, asked, verdicts[1:], known)
    with pytest.raises(BadInput, match="no evidence of image objhal-1"):
        score(answers, asked, verdicts, {})


def test_prompts_hold_question_and_answer_and_the_official_one_is_byte_exact(tmp_path):
    asked = question(1, "What is it?")
    text = "Assistant: A dog {and}\na cat. "
    [case] = objhal.cases([answer(1, text)], {asked.question_id: asked}, {}, EVALUATE())
    (tmp_path / "objhal.txt").write_text("Q {question}\nA {answer}\nend")
    theirs = prompt_of(objhal.RUBRICS[0], is_json=True, folder=tmp_path)
    assert theirs.render(case) == "Q What is it?\nA A dog {and}\na cat.\nend"
    assert "A dog {and}\na cat." in prompt_of(objhal.RUBRICS[0], is_json=False).render(case)
    (tmp_path / "objhal.txt").write_text("List it.")
    with pytest.raises(BadInput, match=r"objhal.txt: no slot \{claims/answer\}"):
        prompt_of(objhal.RUBRICS[0], is_json=False, folder=tmp_path).render(case)


def written(folder, rows, *, photos=(1, 2)):
    for part in data.PARTS:
        (folder / part).mkdir(exist_ok=True)
        images = [
            {"id": n, "file_name": f"COCO_{part}_{n:012d}.jpg", "width": 2, "height": 2}
            for n in photos
            if (n % 2 == 0) == (part == "val2014")
        ]
        boxes = [{"image_id": i["id"], "category_id": 1, "bbox": [0, 0, 1, 1]} for i in images]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
        (folder / f"instances_{part}.json").write_text(json.dumps(content))
        texts = [{"image_id": i["id"], "caption": "a seat"} for i in images]
        (folder / f"captions_{part}.json").write_text(json.dumps({"annotations": texts}))
        for image in images:
            Image.new("RGB", (2, 2)).save(folder / part / image["file_name"])
    (folder / "q.jsonl").write_text("\r\n".join(json.dumps(row) for row in rows))
    (folder / "words.txt").write_text("dog, puppy\nchair, seat\n")
    return folder / "q.jsonl"


def section_of(folder):
    """The data of what `written` wrote."""
    return section_types()["data"](
        objhal=str(folder / "q.jsonl"),
        objhal_synonyms=str(folder / "words.txt"),
        objhal_annotations=str(folder),
        coco=str(folder),
    )


def test_files_are_read_and_bad_ones_named(tmp_path):
    rows = [{"image_id": n, "question": "What is it?", "image": "aGk="} for n in (2, 1)]
    written(tmp_path, rows)
    section = section_of(tmp_path)
    sources = Sources(data=section, resolve=Path, note=lambda p: p, report=Report())
    asked = objhal.questions(sources)
    assert [Path(q.image).name for q in asked] == [
        "COCO_val2014_000000000002.jpg",
        "COCO_train2014_000000000001.jpg",
    ]
    known = objhal.evidence(sources)
    assert {k: (e.objects, e.facts) for k, e in known.items()} == {
        "objhal-1": (("dog",), ("a seat",)),
        "objhal-2": (("dog",), ("a seat",)),
    }
    words = objhal.vocabulary(sources)["lexicons"]["objhal"]
    assert words == {"dog": "dog", "puppy": "dog", "chair": "chair", "seat": "chair"}
    assert sources.report.finish() == {}
    for some, message in (
        ([*rows, rows[0]], r"q.jsonl:3: image_id 2 is there twice"),
        ([rows[0], {"image_id": 1}], r"q.jsonl:2: no field 'question'"),
        ([rows[0] | {"image_id": 7}], r"no image file .*COCO_val2014_000000000007\.jpg"),
    ):
        report = Report()
        data.questions(written(tmp_path, some), tmp_path, report)
        with pytest.raises(BadInput, match=message):
            report.finish()
    written(tmp_path, rows, photos=(2,))
    with pytest.raises(BadInput, match=r"nothing of 1 photos of the list: \[1\]"):
        objhal.evidence(sources)
    (tmp_path / "captions_train2014.json").unlink()
    with pytest.raises(BadInput, match=r"captions_train2014\.json: no such file; .* all four"):
        objhal.evidence(sources)
    with pytest.raises(BadInput, match=r"needs its synonyms: run prepare again, with data\.objhal"):
        objhal.resources(Vocabulary(), EVALUATE())


def test_a_file_of_answers_and_lists_is_scored(tmp_path):
    rows = [{"image_id": n, "question": "What is it?"} for n in (1, 2)]
    written(tmp_path, rows)
    section = section_of(tmp_path)
    said = [
        {"image_id": 2, "answer": "A dog on a seat, it seems.", "extraction_reply": '["dog"]'},
        {"image_id": 1, "answer": "A dog with a chair.", "extraction_reply": "No list."},
    ]
    path = tmp_path / "said.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in said))
    settings = EVALUATE(objhal_words="mini", objhal_parser="")
    score_file = functools.partial(
        benchmarks.score_file, "objhal", path, data=section, settings=settings, resolve=Path
    )
    found = score_file()
    values = {m.name: (m.value, m.n, m.n_unreadable) for m in found.metrics}
    assert found.form == "Object HalBench's, with the list of objects"
    assert values["mention_hall"] == (0.0, 1, 1)
    assert values["object_recall"] == (0.5, 2, 1)  # the dog, of dog and seat; the other is unread
    for text, message in (
        (json.dumps({"image_id": 1, "answer": "A dog."}), r"said\.jsonl:1: an unknown form of"),
        (json.dumps(said[0] | {"image_id": 9}), "1 answers to questions that are not asked"),
        ('{"image_id": NaN, "answer": "A dog.", "extraction_reply": "[]"}', "expected a finite"),
        ("\n".join(map(json.dumps, [said[0]] * 2)), r"said\.jsonl:2: objhal-2 is answered twice"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=message):
            score_file()
