"""The runs of the headline: what is registered, and what is measured beyond the benchmarks."""

import pytest

import hadpo
from hadpo import adapter, config
from hadpo.records import Question
from hadpo.tables.results import REPRODUCED
from tools.claims import beyond
from tools.claims.__main__ import RUNS
from tools.claims.jobs import (
    ABLATIONS,
    DEFECTS,
    LENGTHS,
    RATES,
    SEEDS,
    WORLDS,
    confirm,
    defects,
    families,
    search,
)


def test_every_method_gets_the_same_search_on_a_world_that_no_report_uses():
    firsts, jobs = search()
    assert len(jobs) == len(RATES) * len(LENGTHS) == 10
    assert {job.earlier for job in jobs} == {first.name for first in firsts} == {"search"}
    for job in jobs:
        recipe = config.load_recipe(job.recipe, dict(job.settings["train"]))
        assert recipe.train.controls == "sft,sft_true,sft_flawless,dpo_alone"
        assert recipe.train.control_learning_rate == recipe.train.control_steps == ""
        assert recipe.evaluate.benchmark_names == "claims"
        assert recipe.data.mini_seed not in (
            *WORLDS,
            config.load_recipe("mini/llava").data.mini_seed,
        )


def test_the_headline_has_five_training_seeds_on_each_of_two_worlds():
    firsts, jobs = confirm()
    worlds = {first.name: first.settings["prepare"]["mini_seed"] for first in firsts}
    assert sorted(worlds.values()) == sorted(WORLDS)
    seen = {(worlds[job.earlier], job.settings["train"]["train_seed"]) for job in jobs}
    assert seen == {(world, seed) for world in WORLDS for seed in SEEDS}
    assert len(jobs) == 10


def test_every_backbone_is_run_and_each_ablation_has_three_seeds_on_one_world():
    firsts, jobs = families()
    of = {first.name: first for first in firsts}
    few = [job for job in jobs if job.earlier.startswith("few-")]
    assert sorted(job.name for job in few) == sorted(
        f"few-{name}-seed-{seed}" for name in ABLATIONS for seed in (1, 2, 3)
    )
    worlds = set()
    for job in few:
        prepare = config.load_recipe(job.recipe, dict(of[job.earlier].settings.get("prepare", {})))
        train = config.load_recipe(job.recipe, dict(job.settings["train"])).train
        assert (train.steps, train.controls) == (80, "")
        worlds.add((prepare.data.mini_seed, prepare.data.mini_train_images))
        assert prepare.data.mini_test_images == 60
    assert worlds == {(7, 150)}
    assert {job.recipe.partition("/")[2].partition("-")[0] for job in jobs} == {
        *("llava", "minigpt4", "instructblip", "mplug", "hf", "lrv", "hic")
    }


def test_every_committed_run_is_one_that_the_tool_makes():
    made = [job for what in RUNS.values() for part in what() for job in part]
    kept = {path.parent.parent for path in REPRODUCED.rglob("manifest.json")}
    assert kept
    assert kept == {job.target / job.name for job in made}


@pytest.fixture(scope="module")
def model() -> hadpo.Model:
    return hadpo.load("mini/llava")


def test_drift_is_zero_before_training_and_grows_with_the_adapter(model, tmp_path):
    from PIL import Image

    picture = tmp_path / "grey.png"
    Image.new("RGB", (96, 96), "grey").save(picture)
    asked = [
        Question(
            question_id=f"claims-{n}",
            benchmark="neutral",
            split="place",
            image_id=str(n),
            image=str(picture),
            text="What is at the top left?",
        )
        for n in range(2)
    ]
    said = model.answers(asked, max_new_tokens=40)
    adapter.attach(model.backbone, rank=2, alpha=4, targets="q_proj", seed=1)
    try:
        assert [nats for nats, _ in beyond._drift(model, asked, said)] == [0.0, 0.0]
        weights = adapter.state(model.backbone)
        adapter.restore(model.backbone, {k: v + 0.05 for k, v in weights.items()}, where="test")
        small = beyond._drift(model, asked, said)
        adapter.restore(model.backbone, {k: v + 0.3 for k, v in weights.items()}, where="test")
        large = beyond._drift(model, asked, said)
    finally:
        adapter.detach(model.backbone)
    tokens = len(model.backbone.response_ids(said[0].text))
    assert [count for _, count in small] == [tokens, tokens]
    assert 0 < small[0][0] < large[0][0]
    assert small[0] == pytest.approx(small[1])


def test_a_process_of_several_that_exchange_nothing_sees_its_share_of_batches_and_data():
    whole = config.load_recipe("mini/llava-worlds")
    for name, count in {"unsynchronised-2": 2, "unsynchronised-4": 4}.items():
        prepare, train = DEFECTS[name]["prepare"], DEFECTS[name]["train"]
        assert train["batch_pairs"] * count == whole.train.batch_pairs
        assert prepare["description_images"] * count == whole.prepare.description_images
        assert prepare["yes_no_pairs"] * count == whole.prepare.yes_no_pairs
    firsts, jobs = defects()
    assert len(jobs) == len(DEFECTS) * len(WORLDS) * len(SEEDS)
    prepared = {first.name for first in (*firsts, *confirm()[0])}
    assert {job.earlier for job in jobs} == prepared
    for job in jobs:
        settings = dict(job.settings["train"])
        assert config.load_recipe(job.recipe, settings, stage="train").train.controls == ""
