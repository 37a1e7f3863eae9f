"""The stage evaluate on a mini world with tiny random models: files, resume, settings, errors."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

import hadpo.backbones
import hadpo.generation
from hadpo import plugins
from hadpo.benchmarks import Benchmark, evaluate, score
from hadpo.benchmarks._answers import decoding_of, files_of
from hadpo.config import section_types
from hadpo.mini import build
from hadpo.pairs import prepare
from hadpo.records import Answer, BadInput, Metric, Question, Verdict, input_hashes, read_jsonl
from hadpo.runs.run import open_run

TEST_IMAGES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder):
    """A recipe, and a run whose stages prepare and merge are done."""
    import torch

    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("evaluate")
    build(home / "world", seed=3, train_images=8, test_images=TEST_IMAGES)
    places = {
        "visual_genome": "VG",
        "coco": "coco2014",
        "pope": "POPE/output/coco",
        "shr": "shr",
        "vocabulary": "vocabulary.json",
    }
    recipe = {
        "extends": "mini/llava-corrected",
        "model": {
            "files": {
                "language_model": str(tiny_folder / "llava-tiny"),
                "vision": str(tiny_folder / "clip-tiny"),
            }
        },
        "data": {key: str(home / "world" / place) for key, place in places.items()},
        "prepare": {"description_images": 0, "yes_no_pairs": 6, "max_new_tokens": 2},
        "evaluate": {
            "benchmark_names": "pope,shr",
            "models": "base,merged,sft",
            "pope_max_new_tokens": 3,
            "shr_max_new_tokens": 12,
            "shr_beams": 2,
            "cut_control": True,
            "bootstrap_samples": 20,
        },
    }
    (home / "mini.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HADPO_RUNS", str(home / "runs"))
        patch.setattr(hadpo.generation, "generate", yes_man)
        run = open_run("prepare", str(home / "mini.yaml"), "test", {})
        prepare(run)
        run.finish()
        patch.undo()
        patch.setenv("HADPO_RUNS", str(home / "runs"))
        merge(open_run("merge", str(home / "mini.yaml"), "test", {}))
    return home


def yes_man(backbone, questions, decoding, *, model, **rest):
    for question in questions:
        yield Answer(
            question_id=question.question_id,
            benchmark=question.benchmark,
            split=question.split,
            model=model,
            image_id=question.image_id,
            text="Yes.",
            tokens=3,
            finish="stop",
        )


def merge(run):
    """What the stage merge leaves behind, with weights that differ from the base's."""
    import torch

    files = {part: run.resolve(place) for part, place in run.recipe.model.files.items()}
    for name, place in (("dpo", ("merged",)), ("sft", ("controls", "sft", "merged"))):
        backbone = hadpo.backbones.load("llava/mini", files, dtype="float32", device="cpu")
        with torch.no_grad():
            backbone.lm_head_weight.mul_(-1 if name == "dpo" else 2)
        backbone.save_original(run.path(*place), dtype=torch.float32)
        saved = backbone.files_with(run.path(*place))
        run.note(**{f"merged_{name}": {"files": {k: str(v) for k, v in saved.items()}}})
    own = [run.path("merged"), run.path("controls", "sft", "merged")]
    run.note(weights=input_hashes(own, below=run.folder.parent))
    run.finish()


@pytest.fixture
def opened(folder, monkeypatch):
    """Opens the stage evaluate, each time as another run with the same earlier stages."""
    monkeypatch.setenv("HADPO_RUNS", str(folder / "runs"))

    def open_evaluate(name, **overrides):
        return open_run("evaluate", str(folder / "mini.yaml"), name, overrides, earlier="test")

    return open_evaluate


def rows(run, name, kind):
    return list(read_jsonl(run.path(name), kind))


def test_every_model_answers_everything_and_is_scored(opened):
    run = opened("whole")
    metrics = evaluate(run)
    prepared = read_jsonl(run.earlier("prepare", "questions.jsonl"), Question)
    questions = [each for each in prepared if each.benchmark in ("pope", "shr")]
    samples = rows(run, "samples.jsonl", Answer)
    models = ("base", "merged", "sft")
    assert Counter(a.model for a in samples) == dict.fromkeys(models, len(questions))
    assert len({(a.model, a.question_id) for a in samples}) == 3 * len(questions)
    assert rows(run, "metrics.jsonl", Metric) == metrics
    places = {(m.benchmark, m.split, m.model) for m in metrics}
    pope_splits = ("random", "popular", "adversarial")
    expected = {("pope", split, model) for split in pope_splits for model in models}
    assert places == expected | {("shr", "val", model) for model in (*models, "base_cut")}
    for metric in metrics:
        if metric.name == "unanswered":
            assert metric.value == 0
        if metric.name == "sentences_per_answer":
            assert metric.n == TEST_IMAGES
    verdicts = rows(run, "verdicts.jsonl", Verdict)
    assert {v.model for v in verdicts} == {*models, "base_cut"}
    assert {v.case_id for v in verdicts} <= {q.question_id for q in questions}
    texts = {m: [a.text for a in samples if a.model == m] for m in models}
    assert texts["base"] != texts["merged"]  # the merged weights were loaded


