"""`hadpo answer` as a user types it: files in, files out, killed and resumed."""

import csv
import json

import pytest
from PIL import Image

from hadpo import config
from hadpo.cli.answer import answer
from hadpo.data import Report, asked
from hadpo.records import BadInput


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (40, 30), (40 * k, 90, 200)).save(folder / name)
    (folder / "notes.md").write_text("no image")
    return folder


@pytest.fixture
def recipe(tmp_path, tiny_files):
    path = tmp_path / "mine.yaml"
    files = "".join(f"\n    {part}: {place}" for part, place in tiny_files.items())
    path.write_text(
        "title: t\nmodel:\n  backbone: llava/mini\n  device: cpu\n  dtype: float32\n"
        f"  files:{files}"
    )
    return str(path)


def ask(photos, questions, recipe, out, **options):
    values = {"preset": "greedy", "prompt": "evaluate", "batch": 4, "max_new_tokens": 5, "seed": 0}
    answer(images=photos, questions=questions, recipe=recipe, out=out, **{**values, **options})
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    with (out / "answers.csv").open(newline="") as file:
        return lines, list(csv.DictReader(file))


@pytest.mark.parametrize("preset", ["greedy", "lrv-v1", "lrv-v2"])
def test_every_line_is_asked_about_every_image(photos, recipe, tmp_path, preset):
    questions = tmp_path / "asked.txt"
    questions.write_text('Is there a dog?\n\nDescribe, "this", image.\n')
    out = tmp_path / "out"
    lines, rows = ask(photos, questions, recipe, out, preset=preset, run="")
    assert [row["question_id"] for row in rows] == ["a.png-1", "a.png-2", "b.png-1", "b.png-2"]
    assert rows[1]["question"] == 'Describe, "this", image.'
    assert {row["question_id"]: row["answer"] for row in rows} == {
        line["question_id"]: line["text"] for line in lines
    }
    # A killed start: one line is whole, one is torn.
    whole = (out / "answers.jsonl").read_text()
    first, second = whole.splitlines(keepends=True)[:2]
    (out / "answers.jsonl").write_text(first + second[:20])
    again, table = ask(photos, questions, recipe, out, preset=preset, run="")
    assert again == lines and table == rows  # sampled numbers belong to the question
    with pytest.raises(BadInput, match="answers of another decoding"):
        ask(photos, questions, recipe, out, preset="minigpt4", run="")


