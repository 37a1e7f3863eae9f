"""The stage prepare on real formats: published pairs of the photos, mined pairs of a mini world."""

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

import hadpo.backbones
import hadpo.generation
from hadpo.data import Report, hadpo_pairs, visual_genome
from hadpo.mini import build, captions, world
from hadpo.pairs import mine, prepare
from hadpo.pairs.stage import split_off
from hadpo.records import Answer, BadInput, Evidence, Pair, Question, read_jsonl
from hadpo.runs.run import open_run
from hadpo.text import sentences

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
PHOTOS = SHARED / "data" / "photoset"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}")


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HADPO_SHARED", str(SHARED))


def open_prepare(recipe, name="test", **overrides):
    overrides = {"held_out_share": 0.0} | overrides
    return open_run("prepare", str(recipe), name, overrides)


def rows(run, name, kind):
    return list(read_jsonl(run.path(name), kind))


# --- published ---


@needs_photos
def test_the_photos_give_every_file():
    run = open_prepare("photoset")
    counts = prepare(run)
    pairs = rows(run, "pairs.jsonl", Pair)
    assert Counter(p.kind for p in pairs) == {"description": 5, "pope": 18}
    assert counts["pairs"] == 23 and counts["hadpo_pairs: questions marked as correct"] == 2
    questions = rows(run, "questions.jsonl", Question)
    assert Counter((q.benchmark, q.split) for q in questions) == {
        ("pope", "random"): 24,
        ("pope", "popular"): 24,
        ("pope", "adversarial"): 24,
        ("shr", "val"): 5,
        ("chair", "val"): 4,
    }
    evidence = {e.image_id: e for e in rows(run, "evidence.jsonl", Evidence)}
    assert len(evidence) == 9
    assert len(evidence["2363134"].facts) == 8 and len(evidence["2363134"].regions) == 15
    assert "broccoli" in evidence["COCO_val2014_000000043917"].objects
    words = json.loads(run.path("vocabulary.json").read_text())
    assert {"vase", "broccoli"} <= set(words["objects"])
    assert rows(run, "held_out.jsonl", Pair) == []
    assert json.loads(run.path("counts.json").read_text()) == counts
    assert run.manifest.facts["counts"] == counts
    assert {"desc_data.json", "pope_data.json"} <= set(run.manifest.facts["inputs"])
    images = visual_genome.images(PHOTOS / "VG", Report())
    for schema in hadpo_pairs.SCHEMAS:
        folder = run.path("export", schema)
        again = hadpo_pairs.read(folder, schema=schema, images=images, seed=0, report=Report())
        assert [p.pair_id for p in again] == [p.pair_id for p in pairs]
        if schema == "llava-v1.5":
            assert again == pairs


@needs_photos
def test_prepare_twice_gives_the_same_files():
    one, two = open_prepare("photoset", "one"), open_prepare("photoset", "two")
    for run in (one, two):
        prepare(run)
        prepare(run)  # a rerun of a stage that was killed late
    for name in ("pairs.jsonl", "questions.jsonl", "evidence.jsonl", "counts.json"):
        assert one.path(name).read_text() == two.path(name).read_text()
    other = open_prepare("photoset", "three", prepare_seed=7)
    prepare(other)
    assert other.path("pairs.jsonl").read_text() != one.path("pairs.jsonl").read_text()


@needs_photos
def test_images_that_are_trained_on_and_evaluated_are_named():
    with pytest.raises(BadInput, match=r"5 images are both trained on and evaluated: 2356011, "):
        prepare(open_prepare("photoset", on_overlap="error"))


@needs_photos
def test_limit_and_held_out_share():
    run = open_prepare("photoset", limit=4, held_out_share=0.4)
    counts = prepare(run)
    train, held = rows(run, "pairs.jsonl", Pair), rows(run, "held_out.jsonl", Pair)
    assert Counter(p.kind for p in [*train, *held]) == {"description": 4, "pope": 4}
    assert held and not {p.image_id for p in train} & {p.image_id for p in held}
    assert counts["held-out pairs"] == len(held) and counts["pairs"] == len(train)