def test_decoding_json_tells_what_the_numbers_rest_on(opened):
    run = opened("decoding", models="base", cut_control=False)
    evaluate(run)
    found = json.loads(run.path("decoding.json").read_text())
    assert found["pope"]["prompt"] == "<s>USER: <image>\n{instruction} ASSISTANT:"
    assert found["pope"]["prompt_name"] == "evaluate"
    assert found["pope"]["decoding"]["max_new_tokens"] == 3
    assert found["shr"]["decoding"]["beams"] == 2
    assert found["pope"]["readings"] == {"": "upstream", "strict_": "strict"}
    assert found["shr"]["judge"] == "oracle"
    assert run.manifest.facts["decoding"] == found


def test_a_killed_run_goes_on_where_it_stopped(opened, monkeypatch):
    whole = opened("uninterrupted", models="base,merged")
    evaluate(whole)
    run = opened("killed", models="base,merged")
    real = hadpo.generation.generate
    said = []

    def killed(*given, **rest):
        for answer in real(*given, **rest):
            said.append((answer.model, answer.question_id))
            if len(said) == 50:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(hadpo.generation, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run)
    with run.path("samples.jsonl").open("a") as file:
        file.write('{"question_id": "torn", "mod')
    evaluate(run)
    assert len(said) == len(set(said)) + 1  # only the one under way is asked again
    for name in ("verdicts.jsonl", "metrics.jsonl", "decoding.json"):
        assert run.path(name).read_text() == whole.path(name).read_text(), name

    def load(*given, **rest):
        raise AssertionError("no model is needed: everything is answered")

    monkeypatch.setattr(hadpo.backbones, "load", load)
    assert evaluate(run) == rows(whole, "metrics.jsonl", Metric)


