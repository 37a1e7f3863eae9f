"""MMHal-Bench: the official file, ratings in both readings, equality with the official scorers."""

import functools
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hadpo import benchmarks
from hadpo.benchmarks import mmhal, shr
from hadpo.config import section_types
from hadpo.data import Report, Sources
from hadpo.data import mmhal as data
from hadpo.judges import JudgeSettings, oracle, prompt_of, rule_all
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.records import Answer, BadInput, read_json

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
FILE = SHARED / "data" / "mmhal" / "mmhal-bench_answer_template.json.gz"
FOLDERS = sorted({p.parent for p in (SHARED / "golden").glob("mmhal*/**/answers.jsonl")})
needs_golden = pytest.mark.skipif(not FOLDERS, reason=f"no {SHARED}/golden/mmhal")
EVALUATE = section_types()["evaluate"]
score = functools.partial(benchmarks.score, "mmhal")


def record(key="a1", **more):
    return {
        "question_type": "attribute",
        "question_topic": "indoor",
        "image_id": key,
        "image_src": f"https://example.org/photos/{key}_o.jpg",
        "image_content": ["Cup", "Table"],
        "question": "What color is the cup?",
        "gt_answer": "The cup is red.",
        "model_answer": "",
    } | more


def written(folder, records, *, photos=True, ending=".jpg", text=None):
    """The file and its folder of photos."""
    for each in records if photos else ():
        Image.new("RGB", (4, 4)).save(folder / f"{each['image_id']}{ending}", format="PNG")
    path = folder / "questions.json"
    path.write_text(json.dumps(records) if text is None else text)
    return path


def answer(question, text, model="base"):
    return Answer(
        question_id=question.question_id,
        benchmark="mmhal",
        split=question.split,
        model=model,
        image_id=question.image_id,
        text=text,
        tokens=3,
        finish="stop",
    )


def cases_of(asked, texts, evidence, **settings):
    answers = [answer(q, text) for q, text in zip(asked, texts, strict=True)]
    by_id = {q.question_id: q for q in asked}
    return answers, mmhal.cases(answers, by_id, evidence, EVALUATE(**settings))


def by_name(metrics, split="all"):
    return {m.name: m for m in metrics if m.split == split}


@needs_golden
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_every_recorded_set_scores_as_the_official_scorers_say(folder, tmp_path):
    records = json.loads(gzip.decompress(FILE.read_bytes()))
    path = written(tmp_path, records)
    asked = data.questions(path, tmp_path, Report())
    evidence = data.evidence(path, tmp_path)
    sets: dict[int, list[dict]] = {}
    for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines():
        sets.setdefault(json.loads(line)["set"], []).append(json.loads(line))
    expected = read_json(folder / "expected.json", list, expected="sets")
    assert len(sets) == len(expected) > 0
    for rows, right in zip(sets.values(), expected, strict=True):
        rows.sort(key=lambda row: row["index"])
        answers, cases = cases_of(asked, [row["model_answer"] for row in rows], evidence)
        replies = [row["judge_reply"] for row in rows]
        verdicts = [v for r, c in zip(replies, cases, strict=True) for v in mmhal.read_rating(r, c)]
        assert [v.scores["official"] for v in verdicts] == right["scores"]
        assert [v.raw for v in verdicts] == replies
        metrics = score(answers, asked, verdicts, samples=20)
        found = by_name(metrics)
        assert found["official_score"].value == right["average"]
        assert found["official_hallucination_rate"].value == right["hallucination_rate"]
        assert found["official_informativeness"].value / 3 * 100 == right["informativeness"]
        types = [records[at]["question_type"] for at in range(len(right["by_type"]))]
        ours = [by_name(metrics, split)["official_score"].value for split in types]
        assert ours == right["by_type"]
        shown = ",".join(str(round(value, 2)) for value in ours)
        lines = [
            f"Average score: {found['official_score'].value:.2f}",
            f"Hallucination rate: {found['official_hallucination_rate'].value:.2f}",
            f"Average score for each question type: {shown}",
        ]
        assert "\n".join(lines) == right["printed_llava_rlhf"]
        read = [v.scores.get("score") for v in verdicts]
        apart = sum(a != b for a, b in zip(read, right["scores"], strict=True))
        assert found["readings_differ"].value == apart
        assert found["score"].n_unreadable == read.count(None) == 96 - found["score"].n