@needs_photos
def test_all_broken_records_are_listed_or_skipped_and_counted(tmp_path):
    pairs, pope = tmp_path / "pairs", tmp_path / "pope"
    shutil.copytree(PHOTOS / "hadpo" / "llava-v1.5", pairs)
    shutil.copytree(PHOTOS / "POPE" / "output" / "coco", pope)
    for path in (*pairs.iterdir(), *pope.iterdir()):
        path.chmod(0o644)
    records = json.loads((pairs / "pope_data.json").read_text())
    del records[0]["chosen"]
    (pairs / "pope_data.json").write_text(json.dumps(records))
    lines = (pope / "coco_pope_popular.json").read_text().replace("000000043917", "000000000001")
    (pope / "coco_pope_popular.json").write_text(lines)
    recipe = tmp_path / "my.yaml"
    data = {"pairs_folder": str(pairs), "pope": str(pope)}
    recipe.write_text(yaml.safe_dump({"extends": "photoset", "data": data}))
    with pytest.raises(BadInput) as caught:
        prepare(open_prepare(recipe, "strict"))
    assert "pope_data.json: record 0: no field 'chosen'" in str(caught.value)
    assert "COCO_val2014_000000000001.jpg" in str(caught.value)
    run = open_prepare(recipe, "lenient", on_bad="skip")
    counts = prepare(run)
    assert counts["hadpo_pairs: broken, left out"] == 1 and counts["pairs: pope"] == 17
    assert counts["pope: broken, left out"] == 1  # one photo
    assert counts["pope: questions about missing photos"] == 6
    assert len(rows(run, "questions.jsonl", Question)) == 81 - 6


@needs_photos
def test_the_judge_of_gavie_sees_the_regions_that_lrv_wrote(tmp_path):
    regions = json.loads((PHOTOS / "VG" / "vg_annotation.json").read_text())
    regions["2375304"] = regions["2375304"][:3]
    regions["2375304"][0]["caption"] = "as LRV says it"
    path = tmp_path / "vg_annotation.json"
    path.write_text(json.dumps(regions))
    recipe = tmp_path / "my.yaml"
    asked = {"gavie": str(PHOTOS / "gavie" / "evaluation_subset.json")}
    data = asked | {"gavie_regions": str(path)}
    recipe.write_text(yaml.safe_dump({"extends": "photoset", "data": data}))
    run = open_prepare(recipe)
    counts = prepare(run)
    questions = rows(run, "questions.jsonl", Question)
    assert sum(q.benchmark == "gavie" for q in questions) == 12
    found = {e.image_id: e for e in rows(run, "evidence.jsonl", Evidence)}
    assert {key: len(found[key].regions) for key in regions} == {
        key: len(some) for key, some in regions.items()
    }
    assert found["2375304"].regions[0].phrase == "as LRV says it"
    assert counts["vg_annotation: images whose regions SHR's judge sees too"] == 5
    assert any(Path(name).name == "vg_annotation.json" for name in run.manifest.facts["inputs"])

    del regions["2375304"]
    path.write_text(json.dumps(regions))
    with pytest.raises(BadInput, match="no image 2375304, about which GAVIE asks"):
        prepare(open_prepare(recipe, "strict"))
    run = open_prepare(recipe, "lenient", on_bad="skip")
    assert prepare(run)["vg_annotation: broken, left out"] == 1
    kept = {e.image_id: e for e in rows(run, "evidence.jsonl", Evidence)}
    assert len(kept["2375304"].regions) == 12  # Visual Genome's own

    with pytest.raises(BadInput, match="'gavie_regions' has no effect while gavie is ''"):
        open_prepare("photoset", "alone", gavie_regions=str(path))


def test_split_off_takes_whole_images():
    pairs = [
        Pair(
            pair_id=str(n),
            image_id=str(n % 10),
            image="",
            instruction="",
            chosen="a",
            rejected="b",
            kind="pope",
            source="",
        )
        for n in range(40)
    ]
    train, held = split_off(pairs, 0.3, 1)
    assert len({p.image_id for p in held}) == 3 and len(held) == 12 and len(train) == 28
    assert split_off(pairs, 0.0, 1) == (pairs, [])
    assert split_off(pairs, 0.3, 1) == (train, held)


@needs_photos
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"pairs_folder": ""}, "data.pairs_folder names no folder"),
        ({"visual_genome": ""}, "data.visual_genome names no folder"),
        ({"coco": ""}, "data.pope is set but data.coco is not"),
        (
            {"coco": "", "pope": "", "chair_annotations": "x"},
            "data.chair_annotations is set but data.coco is not",
        ),
        ({"pairs_folder": "/nowhere"}, r"/nowhere/desc_data\.json: no such file"),
        ({"vocabulary": "/nowhere.json"}, "nowhere"),
    ],
)
def test_missing_sources_are_named(tmp_path, section, message):
    recipe = tmp_path / "my.yaml"
    recipe.write_text(yaml.safe_dump({"extends": "photoset", "data": section}))
    with pytest.raises((BadInput, FileNotFoundError), match=message):
        prepare(open_prepare(recipe))