def test_two_answers_to_one_question_are_refused(opened):
    run = opened("doubled", models="base", questions_limit=1, cut_control=False)
    evaluate(run)
    path = run.path("samples.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, *lines[-2:]]))
    with pytest.raises(BadInput, match=r"samples\.jsonl: 2 answers are there twice: base to "):
        evaluate(run)


def test_answers_to_unknown_questions_are_not_scored_and_missing_ones_are_asked_for(opened):
    settings = {"models": "base", "questions_limit": 2, "cut_control": False}
    run = opened("patched", **settings)
    metrics = evaluate(run)
    path = run.path("samples.jsonl")
    first, *others = path.read_text().splitlines(keepends=True)
    stranger = json.loads(first) | {"question_id": "pope-random-999999"}
    path.write_text("".join([*others, json.dumps(stranger) + "\n"]))  # one short, one too many
    assert evaluate(run) == metrics
    assert first in path.read_text().splitlines(keepends=True)  # asked again, and answered alike


def test_what_the_numbers_rest_on_is_hashed(opened):
    run = opened("hashed", benchmark_names="pope", questions_limit=1, cut_control=False)
    evaluate(run)
    inputs = run.manifest.facts["inputs"]
    names = ("questions.jsonl", "evidence.jsonl", "vocabulary.json")
    assert {f"prepare/{name}" for name in names} <= inputs.keys()
    weights = [key for key in inputs if key.endswith(("model.safetensors", "pytorch_model.bin"))]
    assert len(weights) == 4  # base, merged, control, vision
    assert len({inputs[key] for key in weights}) == 4


def test_answers_of_other_weights_are_refused(opened, folder, monkeypatch, tmp_path):
    settings = {"models": "merged", "questions_limit": 1, "cut_control": False}
    run = opened("other-weights", **settings)
    evaluate(run)
    merged = run.earlier("merge", "merged") / "model.safetensors"
    before, samples = merged.read_bytes(), run.path("samples.jsonl").read_bytes()
    manifest = merged.parents[1] / "manifest.json"
    noted = manifest.read_text()
    merged.write_bytes(before[:-4] + b"\0\0\0\0")
    values = json.loads(noted)  # a merge that was redone
    values["facts"]["weights"] |= input_hashes([merged.parent], below=manifest.parents[1])
    manifest.write_text(json.dumps(values))
    try:
        with pytest.raises(BadInput, match=r"samples\.jsonl was begun .*merged/model\.safetensors"):
            evaluate(opened("other-weights", **settings))
    finally:
        merged.write_bytes(before)
        manifest.write_text(noted)
    assert run.path("samples.jsonl").read_bytes() == samples
    evaluate(opened("other-weights", **settings))


@pytest.mark.parametrize(("model", "place"), [("merged", "merged"), ("sft", "controls/sft/merged")])
def test_weights_that_the_merge_did_not_write_are_refused(opened, model, place):
    run = opened("weights")
    folder = run.earlier("merge", place)
    assert files_of(run, model)["language_model"] == folder
    beside = folder / "more.safetensors"
    beside.write_bytes(b"another's")
    try:
        match = rf"merge/{place}/more\.safetensors: not what stage merge wrote; .*redo-from merge"
        with pytest.raises(BadInput, match=match):
            files_of(run, model)
    finally:
        beside.unlink()


def test_questions_limit_is_of_each_split(opened):
    run = opened("limit", models="base", questions_limit=2, cut_control=False)
    evaluate(run)
    counts = Counter((a.benchmark, a.split) for a in rows(run, "samples.jsonl", Answer))
    splits = ("random", "popular", "adversarial")
    assert counts == {("pope", s): 2 for s in splits} | {("shr", "val"): 2}


def test_settings_change_what_is_done(opened):
    one = opened("beams", models="base", benchmark_names="pope", cut_control=False, pope_beams=3)
    evaluate(one)
    found = json.loads(one.path("decoding.json").read_text())
    assert list(found) == ["pope"] and found["pope"]["decoding"]["beams"] == 3
    other = opened(
        "other",
        models="base",
        benchmark_names="shr",
        cut_control=False,
        prompt="train",
        repetition_penalty=1.8,
        shr_beams=1,
        shr_max_new_tokens=5,
        batch_questions=1,
    )
    metrics = {m.name: m for m in evaluate(other)}
    found = json.loads(other.path("decoding.json").read_text())["shr"]
    assert found["prompt_name"] == "train"
    assert found["decoding"] | {"beams": 1, "repetition_penalty": 1.8} == found["decoding"]
    assert metrics["tokens_per_answer"].value == 5
    wide = opened("wide", models="base", cut_control=False, bootstrap_samples=200, evaluate_seed=1)
    narrow = opened("seed", models="base", cut_control=False, bootstrap_samples=200)
    bounds = [[(m.low, m.high) for m in evaluate(run)] for run in (wide, narrow)]
    assert bounds[0] != bounds[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmark_names": "popes"}, "benchmark_names: no 'popes'; did you mean 'pope'"),
        ({"judge": "orakel"}, "judge: no 'orakel'; did you mean 'oracle'"),
        ({"models": "base,merge"}, "models: no 'merge'; did you mean 'merged'"),
        ({"models": "base,merged,dpo"}, r"known: base, .*merged, .*sft"),
        ({"models": "base", "cut_control": True}, "cut_control compares base with merged"),
    ],
)
def test_unknown_names_are_refused_before_a_model_is_loaded(opened, monkeypatch, settings, message):
    def load(*given, **rest):
        raise AssertionError("loaded")

    monkeypatch.setattr(hadpo.backbones, "load", load)
    name = f"wrong-{abs(hash(str(settings)))}"
    with pytest.raises(BadInput, match=message):
        evaluate(opened(name, **({"cut_control": False} | settings)))


def test_a_benchmark_without_questions_is_named(folder, opened, monkeypatch, tmp_path):
    run = opened("none", models="base", cut_control=False)
    empty = tmp_path / "questions.jsonl"
    lines = Path(run.earlier("prepare", "questions.jsonl")).read_text().splitlines()
    empty.write_text("\n".join(line for line in lines if '"shr"' not in line) + "\n")
    real = run.earlier
    monkeypatch.setattr(
        run, "earlier", lambda s, *p: empty if p == ("questions.jsonl",) else real(s, *p)
    )
    with pytest.raises(BadInput, match="no questions of shr were prepared"):
        evaluate(run)


@pytest.mark.parametrize("name", plugins.available("hadpo.benchmarks"))
def test_the_contract_holds_for_every_benchmark(name):
    module = plugins.load("hadpo.benchmarks", name)
    assert callable(module.questions)
    benchmark = Benchmark.named(name)
    settings = section_types()["evaluate"]()
    assert decoding_of(benchmark, settings).name == name
    assert benchmark.READINGS or benchmark.readings(settings)
    assert benchmark.cases([], {}, {}, settings) == []
    assert score(name, [], []) == []
