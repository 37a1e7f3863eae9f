"""Judge against people: by hand, from a file, through the command line with a real server."""

import json

import pytest

from hadpo.judges import agreement, read_labelled
from hadpo.judges._agreement import LabelledCase
from hadpo.records import BadInput, Case, Evidence, Verdict, write_jsonl

EVIDENCE = Evidence(image_id="1", image="", width=1, height=1, objects=("cup", "dog"))


def labelled(*labels):
    claims = tuple(f"Claim {i}." for i in range(len(labels)))
    case = Case(case_id="1", model="m", claims=claims, evidence=EVIDENCE)
    return LabelledCase(case=case, labels=labels)


def rulings(*labels):
    return [Verdict(case_id="1", model="m", claim="", label=label) for label in labels]


def test_by_hand():
    """Agreement on 3 of 4; chance 2/4 x 3/4 + 2/4 x 1/4 = 1/2; kappa (3/4 - 1/2) / (1/2)."""
    people = [labelled("correct", "correct", "hallucination", "hallucination")]
    found = agreement(people, rulings("correct", "correct", "correct", "hallucination"))
    assert (found.claims, found.accuracy, found.kappa) == (4, 0.75, 0.5)
    assert found.confusion["hallucination"]["correct"] == 1


def test_unparsed_agrees_with_nobody_and_certain_chance_has_no_kappa():
    found = agreement([labelled("correct", "correct")], rulings("correct", "unparsed"))
    assert (found.accuracy, found.unparsed) == (0.5, 1)
    assert agreement([labelled("correct")], rulings("correct")).kappa is None


@pytest.mark.parametrize(
    "labels", [("correct",), ("correct", "wrong"), ("correct",) * 3], ids=["few", "other", "many"]
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels):
    case = labelled("correct", "correct").case
    write_jsonl(tmp_path / "labels.jsonl", [LabelledCase(case=case, labels=labels)])
    with pytest.raises(BadInput, match="a label for each of the 2 claims"):
        read_labelled(tmp_path / "labels.jsonl")


def test_a_case_that_is_labelled_twice_is_refused(tmp_path):
    write_jsonl(tmp_path / "labels.jsonl", [labelled("correct"), labelled("hallucination")])
    with pytest.raises(BadInput, match="case_id 1 stands in it twice"):
        read_labelled(tmp_path / "labels.jsonl")


def test_the_command(hadpo, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    serve(lambda *_: "Judgement:\n1. correct: a\n2. correct: b")
    write_jsonl(tmp_path / "labels.jsonl", [labelled("correct", "hallucination")])
    model = ("-p", "judge=llm", "-p", "judge_model=m", "-p", "judge_format=text", "--json")
    done = hadpo("judge-agreement", tmp_path / "labels.jsonl", *model)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["claims"], found["accuracy"], found["kappa"]) == (2, 0.5, 0.0)
    oracle = hadpo("judge-agreement", tmp_path / "labels.jsonl")
    assert oracle.returncode == 0, oracle.stderr
    assert "judge oracle, 2 claims, 0 unparsed" in oracle.stdout
    missing = hadpo("judge-agreement", tmp_path / "none.jsonl")
    assert missing.returncode == 2
    assert "no such file" in missing.stderr