def test_questions_of_all_forms(photos, tmp_path):
    records = [{"image_id": "a", "question": "Q?"}, {"image": "b.png", "instruction": "Do."}]
    (tmp_path / "q.json").write_text(json.dumps(records))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "q.csv").write_text("\ufeffimage,text\na.png,Q?\nb,Do.\n")
    found = [
        asked.read(tmp_path / f"q.{end}", photos, Report()) for end in ("json", "jsonl", "csv")
    ]
    assert found[0] == found[1] == found[2]
    assert [(q.image_id, q.text) for q in found[0]] == [("a.png", "Q?"), ("b.png", "Do.")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", "\n \n", "the file is empty"),
        ("q.txt", b"caf\xe9?", r"q\.txt: not UTF-8"),
        ("q.csv", b"image,text\na,caf\xe9?", r"q\.csv: not UTF-8"),
        ("q.csv", "image,text\na,Is it red, or blue?", r"q\.csv:2: expected 2 columns, found 3"),
        ("q.csv", "image,text", "no question about"),
        ("q.csv", "image,text,text\na,Q?,R?", r"q\.csv:1: column 'text' is there twice"),
        ("q.json", '[{"image": ["a"], "question": true}]', "field 'image': .*; field 'question': "),
        ("q.json", '[{"image": "a", "text": "Q?", "question_id": 0}]', "0"),
        ("q.md", "x", "no file that can be read"),
        ("q.json", "{}", "the top level is of type object"),
        ("q.json", '[{"image": "z.png", "question": "Q?"}]', r"record 0: no image 'z.png'"),
        ("q.json", '[{"image": "../a.png", "question": "Q?"}]', "does not stay inside"),
        ("q.json", '[{"image": "a.png"}]', "record 0: expected image and question"),
        ("q.json", '[{"image": "a", "text": "Q?", "question_id": 1}] ', "1"),
        (
            "q.jsonl",
            '{"image": "a", "text": "Q", "question_id": 7}\n' * 2,
            "2: question_id 7 is there twice",
        ),
    ],
)
def test_bad_questions(photos, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if message in ("0", "1"):  # the id that the question has
        assert asked.read(tmp_path / name, photos, Report())[0].question_id == message
        return
    with pytest.raises(BadInput, match=message):
        asked.read(tmp_path / name, photos, Report())


def test_answers_to_other_questions_or_pictures_are_not_taken_over(photos, recipe, tmp_path):
    questions, out = tmp_path / "q.jsonl", tmp_path / "out"
    questions.write_text('{"image": "a.png", "text": "Is there a dog?"}')
    lines, _ = ask(photos, questions, recipe, out, run="")
    assert ask(photos, questions, recipe, out, run="")[0] == lines
    questions.write_text('{"image": "a.png", "text": "Is there a bus?"}')
    with pytest.raises(BadInput, match="question_id 1 was answered for another question"):
        ask(photos, questions, recipe, out, run="")
    questions.write_text('{"image": "a.png", "text": "Is there a dog?"}')
    Image.new("RGB", (40, 30), "white").save(photos / "a.png")
    with pytest.raises(BadInput, match="or another image; choose another --out"):
        ask(photos, questions, recipe, out, run="")


def test_a_file_that_was_cut_at_any_byte_is_named_or_gone_on_with(photos, recipe, tmp_path):
    questions, out = tmp_path / "q.txt", tmp_path / "out"
    questions.write_text("Is there a dog?")
    lines, rows = ask(photos, questions, recipe, out, run="")
    whole = {path: path.read_bytes() for path in out.iterdir()}
    assert len(whole) == 4
    for path, content in whole.items():
        for cut in {0, 1, 9, len(content) // 2, len(content) - 2}:
            path.write_bytes(content[:cut])
            if path.suffix == ".json":
                with pytest.raises(BadInput, match=rf"{path.name}: .*another --out"):
                    ask(photos, questions, recipe, out, run="")
                path.write_bytes(content)
            else:
                assert ask(photos, questions, recipe, out, run="") == (lines, rows)


@pytest.mark.parametrize("change", [("", ""), ('"text": "', '"text": "not ')])
def test_two_answers_to_one_question_are_named(photos, recipe, tmp_path, change):
    (tmp_path / "q.txt").write_text("Q?")
    out = tmp_path / "out"
    ask(photos, tmp_path / "q.txt", recipe, out, run="")
    lines = (out / "answers.jsonl").read_text().splitlines(keepends=True)
    (out / "answers.jsonl").write_text("".join([*lines, lines[0].replace(*change)]))
    with pytest.raises(BadInput, match=r"answers\.jsonl: two answers to 'a\.png-1'; keep one"):
        ask(photos, tmp_path / "q.txt", recipe, out, run="")


@pytest.mark.parametrize("name", ["", "answers.csv", "answers.jsonl"])
def test_a_place_that_cannot_be_written_is_named(photos, recipe, tmp_path, name):
    (tmp_path / "q.txt").write_text("Q?")
    if name:
        (tmp_path / "out" / name).mkdir(parents=True)
    else:
        (tmp_path / "out").touch()
    with pytest.raises(BadInput, match=f"--out: .*{name or 'out'} is a (file|folder), expected"):
        ask(photos, tmp_path / "q.txt", recipe, tmp_path / "out", run="")


def test_one_model_is_named(photos, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    (tmp_path / "q.txt").write_text("Q?")
    for given in ({"recipe": "", "run": ""}, {"recipe": recipe, "run": "x"}):
        with pytest.raises(BadInput, match="name one model"):
            answer(images=photos, questions=tmp_path / "q.txt", out=tmp_path / "o", **given)
    with pytest.raises(BadInput, match="run 'x' has no finished merge"):
        answer(images=photos, questions=tmp_path / "q.txt", recipe="", run="x", out=tmp_path / "o")
    assert config.runs_folder() == tmp_path / "runs"
