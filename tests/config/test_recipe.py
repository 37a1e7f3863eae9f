import dataclasses
import typing

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


@pytest.mark.parametrize(
    ("section", "setting", "bad", "good"),
    [
        ("prepare", "held_out_share", (-0.1, 1.1), (0, 1)),
        ("prepare", "sampled_share", (-0.1, 1.1), (0, 1)),
        ("prepare", "temperature", (-0.1,), (0, 2)),
        ("prepare", "description_images", (-1,), (0,)),
        ("prepare", "max_new_tokens", (0,), (1,)),
        ("data", "mini_train_images", (-1,), (0,)),
        ("train", "description_share", (-0.5, -2, 1.5), (-1, 0, 0.5, 1)),
        ("train", "label_smoothing", (-0.1, 0.5), (0, 0.49)),
        ("train", "lora_dropout", (-0.1, 1), (0, 0.9)),
        ("train", "lora_rank", (0,), (1,)),
        ("train", "batch_pairs", (0,), (1,)),
        ("train", "learning_rate", (-1e-6,), (0,)),
        ("train", "steps", (-1,), (0,)),
        ("merge", "check_pairs", (0,), (1,)),
        ("evaluate", "shr_beams", (0,), (1,)),
        ("evaluate", "bootstrap_samples", (0,), (1,)),
        ("evaluate", "batch_questions", (-1,), (0, 1)),
        ("evaluate", "repetition_penalty", (0,), (0.5, 1)),
        ("evaluate", "questions_limit", (-1,), (0,)),
    ],
)
def test_a_value_out_of_range_is_refused(tmp_path, section, setting, bad, good):
    for value in bad:
        with pytest.raises(BadInput, match=rf"{section}\.{setting}: .*\(found {value}\)"):
            config.load_recipe(write(tmp_path / "r.yaml", **{section: {setting: value}}))
    for value in good:
        recipe = config.load_recipe(write(tmp_path / "r.yaml", **{section: {setting: value}}))
        assert getattr(getattr(recipe, section), setting) == value


def test_every_number_has_a_range():
    kinds = [
        hint
        for kind in config.section_types().values()
        for hint in typing.get_type_hints(kind, include_extras=True).values()
    ]
    assert len(kinds) > 40
    assert int not in kinds
    assert float not in kinds


def test_an_empty_section_sets_nothing(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("extends: mini/llava\ntitle: t\nmodel:\ntrain:\n")
    base = config.load_recipe("mini/llava")
    recipe = config.load_recipe(str(path), {"beta": 0.2})
    assert recipe.train == dataclasses.replace(base.train, beta=0.2)
    assert recipe.model == base.model
    path.write_text("title: t\ntrain:\n")
    assert config.load_recipe(str(path)).train == config.TrainConfig()


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


@pytest.mark.parametrize(
    ("recipe", "name", "value", "switch"),
    [
        *(
            ("photoset", name, value, {"pair_source": "mined"})
            for name, value in (
                ("description_images", 3),
                ("yes_no_pairs", 3),
                ("sampled_share", 0.2),
                ("temperature", 0.2),
                ("max_new_tokens", 20),
            )
        ),
        ("mini/llava", "pairs_schema", "minigpt4", {"pair_source": "published"}),
        ("mini/llava", "pairs_folder", "somewhere", {"pair_source": "published"}),
        ("mini/llava", "epochs", 2, {"steps": 0}),
        ("photoset", "mini_train_images", 5, {"mini_seed": 1}),
        ("photoset", "mini_test_images", 5, {"mini_seed": 1}),
        ("mini/llava", "mmhal_beams", 2, {"benchmark_names": "pope,mmhal"}),
        ("mini/llava", "chair_max_new_tokens", 9, {"benchmark_names": "chair"}),
        ("mini/llava", "claims_beams", 2, {"benchmark_names": "claims"}),  # SHR's answers are read
        ("mini/llava", "mmhal_judge_sees", "photo", {"benchmark_names": "mmhal", "judge": "llm"}),
    ],
)
def test_an_override_that_cannot_matter_is_refused(recipe, name, value, switch):
    with pytest.raises(BadInput, match=f"'{name}' has no effect while {next(iter(switch))} is"):
        config.load_recipe(recipe, {name: value})
    assert config.load_recipe(recipe, {name: value} | switch)  # with its switch it is taken
    assert config.load_recipe(recipe)  # what a recipe or a default says may lie unused


def test_what_a_benchmark_of_the_same_questions_reads_is_taken():
    """The control `base_cut` of claims cuts by SHR's segments; SHR's beams it does not read."""
    own = {"benchmark_names": "claims", "shr_segmentation": "grammar"}
    assert config.load_recipe("mini/llava", own).evaluate.shr_segmentation == "grammar"  # pyright: ignore
    with pytest.raises(BadInput, match=r"set benchmark_names with shr too$"):
        config.load_recipe("mini/llava", {"benchmark_names": "claims", "shr_beams": 2})
    whole = r"set benchmark_names with claims and not shr, whose answers it reads too$"
    with pytest.raises(BadInput, match=whole):
        config.load_recipe("mini/llava", {"claims_beams": 2})


def test_what_matters_with_what_names_real_settings():
    known = {
        name: setting
        for stage in config.SECTIONS
        for name, setting in config.settings(stage).items()
    }
    switched = [when for setting in known.values() for when in setting.when]
    assert len(switched) > 40
    for when in switched:
        assert known[when.name].section == when.section


def test_every_setting_says_what_it_does():
    for stage in config.SECTIONS:
        for setting in config.settings(stage).values():
            assert len(setting.help) > 5, setting
            assert "#" not in setting.help, setting
        assert set(config.MAIN[stage]) <= config.settings(stage).keys()


def test_the_comment_of_a_field_is_its_help():
    found = config.settings("train")
    assert found["beta"].help.startswith("How strongly the model is held to the reference")
    assert found["beta"].help.endswith("high, it hardly moves.")  # three lines above the field
    assert found["max_grad_norm"].help == "gradients are scaled down to this norm; 0: never"
    assert (found["beta"].type, found["loss"].type) == ("float", "sigmoid | ipo")
    assert (found["beta"].default, found["backbone"].default) == (0.1, "")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lora_rank", True, r"lora_rank: expected a number \(found True\)"),
        ("beta", False, "expected a number"),
        ("learning_rate", "1e-400", r"float64 can tell from 0 \(found '1e-400'\)"),
        ("beta", " -.5E-999", "float64 can tell from 0"),
        ("beta", f"0.{'0' * 400}1", "float64 can tell from 0"),
        ("benchmark_names", "pope,shhr", "no 'shhr'; did you mean 'shr'"),
        ("benchmark_names", ["pope", "shr"], "valid string"),
        ("models", "base,step-x", "no 'step-x'.*known: base, .*merged, served, sft, .*step-<n>"),
        ("judge", "orcale", "did you mean 'oracle'"),
        ("controls", "stf", "did you mean 'sft'"),
        ("trackers", "wandbb", "did you mean 'wandb'"),
        ("instructions", 3, "valid string"),
    ],
)
def test_a_truth_value_is_no_number_and_names_must_exist(name, value, message):
    with pytest.raises(BadInput, match=message):
        config.load_recipe("mini/llava", {name: value})