@pytest.mark.parametrize(
    ("reply", "official", "tolerant"),
    [
        ("Rating: 4", 4, 4),
        ("Rating:4", 0, 4),
        ("**Rating**: 4", 0, 4),
        ("**Rating: 2**", 2, 2),
        ("Rating:  4", 0, 4),
        ("The rating should be 4.", 0, 4),
        ("Rating: 10", 1, None),
        ("Rating: 4.5", 4, None),
        ("Rating: 7", 0, None),
        ("Rating: 5 ... Rating: 5", 5, 5),
        ("I would give Rating: 1 or rating: 2", 0, None),
        ("It says much that is not there.", 0, None),
        ("", 0, None),
    ],
)
def test_a_reply_is_read_as_officially_and_tolerantly(reply, official, tolerant, tmp_path):
    path = written(tmp_path, [record()])
    asked, known = data.questions(path, tmp_path, Report()), data.evidence(path, tmp_path)
    _, [case] = cases_of(asked, ["Red."], known)
    [verdict] = mmhal.RUBRICS[0].read(reply, case)
    assert (verdict.scores["official"], verdict.scores.get("score")) == (official, tolerant)
    assert verdict.label == ("unparsed" if tolerant is None else "scored")


def test_official_prompts_are_filled_byte_for_byte_and_ours_shows_the_same(tmp_path):
    path = written(tmp_path, [record(question="What {0} is it?")])
    asked, known = data.questions(path, tmp_path, Report()), data.evidence(path, tmp_path)
    _, [case] = cases_of(asked, [" A {cup}.\nTwo lines. "], known)
    (tmp_path / "mmhal.txt").write_text("C {}\nQ {}\nA {}\nM {}\nend")
    theirs = prompt_of(mmhal.RUBRICS[0], is_json=True, folder=tmp_path)
    text = "C Cup, Table\nQ What {0} is it?\nA The cup is red.\nM  A {cup}.\nTwo lines. \nend"
    assert (theirs.render(case), theirs.schema) == (text, None)
    ours = prompt_of(mmhal.RUBRICS[0], is_json=True).render(case)
    assert all(part in ours for part in ("Cup, Table", "What {0}", "The cup is red.", "A {cup}."))
    (tmp_path / "mmhal.txt").write_text("Rate it.")
    with pytest.raises(BadInput, match=r"mmhal.txt: no slot .claims.; .* or the 4 \{\} of the"):
        prompt_of(mmhal.RUBRICS[0], is_json=False, folder=tmp_path).render(case)


def test_a_judge_that_sees_the_photo_is_named(tmp_path):
    path = written(tmp_path, [record()])
    asked, known = data.questions(path, tmp_path, Report()), data.evidence(path, tmp_path)
    _, [blind] = cases_of(asked, ["Red."], known)
    _, [sees] = cases_of(asked, ["Red."], known, mmhal_judge_sees="photo")
    assert mmhal.RUBRICS[0].images(blind) == ()
    assert mmhal.RUBRICS[0].images(sees) == (tmp_path / "a1.jpg",)
    names = [mmhal.readings(EVALUATE(mmhal_judge_sees=what))[""] for what in ("labels", "photo")]
    assert names == ["tolerant, judge sees labels", "tolerant, judge sees photo"]


def test_annotations_alone_tell_who_says_what_the_person_said(tmp_path):
    path = written(tmp_path, [record(image_content=["cup"], gt_answer="red")])
    asked, known = data.questions(path, tmp_path, Report()), data.evidence(path, tmp_path)
    words = from_json({"objects": ["cup", "dog"]})
    judge = oracle.make(vocabulary=words, settings=JudgeSettings(rubrics=mmhal.RUBRICS))
    rated = []
    for text in ("The cup is red.", "It is blue.", "A red cup, and a dog."):
        answers, cases = cases_of(asked, [text], known)
        verdicts = rule_all(judge, cases)
        rated.append(verdicts[0].scores["score"])
        assert by_name(score(answers, asked, verdicts, samples=0))["score"].value == rated[-1]
    assert rated == [4, 1, 1]


