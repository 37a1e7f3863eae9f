"""`hadpo score`: answers in every form that others write, against one another, and refusals."""

import csv
import json

import pytest
import typer.testing

from hadpo.cli import app
from hadpo.records import BadInput

TEXTS = [f"Is there a {name} in the image?" for name in ("dog", "bus", "cat", "tree", "cup", "car")]
LABELS = ["yes", "yes", "no", "no", "yes", "no"]
PHOTOS = [f"COCO_val2014_{number:012d}.jpg" for number in (1, 1, 1, 2, 2, 2)]
SAID = ["Yes, there is.", "No.", "No, there is no cat.", "no", "yes", "Yes"]
RIGHT = {"accuracy": 4 / 6, "precision": 2 / 3, "recall": 2 / 3}
OTHER = ["Yes", "Yes.", "No", "no", "yes", "no"]


def lines(path, records, end="\n"):
    path.write_bytes("".join(json.dumps(record) + end for record in records).encode())
    return path


@pytest.fixture
def questions(tmp_path):
    records = [
        {"question_id": n, "image": image, "text": text, "label": label}
        for n, (image, text, label) in enumerate(zip(PHOTOS, TEXTS, LABELS, strict=True), start=1)
    ]
    return lines(tmp_path / "coco_pope_random.json", records, end="\r\n")


def run(*words):
    return typer.testing.CliRunner().invoke(app, ["score", *map(str, words)])