@needs_photos
def test_without_pope_and_shr_there_are_still_pairs(tmp_path):
    recipe = tmp_path / "my.yaml"
    data = {"pope": "", "shr": "", "coco": ""}
    recipe.write_text(yaml.safe_dump({"extends": "photoset", "data": data}))
    run = open_prepare(recipe, on_overlap="error")
    assert prepare(run)["pairs"] == 23
    assert rows(run, "questions.jsonl", Question) == []


# --- mined ---


def liar(backbone, questions, decoding, *, model, done=(), **rest):
    """Answers like a base: descriptions with inventions, yes to every second question."""
    for question in questions:
        draw = random.Random(question.question_id)
        if question.benchmark == "description":
            text = captions.perfect_caption(world.sample(draw), draw)
        else:
            text = draw.choice(["Yes.", "No.", "Yes.", "Hm."])
        assert rest["prompt"] == "train"
        yield Answer(
            question_id=question.question_id,
            benchmark=question.benchmark,
            split=question.split,
            model=model,
            image_id=question.image_id,
            text=text,
            tokens=9,
            finish="length" if question.image_id.endswith("3") else "stop",
        )


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Opens prepare of a small mined world; no model is loaded, a liar answers."""
    folder = tmp_path / "world"
    build(folder, seed=5, train_images=14, test_images=5)
    recipe = tmp_path / "mini.yaml"
    places = {
        "visual_genome": "VG",
        "coco": "coco2014",
        "pope": "POPE/output/coco",
        "shr": "shr",
        "vocabulary": "vocabulary.json",
    }
    data = {key: str(folder / place) for key, place in places.items()}
    settings = {"description_images": 10, "yes_no_pairs": 24}
    values = {"extends": "mini/llava-corrected", "data": data, "prepare": settings}
    recipe.write_text(yaml.safe_dump(values))
    monkeypatch.setattr(hadpo.generation, "generate", liar)
    monkeypatch.setattr(hadpo.backbones, "load", lambda *given, **rest: None)
    return lambda name="test", **overrides: open_prepare(recipe, name, **overrides)


def true_sentences_of(run):
    folder = Path(run.recipe.data.visual_genome).parent
    truth = json.loads((folder / "truth.json").read_text())
    return {key: set(value["sentences"]) for key, value in truth.items()}


def test_mined_descriptions_are_true_and_as_long_as_what_the_model_said(mini):
    run = mini()
    counts = prepare(run)
    truth = true_sentences_of(run)
    own = {a.question_id: a for a in rows(run, "own_answers.jsonl", Answer)}
    pairs = [p for p in rows(run, "pairs.jsonl", Pair) if p.kind == "description"]
    assert len(pairs) >= 5
    for pair in pairs:
        assert pair.rejected == own[pair.pair_id].text and pair.source == "mined"
        chosen, rejected = sentences(pair.chosen), sentences(pair.rejected)
        assert len(chosen) == len(rejected)
        assert {s + "." for s in chosen} <= truth[pair.image_id]
        assert not {s + "." for s in rejected} <= truth[pair.image_id]
        assert pair.instruction in hadpo_pairs.INSTRUCTIONS
    unfinished = [a for a in own.values() if a.benchmark == "description" and a.finish == "length"]
    assert counts["descriptions"] == 10
    assert counts["descriptions: not finished, left out"] == len(unfinished) > 0
    left_out = sum(n for k, n in counts.items() if k.startswith("descriptions: "))
    assert left_out + len(pairs) == 10


def test_mined_questions_are_balanced_and_mistakes_come_first(mini):
    run = mini()
    counts = prepare(run)
    truth = true_sentences_of(run)
    pairs = [p for p in rows(run, "pairs.jsonl", Pair) if p.kind == "pope"]
    assert Counter(p.chosen for p in pairs) == {"Yes.": 12, "No.": 12}
    assert {(p.chosen, p.rejected) for p in pairs} == {("Yes.", "No."), ("No.", "Yes.")}
    for pair in pairs:
        name = pair.instruction.removeprefix("Is there a").removeprefix("n").split()[0]
        there = any(f" {name}." in sentence for sentence in truth[pair.image_id])
        assert there == (pair.chosen == "Yes.")
    own = {a.question_id: a.text for a in rows(run, "own_answers.jsonl", Answer)}
    wrong = [p for p in pairs if own[p.pair_id.rpartition("-")[0]] == p.rejected]
    for label, text in (("yes", "Yes."), ("no", "No.")):
        mistakes = counts[f"questions: truth {label}, answered wrong"]
        assert sum(p.chosen == text for p in wrong) == min(12, mistakes)
    assert counts["questions: answer neither yes nor no, left out"] > 0


def test_nothing_that_is_evaluated_is_mined(mini):
    run = mini()
    assert prepare(run)["images trained on and evaluated"] == 0
    folder = Path(run.recipe.data.visual_genome).parent
    split = json.loads((folder / "split.json").read_text())
    mined = {p.image_id for p in rows(run, "pairs.jsonl", Pair)}
    assert mined <= {str(key) for key in split["train"]}
    asked = {q.image_id for q in rows(run, "questions.jsonl", Question)}
    assert {str(key) for key in split["test"]} <= asked
    assert rows(run, "evidence.jsonl", Evidence)


def test_a_killed_run_goes_on_where_it_stopped(mini, monkeypatch):
    whole = mini("whole")
    prepare(whole)

    asked = []

    def killed(backbone, questions, decoding, **rest):
        for answer in liar(backbone, questions, decoding, **rest):
            asked.append(answer.question_id)
            if len(asked) == 30:
                raise KeyboardInterrupt
            yield answer

    run = mini("killed")
    monkeypatch.setattr(hadpo.generation, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(run)
    with run.path("own_answers.jsonl").open("a") as file:
        file.write('{"question_id": "torn')
    prepare(run)
    assert len(asked) == len(set(asked)) + 1  # only the one that was under way is asked again
    for name in ("pairs.jsonl", "own_answers.jsonl", "counts.json"):
        assert whole.path(name).read_text() == run.path(name).read_text(), name

    def load(*given, **rest):
        raise AssertionError("no model is needed: everything is answered")

    monkeypatch.setattr(hadpo.backbones, "load", load)
    prepare(run)


def test_answers_of_other_weights_are_refused(mini, tmp_path, monkeypatch):
    run = mini("weights")
    prepare(run)
    inputs = run.manifest.facts["inputs"]
    assert {"VG/image_data.json", "coco2014/objects.json", "vocabulary.json"} <= inputs.keys()
    key = "llava-v1.5-mini/model.safetensors"
    assert len(inputs[key]) == 64
    run.note(inputs=inputs | {key: "0" * 64})  # as if other weights had answered
    with pytest.raises(BadInput, match=r"own_answers\.jsonl was begun .* llava-v1\.5-mini/model\."):
        prepare(run)
    run.path("own_answers.jsonl").unlink()
    prepare(run)
    assert run.manifest.facts["inputs"] == inputs


@pytest.mark.parametrize(
    ("settings", "sampled"),
    [({}, 5), ({"sampled_share": 0.0}, 0), ({"temperature": 0.0}, 0), ({"sampled_share": 1.0}, 10)],
)
def test_a_share_of_the_descriptions_is_sampled(mini, settings, sampled):
    run = mini(**settings)
    prepare(run)
    answers = rows(run, "own_answers.jsonl", Answer)
    ways = Counter(a.split for a in answers if a.benchmark == "description")
    assert (ways["sampled"], ways["greedy"]) == (sampled, 10 - sampled)


def test_more_images_than_there_are_is_counted(mini):
    counts = prepare(mini(description_images=20, yes_no_pairs=0))
    assert counts["images to mine"] == 14
    assert counts["images asked for and not there"] == 6
    assert counts["pairs: pope"] == 0


def test_no_pair_at_all_is_an_error(mini):
    with pytest.raises(BadInput, match="no pairs"):
        prepare(mini(description_images=0, yes_no_pairs=0))


def test_instructions_follow_the_seed():
    images = [Evidence(image_id=str(n), image="", width=1, height=1) for n in range(30)]

    def instructions(seed):
        settings = mine.PrepareConfig(prepare_seed=seed)
        asked = mine.description_questions(images, settings)
        return [q.text for q in [*asked["sampled"], *asked["greedy"]]]

    assert set(instructions(1)) == set(hadpo_pairs.INSTRUCTIONS)
    assert instructions(1) == instructions(1) != instructions(2)