def test_bad_files_are_named_and_counted(tmp_path):
    twice = written(tmp_path, [record(), record("b2"), record()])
    with pytest.raises(BadInput, match=r"record 2: image_id a1 is there twice"):
        checked(twice, tmp_path)
    crlf = "\r\n".join(json.dumps(record(key)) for key in ("b2", "a1"))
    path = written(tmp_path, [], text=crlf)
    assert [q.question_id for q in checked(path, tmp_path)] == ["mmhal-b2", "mmhal-a1"]
    lost = record("b2")
    del lost["gt_answer"]
    with pytest.raises(BadInput, match=r"record 1: no field 'gt_answer'"):
        checked(written(tmp_path, [record(), lost]), tmp_path)
    with pytest.raises(BadInput, match=r"gone\.jpg"):
        checked(written(tmp_path, [record(), record("gone")], photos=False), tmp_path)
    report = Report("skip")
    assert len(data.questions(tmp_path / "questions.json", tmp_path, report)) == 1
    assert report.finish() == {"mmhal: broken, left out": 1}
    named = record("named", image_src="https://example.org/x/77_o.png")
    (tmp_path / "b2.jpg").rename(tmp_path / "77_o.png")
    [found] = checked(written(tmp_path, [named], photos=False), tmp_path)
    assert found.image == str(tmp_path / "77_o.png")
    with pytest.raises(BadInput, match=r"nothing\.json: no such file; expected MMHal-Bench's list"):
        checked(tmp_path / "nothing.json", tmp_path)


def checked(path, images):
    report = Report()
    found = data.questions(path, images, report)
    report.finish()
    return found


def test_an_answer_without_evidence_or_verdict_is_refused(tmp_path):
    path = written(tmp_path, [record()])
    asked = data.questions(path, tmp_path, Report())
    with pytest.raises(BadInput, match="no evidence of image mmhal-a1"):
        cases_of(asked, ["Red."], {})
    with pytest.raises(BadInput, match="no verdict on mmhal-a1"):
        score([answer(asked[0], "Red.")], asked, [])


def test_no_path_no_questions(tmp_path):
    section = section_types()["data"]
    none = Sources(data=section(), resolve=Path, note=lambda p: p, report=Report())
    assert not none.has(mmhal)
    path = written(tmp_path, [record()])
    own = section(mmhal=str(path), mmhal_images=str(tmp_path))
    some = Sources(data=own, resolve=Path, note=lambda p: p, report=Report())
    assert some.has(mmhal)
    assert [q.label for q in mmhal.questions(some)] == ["The cup is red."]
    assert mmhal.evidence(some)["mmhal-a1"].facts == ("Cup", "Table")


def test_facts_of_another_benchmark_stay_what_they_are(tmp_path):
    (tmp_path / "shr_factual_part1.jsonl").write_text('{"7": ["A cup."]}\n')
    (tmp_path / "shr_factual_part2.jsonl").write_text('{"8": ["A dog."]}\n')
    images = data.evidence(written(tmp_path, [record()]), tmp_path)
    images |= {"7": replace(images["mmhal-a1"], image_id="7", facts=())}
    own = section_types()["data"](shr=str(tmp_path))
    known = Sources(data=own, resolve=Path, note=lambda p: p, report=Report(), images=images)
    after = images | shr.evidence(known)
    assert {key: e.facts for key, e in after.items()} == {
        "mmhal-a1": ("Cup", "Table"),
        "7": ("A cup.",),
    }


def test_a_file_of_answers_and_replies_is_scored(tmp_path):
    written(tmp_path, [record(), record("b2")])
    rows = [
        {"image_id": key, "model_answer": "Red.", "judge_reply": reply}
        for key, reply in (("b2", "Rating: 6"), ("a1", "**Rating**: 2"))
    ]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = section_types()["data"](mmhal=str(tmp_path / "questions.json"))
    found = benchmarks.score_file(
        "mmhal", tmp_path / "said.jsonl", data=section, settings=EVALUATE(), resolve=Path
    )
    values = {m.name: m.value for m in found.metrics if m.split == "all"}
    assert (values["score"], values["official_score"], values["readings_differ"]) == (4, 3, 1)