def scores(*words):
    done = run(*words, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return {(row["split"], row["name"]): row for row in json.loads(done.stdout)}


def problem(*words):
    done = run(*words)
    assert isinstance(done.exception, BadInput), (done.output, done.exception)
    return str(done.exception)


def official(said=SAID):
    pairs = zip(TEXTS, said, strict=True)
    return [{"question": text, "answer": answer} for text, answer in pairs]


def hadpo_form(said=SAID):
    """As HA-DPO's pope_eval.py writes it, in any order, with the end mark that LLaVA's leaves."""
    records = [r | {"question_id": n} for n, r in enumerate(official(said), start=1)]
    return [r | {"answer": r["answer"].rstrip(".") + ".</s>"} for r in reversed(records)]


def llava_form(said=SAID):
    return [
        {"question_id": n, "prompt": f"{text}\nAnswer the question using a single word or phrase."}
        | {"text": answer, "answer_id": "x", "model_id": "m", "metadata": {}}
        for n, (text, answer) in enumerate(zip(TEXTS, said, strict=True), start=1)
    ]


def lmms_form(said=SAID, split="random"):
    return [
        {
            "doc_id": n,
            "doc": {"question_id": str(n + 1), "question": text, "answer": label, "category": split}
            | {"image_source": photo.removesuffix(".jpg")},
            "target": label,
            "resps": [[answer]],
            "filtered_resps": [answer],
            "pope_accuracy": {"question_id": str(n + 1), "score": 0.0, "prediction": "x"},
        }
        for n, (text, answer, label, photo) in enumerate(
            zip(TEXTS, said, LABELS, PHOTOS, strict=True)
        )
    ]


def vlm_rows(said=SAID, category="adversarial,popular,random"):
    head = ["index", "category", "question", "answer", "prediction"]
    rows = [
        [n, category, text, label.capitalize(), answer]
        for n, (text, answer, label) in enumerate(zip(TEXTS, said, LABELS, strict=True))
    ]
    return [head, *rows]


@pytest.mark.parametrize("make", [official, hadpo_form, llava_form, lmms_form])
@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_form_of_lines(tmp_path, questions, make, as_list, end):
    path = lines(tmp_path / "answers.jsonl", make(), end)
    if as_list:
        path.write_text(json.dumps(make()))
    found = scores(path, "--benchmark", "pope", "--questions", questions)
    for name, value in RIGHT.items():
        row = found["random", name]
        assert row["value"] == pytest.approx(value), name
        assert row["low"] <= row["value"] <= row["high"]
    assert found["random", "unanswered"]["value"] == 0


def test_lmms_eval_tells_what_is_right_itself(tmp_path):
    records = [*lmms_form(split="random"), *lmms_form(OTHER, split="popular")]
    found = scores(lines(tmp_path / "samples.jsonl", records), "--benchmark", "pope")
    assert found["random", "accuracy"]["value"] == pytest.approx(4 / 6)
    assert found["popular", "accuracy"]["value"] == 1
    # its intervals are over the two photos: of one 2 of 3 answers are right, as of the other
    assert found["random", "accuracy"]["low"] == pytest.approx(4 / 6)
    old = tmp_path / "pope.json"
    old.write_text(json.dumps({"args": {}, "logs": records}))
    assert scores(old, "--benchmark", "pope") == {
        key: row | {"model": str(old)} for key, row in found.items()
    }


def test_lmms_eval_of_today_has_no_doc(tmp_path, questions):
    records = [{k: v for k, v in r.items() if k not in ("doc", "resps")} for r in lmms_form()]
    records = [r | {"input": text} for r, text in zip(records, TEXTS, strict=True)]
    path = lines(tmp_path / "samples.jsonl", records)
    for found in (
        scores(path, "--benchmark", "pope", "--questions", questions),
        {("random", name): row for (_, name), row in scores(path, "--benchmark", "pope").items()},
    ):
        assert found["random", "recall"]["value"] == pytest.approx(RIGHT["recall"])


def test_vlmevalkits_tables(tmp_path):
    path = tmp_path / "model_POPE.tsv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(vlm_rows())
    found = scores(path, "--benchmark", "pope")
    assert {split for split, _ in found} == {"random", "popular", "adversarial"}
    assert found["popular", "accuracy"]["value"] == pytest.approx(4 / 6)
    assert found["popular", "accuracy"]["n"] == 6


@pytest.mark.extra
def test_vlmevalkits_excel(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="the extra benchmarks is not installed")
    book = openpyxl.Workbook()
    for row in vlm_rows(["", *SAID[1:]], category="random"):
        book.active.append(row)
    path = tmp_path / "model_POPE.xlsx"
    book.save(path)
    found = scores(path, "--benchmark", "pope")
    # an empty cell is an empty answer: a yes to POPE's script, unreadable to the strict reading
    assert found["random", "accuracy"]["value"] == pytest.approx(4 / 6)
    assert found["random", "strict_accuracy"]["n_unreadable"] == 1
    path.write_text("no table")
    assert "no table of Excel" in problem(path, "--benchmark", "pope")


def test_two_files_are_paired_by_photo(tmp_path, questions):
    first = lines(tmp_path / "first.jsonl", official())
    other = llava_form([*OTHER[:3], "yes", *OTHER[4:]])
    second = lines(tmp_path / "second.jsonl", other[3::-1])  # the other photo first
    words = (first, "--benchmark", "pope", "--questions", questions, "--against", second)
    row = scores(*words)["random", "accuracy"]
    assert row["value"] == pytest.approx(4 / 6)  # of all of the first file
    assert row["against"] == 3 / 4  # on the four questions that both answer, as the first there
    assert row["difference"] == 0
    # photo 1: 2 of 3 right against 3; photo 2: 1 of 1 against 0
    assert row["difference_low"] == pytest.approx(-1 / 3)
    assert row["difference_high"] == pytest.approx(1)
    shown = run(*words).stdout
    assert "on 4 questions that both answer" in shown
    assert "against 0.750, difference +0.000  [-0.333, 1.000]" in shown
    assert "4 of 6 answered" in shown


def test_repope_scores_answers_to_pope(tmp_path, questions):
    kept = [json.loads(line) for line in questions.read_text().splitlines()]
    del kept[1]
    kept[4] |= {"label": "yes"}
    labels = lines(tmp_path / "coco_repope_random.json", kept)
    path = lines(tmp_path / "answers.jsonl", llava_form())
    found = scores(path, "--benchmark", "repope", "--questions", labels)
    assert found["random", "accuracy"]["value"] == 1
    shown = run(path, "--benchmark", "repope", "--questions", labels).stdout
    assert "5 of 5 answered, 1 answers to other questions left out" in shown
    # without ids they stand in POPE's order, which is not RePOPE's
    lines(path, official())
    assert "6 answers without ids" in problem(path, "--benchmark", "repope", "--questions", labels)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (
            [{"id": 1, "reply": "Yes"}],
            "answers.jsonl:1: an unknown form of answers, found id, reply",
        ),
        ([*official()[:2], {"question": TEXTS[2]}], "answers.jsonl:3: not of the form"),
        (
            [*llava_form(), llava_form()[0]],
            "answers.jsonl:7: pope-random-1 is answered twice, first",
        ),
        ([llava_form()[0] | {"question_id": 77}], "1 answers to questions that are not asked"),
        (
            [llava_form()[0] | {"question_id": 2}],
            "answers.jsonl:1: the answer is to 'Is there a dog",
        ),
        (official()[::-1], "answers.jsonl:1: the answer is to 'Is there a car"),
        ([*official(), official()[0]], "7 answers without ids, so in the order of the questions"),
        ([{"question": TEXTS[0], "answer": None}], "an unknown form of answers"),
        ([hadpo_form()[0], official()[1]], "no question_id, which other records have"),
    ],
)
def test_refusals_name_file_line_and_what_was_found(tmp_path, questions, records, expected):
    path = lines(tmp_path / "answers.jsonl", records)
    said = problem(path, "--benchmark", "pope", "--questions", questions)
    assert expected in said
    if "form" in expected:
        assert (
            '{"question_id": 1, "prompt": "Is there a dog in the image?", "text": "Yes."}' in said
        )


