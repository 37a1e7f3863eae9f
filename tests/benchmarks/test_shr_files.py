"""The original's files of SHR: what they hold is read, scored as theirs, and written back."""

import json
import os
from pathlib import Path

import pytest

from hadpo import benchmarks
from hadpo.benchmarks import shr
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


SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "shr" / "shr_cases.json"


def original_runs():
    """Each recorded aggregate: a judgement.json as the original would have written it, its result.

    Those that the original cannot compute, or whose replies it cannot read, it writes no file of.
    """
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {"aggregates": {}, "cases": []}
    by_id = {case["id"]: case for case in golden["cases"]}
    found = {}
    for name, expected in golden["aggregates"].items():
        cases = [by_id[key] for key in expected["ids"]]
        if "result" in expected and all("result" in c["post_process_no_revise"] for c in cases):
            images = {
                str(case["id"]): {
                    "raw_judgement": case["judge"],
                    "model_response": case["model_response"],
                    "judgement": case["post_process_no_revise"]["result"],
                }
                for case in cases
            }
            found[name] = {"run1": images}, expected["result"]
    return found


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"no {GOLDEN}")
def test_there_are_recorded_aggregates():
    assert original_runs()


@pytest.mark.parametrize("name", original_runs())
@pytest.mark.parametrize("key", ["model_response", "mode_response"])
def test_an_original_judgement_gives_the_original_metrics_and_comes_back(tmp_path, name, key):
    content, expected = original_runs()[name]
    for value in content["run1"].values():
        value[key] = value.pop("model_response")
    path = tmp_path / "judgement.json"
    path.write_text(json.dumps(content))
    answers, verdicts = shr.read_judgement(path)
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
    answers_again, verdicts_again = shr.read_judgement(folder / "judgement.json")
    assert answers_again == answers
    assert [v.label for v in verdicts_again] == [v.label for v in verdicts]


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"no {GOLDEN}")
def test_the_command_scores_a_judgement(hadpo, tmp_path):
    content, expected = max(original_runs().values(), key=lambda run: len(run[0]["run1"]))
    (tmp_path / "judgement.json").write_text(json.dumps(content))
    done = hadpo("shr-scores", tmp_path / "judgement.json", "--json")
    assert done.returncode == 0, done.stderr
    found = {m["name"]: m for m in json.loads(done.stdout)}
    assert round(found["hallucinated_sentence_ratio"]["value"], 3) == expected["hal_sents_ratio"]
    assert found["hallucinated_sentence_ratio"]["low"] is not None
    missing = hadpo("shr-scores", tmp_path / "no.json")
    assert missing.returncode == 2
    assert "no such file" in missing.stderr


def _made(folder, *parts):
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_responses_are_answers(tmp_path):
    path = tmp_path / "responses.json"
    path.write_text(json.dumps({"2": "A cat.", "1": "A dog."}))
    found = shr.read_responses(path, Q)
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
        (["a"], "the top level is of type list"),
    ],
)
def test_broken_responses_are_listed(tmp_path, content, message):
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        shr.read_responses(tmp_path / "r.json", Q)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"run1": {}}, "no images"),
        ({"run1": {"1": {"model_response": "a"}}}, r"image 1: no field 'judgement'"),
        ({"run1": {"1": {"judgement": []}}}, "no text model_response"),
        (
            {"run1": {"1": {"model_response": "a", "judgement": ["x"]}}},
            r"image 1: field 'judgement\[0\]': expected an object",
        ),
    ],
)
def test_broken_judgements_say_where(tmp_path, content, message):
    (tmp_path / "j.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        shr.read_judgement(tmp_path / "j.json")


@pytest.mark.parametrize(
    "text",
    [
        '{"run1": {"1": %s, "1": %s}}',
        '{"run1": {"1": %s}, "run1": {"2": %s}}',
        '{"run1": {"1": {"model_response": "a", "judgement": [], "judgement": [], "x": [%s, %s]}}}',
    ],
)
def test_what_stands_twice_in_a_judgement_is_named(tmp_path, text):
    image = '{"model_response": "A cup.", "judgement": []}'
    (tmp_path / "j.json").write_text(text % (image, image))
    with pytest.raises(BadInput, match=r"j\.json: .*'(1|run1|judgement)' stands twice"):
        shr.read_judgement(tmp_path / "j.json")


@pytest.mark.parametrize("names", [("run1", "run2"), ("run2", "run1"), ("a", "b", "c")])
def test_several_runs_in_a_judgement_are_refused_by_name(tmp_path, names):
    image = {"1": {"model_response": "A cup.", "judgement": []}}
    (tmp_path / "j.json").write_text(json.dumps(dict.fromkeys(names, image)))
    with pytest.raises(BadInput, match=rf"j\.json: {len(names)} runs \({', '.join(names)}\)"):
        shr.score_judgement(tmp_path / "j.json")