def test_a_setting_of_names_is_read_as_it_stands():
    assert config.names(" shr,pope , shr,, ") == ["shr", "pope", "shr"]
    assert config.names("") == []


def test_names_of_settings_are_unique_over_the_sections_of_a_stage():
    for stage, sections in config.SECTIONS.items():
        names = [
            f.name
            for section in sections
            for f in dataclasses.fields(config.section_types()[section])
        ]
        assert len(names) == len(set(names)), stage


def test_one_name_never_means_two_settings():
    owners = {}
    for section, kind in config.section_types().items():
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
        "allow_tf32": True,
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


OWN = """
from pydantic.dataclasses import dataclass
from hadpo.config import STRICT, AtLeastOne


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    {data}: str = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    {data}_beams: AtLeastOne = 3
"""


@pytest.fixture
def own_benchmark(tmp_path, monkeypatch):
    """Writes a benchmark that brings its own settings into a folder of plugins."""
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setenv("HADPO_PLUGINS", str(tmp_path))

    def write_it(name, data):
        (tmp_path / "benchmarks" / f"{name}.py").write_text(OWN.format(data=data))

    yield write_it
    monkeypatch.delenv("HADPO_PLUGINS")
    config.section_types()


def test_a_benchmark_brings_its_own_settings(tmp_path, own_benchmark):
    own_benchmark("glasses", "glasses")
    assert config.load_recipe("mini/llava").evaluate.glasses_beams == 3
    asked = {"benchmark_names": "glasses", "glasses": "there"}
    recipe = config.load_recipe("mini/llava", asked | {"glasses_beams": "4"})
    assert (recipe.evaluate.glasses_beams, recipe.data.glasses) == (4, "there")
    path = write(tmp_path / "r.yaml", evaluate={"glasses_beams": 5})
    assert config.load_recipe(path).evaluate.glasses_beams == 5
    assert config.settings("evaluate")["glasses_beams"].kind is int
    assert config.settings("evaluate")["glasses_beams"].section == "evaluate"
    for wrong, why in (({"glasses_beams": 0}, "greater than"), ({"glasses_beam": 1}, "'glasses_b")):
        with pytest.raises(BadInput, match=why):
            config.load_recipe("mini/llava", asked | wrong)
    path = write(tmp_path / "r.yaml", evaluate={"glasses_beam": 5})
    with pytest.raises(BadInput, match="unknown setting; did you mean 'glasses_beams'"):
        config.load_recipe(path)


def test_a_benchmark_cannot_take_a_name_that_is_there(own_benchmark):
    own_benchmark("goggles", "gavie")
    with pytest.raises(BadInput, match=r"goggles: its setting 'gavie\w*' is declared by \S+gavie"):
        config.section_types()
