"""The original's files of SHR: what they hold is read, scored as theirs, and written back."""

import json

import pytest

from hadpo import benchmarks
from hadpo.benchmarks import _shr_files, shr
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import BadInput, Evidence, Question

Q = [
    Question(
        question_id=f"shr-{key}",
        benchmark="shr",
        split="val",
        image_id=key,
        image="",
        text="Describe this image in detail.",
    )
    for key in ("1", "2")
]


def original_run(shared, name):
    """A judgement.json as the original would have written it, of a recorded aggregate."""
    golden = json.loads((shared / "golden/shr/shr_cases.json").read_text())
    by_id = {case["id"]: case for case in golden["cases"]}
    expected = golden["aggregates"][name]
    images = {
        str(key): {
            "raw_judgement": by_id[key]["judge"],
            "model_response": by_id[key]["model_response"],
            "judgement": by_id[key]["post_process_no_revise"]["result"],
        }
        for key in expected["ids"]
    }
    return {"run1": images}, expected["result"]


@pytest.mark.parametrize("name", ["well_formed_only", "first_twelve"])
@pytest.mark.parametrize("key", ["model_response", "mode_response"])
def test_an_original_judgement_gives_the_original_metrics_and_comes_back(
    shared, tmp_path, name, key
):
    content, expected = original_run(shared, name)
    for value in content["run1"].values():
        value[key] = value.pop("model_response")
    path = tmp_path / "judgement.json"
    path.write_text(json.dumps(content))
    answers, verdicts = _shr_files.read_judgement(path)
    evidence = {
        a.image_id: Evidence(image_id=a.image_id, image="", width=1, height=1) for a in answers
    }
    metrics = benchmarks.score("shr", answers, [], verdicts, evidence, Vocabulary(), samples=10)
    by_name = {m.name: m for m in metrics}
    assert (by_name["tokens_per_answer"].value, by_name["tokens_per_answer"].n) == (None, 0)
    shr.export(answers, verdicts, metrics, lambda *parts: _made(tmp_path / "out", *parts))
    folder = tmp_path / "out/shr/responses"
    found = json.loads((folder / "metrics.json").read_text())
    assert found["run1"] == expected
    assert found["mean_hal_ratio"] == expected["hal_sents_ratio"]
    assert set(found) == {"run1", "mean_hal_ratio"} | {f"gram-{k}-repetition" for k in range(1, 5)}
    again = json.loads((folder / "judgement.json").read_text())["run1"]
    for image, value in content["run1"].items():
        theirs = [
            (each["model_response"], each["classification"])
            for each in value["judgement"]
            if each["classification"] in ("hallucination", "correct", "cannot judge")
        ]
        ours = [
            (each["model_response"], each["classification"])
            for each in again[image]["judgement"]
            if each["classification"]
        ]
        assert ours == theirs
    answers_again, verdicts_again = _shr_files.read_judgement(folder / "judgement.json")
    assert answers_again == answers
    assert [v.label for v in verdicts_again] == [v.label for v in verdicts]


def test_the_command_scores_a_judgement(shared, tmp_path):
    import subprocess
    import sys

    content, expected = original_run(shared, "first_twelve")
    (tmp_path / "judgement.json").write_text(json.dumps(content))
    command = [sys.executable, "-m", "hadpo", "shr-scores", str(tmp_path / "judgement.json")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {m["name"]: m for m in json.loads(done.stdout)}
    assert round(found["hallucinated_sentence_ratio"]["value"], 3) == expected["hal_sents_ratio"]
    assert found["hallucinated_sentence_ratio"]["low"] is not None
    missing = subprocess.run(
        [*command[:-1], str(tmp_path / "no.json")], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
    assert "no such file" in missing.stderr


def _made(folder, *parts):
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_responses_are_answers(tmp_path):
    path = tmp_path / "responses.json"
    path.write_text(json.dumps({"2": "A cat.", "1": "A dog."}))
    found = _shr_files.read_responses(path, Q)
    assert [(a.question_id, a.text, a.model) for a in found] == [
        ("shr-1", "A dog.", "responses"),
        ("shr-2", "A cat.", "responses"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1": "A dog."}, "1 images without a response: 2"),
        ({"1": "a", "2": "b", "7": "c"}, "1 images that are not asked about: 7"),
        ({"1": "a", "2": None}, "1 responses that are no texts: 2"),
        (["a"], "the top level is a list"),
    ],
)
def test_broken_responses_are_listed(tmp_path, content, message):
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        _shr_files.read_responses(tmp_path / "r.json", Q)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"run1": {}}, "no images"),
        ({"run1": {"1": {"model_response": "a"}}}, "no list judgement"),
        ({"run1": {"1": {"judgement": []}}}, "no text model_response"),
        ({"run1": {"1": {"model_response": "a", "judgement": ["x"]}}}, "without model_response"),
    ],
)
def test_broken_judgements_say_where(tmp_path, content, message):
    (tmp_path / "j.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        _shr_files.read_judgement(tmp_path / "j.json")