def test_the_questions_are_no_answers(tmp_path, questions):
    """LLaVA's answers have the field `text`, too, but there it is what the model said."""
    records = [json.loads(line) for line in questions.read_text().splitlines()]
    for name in ("pope", "repope"):
        said = problem(questions, "--benchmark", name, "--questions", questions)
        assert f"{questions}: a file of questions: the text of each record is what {name}" in said
    echo = [records[0], *(r | {"text": t} for r, t in zip(records[1:], SAID[1:], strict=True))]
    path = lines(tmp_path / "answers.jsonl", echo)
    found = scores(path, "--benchmark", "pope", "--questions", questions)
    assert found["random", "strict_accuracy"]["n_unreadable"] == 1


def test_other_refusals(tmp_path, questions):
    path = lines(tmp_path / "answers.jsonl", llava_form())
    assert "no such file" in problem(tmp_path / "none.jsonl", "--benchmark", "pope")
    assert "did you mean 'pope'" in problem(path, "--benchmark", "poope")
    assert "gqa: nobody else's answers are read" in problem(path, "--benchmark", "gqa")
    assert "no such file" in problem(path, "--benchmark", "pope", "--questions", "none.json")
    other = lines(tmp_path / "other.jsonl", [llava_form()[0]])
    rest = lines(tmp_path / "rest.jsonl", llava_form()[1:])
    words = ("--benchmark", "pope", "--questions", questions, "--against")
    assert "no question in common" in problem(other, *words, rest)
    (tmp_path / "bad.tsv").write_text("index\tquestion\n1\t2\t3\n")
    csv.field_size_limit(usual := 131_072)
    assert "bad.tsv:2: expected 2 cells" in problem(tmp_path / "bad.tsv", "--benchmark", "pope")
    assert csv.field_size_limit() == usual  # the limit of the whole process stays


def test_an_id_of_several_sets_is_refused(tmp_path, questions):
    for split in ("popular", "adversarial"):
        (tmp_path / f"coco_pope_{split}.json").write_bytes(questions.read_bytes())
    path = lines(tmp_path / "answers.jsonl", llava_form())
    said = problem(path, "--benchmark", "pope", "--questions", tmp_path)
    assert "question_id 1 could be pope-random-1, pope-popular-1, pope-adversarial-1" in said
    found = scores(
        lines(path, lmms_form(split="popular")), "--benchmark", "pope", "--questions", tmp_path
    )
    assert found["popular", "accuracy"]["value"] == pytest.approx(4 / 6)
    assert found["random", "unanswered"]["value"] == 6


def test_every_form_shows_a_record_that_it_fits():
    from hadpo import plugins
    from hadpo.benchmarks._tally import Benchmark

    seen = 0
    for name in plugins.available("hadpo.benchmarks"):
        for form in Benchmark.named(name).FORMS:
            if form.example.startswith("{"):
                record = json.loads(form.example.replace("{...}", "{}"))
                assert form.fits(record), (name, form.name)
                seen += 1
    assert seen
