"""HallusionBench: groups, marks in both readings, equality with the official scorer."""

import functools
import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from hadpo import benchmarks
from hadpo.benchmarks import hallusion
from hadpo.config import section_types
from hadpo.data import Report
from hadpo.data import hallusion as data
from hadpo.judges import JudgeSettings, oracle, prompt_of, rule_all
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
FILE = SHARED / "data" / "hallusionbench" / "HallusionBench.json.gz"
FOLDERS = sorted({p.parent for p in (SHARED / "golden").glob("hallusion*/**/answers.jsonl.gz")})
needs_golden = pytest.mark.skipif(not FOLDERS, reason=f"no {SHARED}/golden/hallusionbench")
EVALUATE = section_types()["evaluate"]
CORRECT, SAME = hallusion.RUBRICS
score = functools.partial(benchmarks.score, "hallusion")
# The official prompts: tianyi-lab/HallusionBench utils.py at 744007c (BSD-3).
OFFICIAL = {
    "hallusion": (
        "Imagine you are an intelligent teacher. Thoroughly read the question, reference answer "
        "and the prediction answer to ensure a clear understanding of the information provided. "
        "Assess the correctness of the predictions. If the prediction answer does not conflict "
        "with the reference answer, please generate “correct”. If the prediction answer conflict "
        "with the reference answer, please generate “incorrect”. If the prediction answer is "
        'unclear about the answer, please generate "unclear". \n\n Question:{question}\n'
        "Reference answer: {facts}\nPrediction answer:{claims}\nOutput:"
    ),
    "hallusion_same": (
        "Imagine you are an intelligent teacher. Thoroughly read the two responses to two "
        "different questions. Assess the consistency of the information provided within those "
        "two responses. You do not know the specific questions, but you can asssess the "
        "consistency among the two responses by checking for logical conflicts if both responses "
        "are correct. If response1 does not conflict with response2, please generate “same”. "
        'Otherwise, generate "different". \n\n response1:{claims}\nresponse2: {facts}\nOutput:'
    ),
}


def answer(question, text, model="base"):
    return Answer(
        question_id=question.question_id,
        benchmark="hallusion",
        split=question.split,
        model=model,
        image_id=question.image_id,
        text=text,
        tokens=3,
        finish="stop",
    )


