"""The front door: README's Python block runs as it stands, and what it refuses it names."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hadpo
from hadpo.mini import files
from hadpo.records import BadInput, Pair, write_jsonl

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    files.build(folder, seed=11, train_images=16, test_images=6)
    return folder


@pytest.fixture(scope="module")
def pairs(world):
    path = world / "hadpo" / "llava-v1.5" / "desc_data.json"
    found = []
    for image_id, each in json.loads(path.read_text()).items():
        [image] = world.glob(f"VG/*/{image_id}.jpg")
        found.append(
            Pair(
                pair_id=image_id,
                image_id=image_id,
                image=str(image),
                instruction="Describe this image in detail.",
                chosen=each["chosen"][0],
                rejected=each["rejected"][0],
                kind="description",
                source="mini",
            )
        )
    return found


@pytest.fixture(scope="module")
def model():
    return hadpo.load("mini/llava")


def test_the_block_of_readme_runs_as_it_stands(world, pairs, tmp_path):
    [block] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "val2014").symlink_to(world / "coco2014" / "val2014")
    official = world / "POPE" / "output" / "coco" / "coco_pope_random.json"
    shutil.copyfile(official, tmp_path / official.name)
    photo = next(iter((world / "coco2014" / "val2014").iterdir()))
    shutil.copyfile(photo, tmp_path / "photo.jpg")
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("StepMetrics(") >= 2
    assert (tmp_path / "my-adapter" / "adapter_config.json").is_file()


def test_a_model_answers_a_plain_question(model, pairs):
    said = model.answer(pairs[0].image, "Describe this image in detail.", max_new_tokens=8)
    assert said.split() and len(said.split()) <= 8
    with pytest.raises(BadInput, match=r"nowhere\.jpg"):
        model.answer("nowhere.jpg", "Is there a dog?")
    with pytest.raises(BadInput, match=r"no preset .greddy.; did you mean .greedy."):
        model.answer(pairs[0].image, "Is there a dog?", decoding="greddy")


def test_training_lowers_the_loss_and_the_adapter_comes_back(model, pairs, tmp_path):
    found = list(
        hadpo.train(
            model,
            pairs[:4],
            steps=6,
            learning_rate=1e-3,
            batch_pairs=4,
            warmup_steps=0,
            log_every=1,
            controls="",
            gamma=0.0,
        )
    )
    losses = [step.metrics["loss"] for step in found]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < 0.6
    tuned = model.answer(pairs[0].image, "Describe this image in detail.")
    model.save_adapter(tmp_path / "mine")
    again = hadpo.load("mini/llava")
    with pytest.raises(BadInput, match="has no adapter to save"):
        again.save_adapter(tmp_path / "none")
    base = again.answer(pairs[0].image, "Describe this image in detail.")
    again.load_adapter(str(tmp_path / "mine"))
    assert again.answer(pairs[0].image, "Describe this image in detail.") == tuned
    assert base  # the base answers without an adapter, too


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"setps": 3}, "unknown parameter 'setps'.*did you mean 'steps'"),
        ({"beta": "much"}, "beta"),
        ({"steps": True}, "steps"),
    ],
)
def test_settings_are_checked(model, pairs, settings, message):
    with pytest.raises(BadInput, match=message):
        next(iter(hadpo.train(model, pairs, **settings)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mini/lava", "no folder, recipe or backbone 'mini/lava'; did you mean 'mini/llava'"),
        ("llava/1.5-7", "did you mean 'llava/1.5-7b'"),
    ],
)
def test_an_unknown_model_is_named_with_the_nearest(name, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        hadpo.load(name)


def test_a_folder_that_is_no_run_and_a_name_that_is_two(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"is no run with a finished merge"):
        hadpo.load(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini" / "llava").mkdir(parents=True)
    with pytest.raises(
        BadInput, match=r"'mini/llava' is a folder and a recipe; write ./mini/llava"
    ):
        hadpo.load("mini/llava")


def test_a_backbone_takes_the_files_of_the_recipe_that_uses_it():
    assert hadpo.load("llava/mini").backbone.name == "llava/mini"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = hadpo.laod
    assert {"load", "train", "evaluate", "read_pairs", "Model"} <= set(dir(hadpo))


def test_pairs_are_read_from_a_text_path(pairs, tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    assert hadpo.read_pairs(str(tmp_path / "pairs.jsonl")) == pairs
