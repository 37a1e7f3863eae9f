import dataclasses

import pytest
import yaml

from hadpo import config, plugins
from hadpo.records import BadInput


def write(path, **values):
    path.write_text(yaml.safe_dump({"title": "t"} | values))
    return str(path)


@pytest.mark.parametrize("name", config.recipe_names())
def test_every_recipe_loads(name):
    recipe = config.load_recipe(name)
    assert recipe.title
    assert recipe.model is not None or recipe.stages == ("compare",)


def test_extends_lays_settings_over_settings(tmp_path):
    base = write(tmp_path / "base.yaml", train={"beta": 0.3, "gamma": 0.7})
    top = write(tmp_path / "top.yaml", extends=base, train={"beta": 0.4})
    recipe = config.load_recipe(top)
    assert (recipe.train.beta, recipe.train.gamma) == (0.4, 0.7)


def test_a_recipe_that_extends_itself_is_an_error(tmp_path):
    path = tmp_path / "loop.yaml"
    write(path, extends=str(path))
    with pytest.raises(BadInput, match="extends itself"):
        config.load_recipe(str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"bata": 1}}, r"train\.bata: unknown setting; did you mean 'beta'"),
        ({"train": {"beta": "abc"}}, r"train\.beta: .* \(found 'abc'\)"),
        ({"train": {"steps": 2.5}}, r"train\.steps: .* \(found 2\.5\)"),
        ({"train": {"loss": "hinge"}}, r"train\.loss: .*'sigmoid'.*\(found 'hinge'\)"),
        ({"trian": {}}, "trian: unknown setting; did you mean 'train'"),
        ({"train": {"beta": float("nan")}}, r"train\.beta: .*finite"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, values, message):
    with pytest.raises(BadInput, match=message):
        config.load_recipe(write(tmp_path / "r.yaml", **values))


def test_yaml_1_1_reads_1e_6_as_text_and_we_still_get_a_number(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("title: t\ntrain: {learning_rate: 1e-6}\n")
    assert yaml.safe_load(path.read_text())["train"]["learning_rate"] == "1e-6"
    assert config.load_recipe(str(path)).train.learning_rate == 1e-6


def test_broken_yaml_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "r.yaml").write_text("title: [")
    with pytest.raises(BadInput, match=r"r\.yaml: not YAML"):
        config.load_recipe(str(tmp_path / "r.yaml"))
    with pytest.raises(BadInput, match=r"no recipe 'mini/lava'.*did you mean 'mini/llava'"):
        config.load_recipe("mini/lava")


def test_an_override_belongs_to_its_stage():
    assert config.load_recipe("mini/llava", {"beta": "0.25"}, stage="train").train.beta == 0.25
    with pytest.raises(BadInput, match="unknown parameter 'beta' for stage merge"):
        config.load_recipe("mini/llava", {"beta": 0.2}, stage="merge")


def test_names_of_settings_are_unique_over_the_sections_of_a_stage():
    for stage, sections in config.SECTIONS.items():
        names = [
            f.name
            for section in sections
            for f in dataclasses.fields(config.SECTION_TYPES[section])
        ]
        assert len(names) == len(set(names)), stage


def test_one_name_never_means_two_settings():
    owners = {}
    for section, kind in config.SECTION_TYPES.items():
        for field in dataclasses.fields(kind):
            assert owners.setdefault(field.name, section) == section


def test_an_unknown_path_variable_is_an_error():
    with pytest.raises(BadInput, match="unknown variable"):
        config.resolve_path("${HOME}/x")


# HA-DPO's README commands and script defaults, spec by spec: what the papers' runs were given.
PUBLISHED = {
    "llava-1.5-7b": {
        "beta": 0.1, "gamma": 0.0, "learning_rate": 2e-6, "warmup_steps": 0, "epochs": 1.0,
        "steps": 0, "batch_pairs": 128, "repeat_description": 2, "repeat_pope": 1,
        "lora_rank": 128, "lora_alpha": 256.0, "max_length": 2048, "train_seed": 42,
    },
    "instructblip-13b": {
        "beta": 0.1, "gamma": 0.0, "learning_rate": 4e-6, "warmup_steps": 0, "epochs": 1.0,
        "steps": 0, "batch_pairs": 32, "repeat_description": 1, "repeat_pope": 2,
        "lora_rank": 64, "lora_alpha": 16.0, "max_length": 300, "train_seed": 42,
    },
    "minigpt4-llama2-7b": {
        "beta": 0.1, "gamma": 0.5, "learning_rate": 1e-4, "warmup_steps": 100, "steps": 1000,
        "batch_pairs": 32, "repeat_description": 1, "repeat_pope": 1,
        "lora_rank": 64, "lora_alpha": 16.0, "max_length": 411, "train_seed": 42,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("twin", ["", "-v100"])
def test_the_published_settings(name, twin):
    recipe = config.load_recipe(name + twin)
    found = dataclasses.asdict(recipe.train)
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert found["schedule"] == "cosine" and found["lora_dropout"] == found["weight_decay"] == 0
    assert recipe.model.dtype == ("float16" if twin else "bfloat16")
    family, _, variant = recipe.model.backbone.partition("/")
    module = plugins.load("hadpo.backbones", family)
    assert variant in module.VARIANTS and set(recipe.model.files) <= set(module.PARTS)
    assert recipe.data.pairs_folder.startswith("${HADPO_DATA}/hadpo/")