def pictures(folder, records):
    for each in records:
        if each["filename"]:
            path = folder / each["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.is_file() or Image.new("RGB", (2, 2)).save(path, format="PNG")


def by_name(metrics, split="all"):
    return {m.name: m for m in metrics if m.split == split}


def percent(metric):
    return round(metric.value * 100, 4)


@needs_golden
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_every_recorded_reply_and_metric_is_the_official_scorer_s(folder, tmp_path):
    records = json.loads(gzip.decompress(FILE.read_bytes()))
    pictures(tmp_path, records)
    (tmp_path / "q.json").write_text(json.dumps(records))
    asked = data.questions(tmp_path / "q.json", tmp_path, Report())
    by_key = {q.question_id.rpartition("-")[2]: q for q in asked}
    lines = gzip.decompress((folder / "answers.jsonl.gz").read_bytes()).decode().splitlines()
    rows = {row["key"]: row for row in map(json.loads, lines)}
    expected = read(folder / "expected_per_item.json.gz")
    prompts = read(folder / "prompt_sha256.json.gz")
    assert by_key.keys() == rows.keys() == expected.keys() and rows
    for name, text in OFFICIAL.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    template = {r.name: prompt_of(r, is_json=False, folder=tmp_path) for r in hallusion.RUBRICS}
    answers = {key: answer(by_key[key], row["model_prediction"]) for key, row in rows.items()}
    verdicts, same_marks = [], {}
    by_id = {q.question_id: q for q in asked}
    cases = hallusion.cases(answers.values(), by_id, {}, EVALUATE())
    for case in cases:
        row = rows[case.case_id.rpartition("-")[2]]
        reply = row["same_reply" if case.rubric == "hallusion_same" else "correctness_reply"]
        rubric = SAME if case.rubric == "hallusion_same" else CORRECT
        verdicts += rubric.read(reply, case)
    for key, row in rows.items():
        place = data.place_of(by_key[key].question_id)
        first = "_".join((*place.figure.split("_")[:-1], "0", place.number))
        details = by_key[key].label.partition(": ")[2]
        own = hallusion.alone(answers[key], "hallusion", (details,), question=by_key[key].text)
        twin = hallusion.alone(answers[key], "hallusion_same", (answers[first].text,))
        sent = [template[c.rubric].render(c) for c in (own, twin)]
        assert [hashlib.sha256(text.encode()).hexdigest() for text in sent] == prompts[key]
        same_marks[key] = SAME.read(row["same_reply"], twin)[0].scores["official"]
    known = {v.case_id: v for v in verdicts if v.kind == "hallusion"}
    for key, (label, right, same) in expected.items():
        verdict = known[by_key[key].question_id]
        assert (verdict.scores["official"], same_marks[key]) == (int(label), int(same))
        own = benchmarks.Known(question=by_key[key], verdicts=(verdict,))
        assert hallusion.tally(answers[key], own)["official_a_acc"] == (right, 1)
    metrics = score(list(answers.values()), asked, verdicts, samples=10)
    check_metrics(metrics, read(folder / "expected.json"))
    apart = by_name(metrics)["readings_differ"].value
    replies = [(v.scores["official"], v.label) for v in verdicts]
    labels = ("incorrect", "correct", "cannot judge")
    assert apart == sum(label != labels[int(mark)] for mark, label in replies) > 0


def read(path):
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def check_metrics(metrics, right):
    every = {split: by_name(metrics, split) for split in ("VD", "VS", "all")}
    found = every["all"]
    names = {"qAcc": "q_acc", "fAcc": "f_acc", "easy aAcc": "easy_acc", "hard aAcc": "hard_acc"}
    for theirs, ours in (names | {"aAcc": "a_acc"}).items():
        assert percent(found[f"official_{ours}"]) == right["leaderboard"][theirs]
    tables = {name: {row[0]: row[1:] for row in rows} for name, rows in right["tables"].items()}
    stats = right["stats"]
    for name, split in (("VD", "VD"), ("VS", "VS"), ("Overall", "all")):
        own = {n.removeprefix("official_"): m for n, m in every[split].items() if "official_" in n}
        assert [percent(own["a_acc"])] == tables["per question"][name]
        share = round(own["f_acc"].value * 100, 4), round(own["figure_score"].value, 4)
        assert share == (tables["per figure"][name][0], tables["per figure"][name][2])
        pair = [percent(own[n]) for n in ("easy_acc", "hard_acc", "q_acc")]
        assert pair == tables["per question pair"][name]
        figures = stats[f"fig_{split.lower()}"]
        assert own["figure_score"].value == figures["score"]
        assert (own["f_acc"].value, own["f_acc"].n) == (
            figures["correct"] / figures["total"],
            figures["total"],
        )
        assert own["figures_wrong"].value == figures["wrong"] / figures["total"]
        groups = stats["all_data" if split == "all" else f"all_{split.lower()}"]
        assert (own["q_acc"].value, own["q_acc"].n) == (
            groups["correct"] / groups["total"],
            groups["total"],
        )
        counters = [groups[f"{kind}_cg"] for kind in ("LH", "VI", "Mix")]
        kinds = ("language_hallucination", "visual_illusion", "mixed_error")
        assert [own[kind].value for kind in kinds] == [n / sum(counters) for n in counters]
    assert found["official_yes_bias"].value == stats["stats"]["diff"]
    assert found["official_no_among_wrong"].value == stats["stats"]["fp"]


def record(figure="0", **more):
    return {
        "category": "VD",
        "subcategory": "figure",
        "visual_input": "1" if figure == "0" else "2",
        "set_id": "3",
        "figure_id": figure,
        "sample_note": "x",
        "question_id": "0",
        "question": "Is it red?",
        "gt_answer_details": "It is red: all of it.",
        "gt_answer": "1",
        "filename": f"./VD/figure/3_{figure}.png",
    } | more


def asked_of(folder, records, *, text=None):
    pictures(folder, records)
    (folder / "q.json").write_text(json.dumps(records) if text is None else text)
    report = Report()
    found = data.questions(folder / "q.json", folder, report)
    report.finish()
    return found


@pytest.mark.parametrize(
    ("reply", "official", "label"),
    [
        ("Correct.", 1, "correct"),
        ('"incorrect"', 0, "incorrect"),
        ("It is not correct.", 1, "incorrect"),
        ("uncorrected", 1, "unparsed"),
        ("unclear", 2, "cannot judge"),
        ("wrong", 2, "incorrect"),
        ("Correct or incorrect? Hard to say.", 0, "unparsed"),
        ("", 2, "unparsed"),
    ],
)
def test_a_mark_is_read_as_officially_and_tolerantly(reply, official, label, tmp_path):
    [question] = asked_of(tmp_path, [record()])
    case = hallusion.alone(answer(question, "Yes."), "hallusion", ("x", "yes"))
    [verdict] = CORRECT.read(reply, case)
    assert (verdict.scores["official"], verdict.label, verdict.raw) == (official, label, reply)


@pytest.mark.parametrize(
    ("reply", "official", "label"),
    [
        ("Same", 1, "correct"),
        ("They are not the same.", 1, "incorrect"),
        ("different", 0, "incorrect"),
        ("sameness", 1, "unparsed"),
        ("unsure", 0, "unparsed"),
    ],
)
def test_agreement_is_read_as_officially_and_tolerantly(reply, official, label, tmp_path):
    [question] = asked_of(tmp_path, [record()])
    case = hallusion.alone(answer(question, "Yes."), "hallusion_same", ("No.",))
    [verdict] = SAME.read(reply, case)
    assert (verdict.scores["official"], verdict.label) == (official, label)


def test_ours_without_a_language_model_and_what_is_unread(tmp_path):
    vs = {"category": "VS", "subcategory": "map", "gt_answer": "0"}
    none = record(**vs, visual_input="0", filename=None)
    map_ = record("1", **vs, visual_input="1", filename="./VS/map/3_1.png")
    [seen, edited, blind, shown] = asked = asked_of(tmp_path, [record(), record("1"), none, map_])
    assert [q.image for q in asked] == [
        str(tmp_path / "VD/figure/3_0.png"),
        str(tmp_path / "VD/figure/3_1.png"),
        "",
        str(tmp_path / "VS/map/3_1.png"),
    ]
    said = {seen: "Yes, red.", edited: "No.", blind: "I cannot see it.", shown: "Yes"}
    answers = [answer(q, text) for q, text in said.items()]
    by_id = {q.question_id: q for q in asked}
    cases = hallusion.cases(answers, by_id, {}, EVALUATE())
    judge = oracle.make(vocabulary=Vocabulary(), settings=JudgeSettings(rubrics=hallusion.RUBRICS))
    verdicts = rule_all(judge, cases)
    marks = [(v.kind, v.label) for v in verdicts]
    assert marks == [
        ("hallusion", "correct"),
        ("hallusion", "incorrect"),
        ("hallusion_same", "incorrect"),
        ("hallusion", "cannot judge"),
        ("hallusion", "incorrect"),
        ("hallusion_same", "incorrect"),
    ]
    found = by_name(score(answers, asked, verdicts, samples=0))
    values = {n: (found[n].value, found[n].n) for n in ("a_acc", "q_acc", "f_acc", "easy_acc")}
    assert values == {
        "a_acc": (0.5, 4),
        "q_acc": (0.0, 2),
        "f_acc": (1 / 3, 3),
        "easy_acc": (0.5, 2),
    }
    assert found["visual_illusion"].value == 1.0
    verdicts[0] = CORRECT.read("who knows", cases[0])[0]
    lost = by_name(score(answers, asked, verdicts, samples=0))
    assert (lost["a_acc"].value, lost["a_acc"].n, lost["a_acc"].n_unreadable) == (1 / 3, 3, 1)
    assert (lost["f_acc"].n, lost["official_f_acc"].n, lost["official_a_acc"].n) == (2, 3, 4)
    assert lost["readings_differ"].value == 1
    with pytest.raises(BadInput, match="no verdict on hallusion-1-VD_figure_3_0_0; judge again"):
        score(answers, asked, verdicts[1:])


def test_a_judge_that_sees_the_picture_is_named(tmp_path):
    [question] = asked_of(tmp_path, [record()])
    for sees, images in (("texts", ()), ("picture", (Path(question.image),))):
        settings = EVALUATE(hallusion_judge_sees=sees)
        by_id = {question.question_id: question}
        [case] = hallusion.cases([answer(question, "Yes.")], by_id, {}, settings)
        assert (CORRECT.images(case), SAME.images(case)) == (images, ())
        assert hallusion.readings(settings)["official_"] == f"official, judge sees {sees}"


def test_bad_files_are_named_and_counted(tmp_path):
    with pytest.raises(BadInput, match=r"record 1: key VD_figure_3_0_0 is there twice"):
        asked_of(tmp_path, [record(), record()])
    with pytest.raises(BadInput, match=r"record 0: visual_input 2, but no filename"):
        asked_of(tmp_path, [record("1", filename=None)])
    with pytest.raises(BadInput, match=r"record 0: path '\.\./\.\./x.png' does not stay inside"):
        data_only = record(filename="../../x.png")
        (tmp_path / "q.json").write_text(json.dumps([data_only]))
        report = Report()
        data.questions(tmp_path / "q.json", tmp_path, report)
        report.finish()
    lines = "\r\n".join(json.dumps(record(figure)) for figure in ("1", "0"))
    (tmp_path / "hallusion_bench").mkdir(exist_ok=True)
    pictures(tmp_path / "hallusion_bench", [record(), record("1")])
    ids = [q.question_id for q in asked_of(tmp_path, [], text=lines)]
    assert ids == ["hallusion-2-VD_figure_3_1_0", "hallusion-1-VD_figure_3_0_0"]
    (tmp_path / "hallusion_bench/VD/figure/3_1.png").unlink()
    with pytest.raises(BadInput, match=r"3_1\.png"):
        asked_of(tmp_path, [], text=lines)
    with pytest.raises(BadInput, match="'pope-1' is no id of a question of HallusionBench"):
        data.place_of("pope-1")


def test_a_prompt_of_ones_own_must_show_both_texts(tmp_path):
    (tmp_path / "hallusion.txt").write_text("Mark {claims}.")
    [question] = asked_of(tmp_path, [record()])
    case = hallusion.alone(answer(question, "Yes."), "hallusion", ("x", "yes"))
    with pytest.raises(BadInput, match=r"hallusion\.txt: no slot \{(claims|facts)\}"):
        prompt_of(CORRECT, is_json=False, folder=tmp_path).render(case)


def scored_file(folder, rows):
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = section_types()["data"](hallusion=str(folder / "q.json"))
    return benchmarks.score_file(
        "hallusion", folder / "said.jsonl", data=section, settings=EVALUATE(), resolve=Path
    )


@needs_golden
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_a_file_of_answers_and_replies_scores_alike(folder, tmp_path):
    (tmp_path / "q.json").write_bytes(gzip.decompress(FILE.read_bytes()))
    lines = gzip.decompress((folder / "answers.jsonl.gz").read_bytes()).decode().splitlines()
    found = scored_file(tmp_path, map(json.loads, lines))
    check_metrics(found.metrics, read(folder / "expected.json"))


def test_answers_in_the_official_file_meet_their_questions(tmp_path):
    records = [record("1"), record()]
    asked_of(tmp_path, records)
    said = {"model_prediction": "Yes.", "same_reply": "same", "correctness_reply": "correct"}
    texts = {"1": "First.", "0": "Second."}
    rows = [each | said | {"model_prediction": texts[each["figure_id"]]} for each in records[::-1]]
    found = scored_file(tmp_path, rows)
    assert {m.name: m.value for m in found.metrics if m.split == "all"}["q_acc"] == 1.0
    assert {row.answer.question_id: row.answer.text for row in found.rows} == {
        "hallusion-2-VD_figure_3_1_0": "First.",
        "hallusion-1-VD_figure_3_0_0": "Second.",
    }
    lost = [each | said | {"correctness_reply": None} for each in records]
    with pytest.raises(BadInput, match="an unknown form of answers"):
        scored_file(tmp_path, lost)
