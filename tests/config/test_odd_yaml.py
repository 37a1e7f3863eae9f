"""Recipes that nobody writes on purpose: each is one message, none is read in silence."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hadpo import config
from hadpo.records import BadInput
from hadpo.runs import read_overrides

NINE = ", ".join(["*{}"] * 9)
LEVELS = zip("abcdef", "bcdefg", strict=True)
BOMB = "\n".join(f"{b}: &{b} [{NINE.replace('{}', a)}]" for a, b in LEVELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: t\ntrain:\n  beta: 0.1\n  beta: 0.9\n", r"r\.yaml:4: the key 'beta' stands twice"),
        ("title: t\ntitle: u\n", r"r\.yaml:2: the key 'title' stands twice"),
        ("title: t\nmodel:\n  backbone: b\n  files: {a: x, 'a': y}\n", "4: the key 'a' stands twi"),
        ("title: t\ntrain: {steps: " + "9" * 5000 + "}\n", "2: a number of 5000 digits"),
        ("title: t\ntrain: {train_seed: 9223372036854775808}\n", r"train\.train_seed: .*less than"),
        ("title: t\ntrain: {beta: -.inf}\n", r"train\.beta"),
        ("title: t\ntrain: {steps: .nan}\n", r"train\.steps"),
        ("title: " + "[" * 3000, "1: lists and mappings are nested too deeply"),
        ("title: t\ntrain: " + "{a: " * 30 + "1" + "}" * 30, "nested too deeply"),
        ("a: &a [x, x, x]\n" + BOMB + "\n", "5: more than 10,000 values, its aliases written out"),
        ("title: &a [*a]\n", "1: an alias of the value that it stands in"),
        ("train: &a {beta: *a}\n", "1: an alias of the value that it stands in"),
        ("title: 2020-13-45\n", r"r\.yaml: cannot be read \(month"),
        ("title: t\nextends: [mini/llava]\n", r"extends: expected the name of one recipe, found"),
        ("title: t\nextends: 5\n", r"extends: expected the name of one recipe, found '5'"),
        ("title: t\nextends: {train: {}}\n", r"extends: expected the name of one recipe, found"),
        ("title: t\nextends: ''\n", "no recipe ''"),
        ("title: t\nextends: " + "x" * 5000 + "\n", "no recipe 'xxx"),
        ("title: t\ntrain: 5\n", r"r\.yaml: train: expected settings by name, found '5'"),
        ("title: t\ntrain: [beta]\n", r"train: expected settings by name, found"),
        ("title: t\n? {a: b}\n: c\n", r"r\.yaml:2: expected a name before the colon, found a list"),
        ("title: t\ntrain: {? [beta] : 1}\n", r"r\.yaml:2: expected a name before the colon"),
        ('title: "a\\ud800"\n', r"r\.yaml:1: half of a character"),
        ('title: t\ntrain: {"\\udfff": 1}\n', r"r\.yaml:2: half of a character"),
        ("title: t\ntrain: {lora_targets: q_proj;k_proj}\n", r"train\.lora_targets: .*q_proj;k_p"),
        ("title: t\n1: 2\n", r"r\.yaml: 1: expected settings by name, found no name"),
        ("title: t\ntrain:\n  steps: 010\n", r"r\.yaml:3: 010 would be read as 8; write that"),
        ("title: t\ntrain: {steps: 1:30}\n", r"r\.yaml:2: 1:30 would be read as 90; write that"),
        ("title: t\ntrain: {beta: 1:30.5}\n", r"r\.yaml:2: 1:30\.5 would be read as 90\.5; write"),
        (
            "title: t\ntrain: {beta: 1.0e-400}\n",
            r"r\.yaml:2: 1\.0e-400 would be read as 0\.0; write",
        ),
        (
            f"title: t\ntrain: {{beta: 0.{'0' * 400}1}}\n",
            r"r\.yaml:2: 0\.0+1 would be read as 0\.0",
        ),
        ("title: t\ntrain: {beta: 1e-400}\n", r"train\.beta: expected 0, or a number"),
        ("title: t\ntrain: {steps: -0_7}\n", r"r\.yaml:2: -0_7 would be read as -7; write that"),
        (
            "title: t\ntrain: {lora_targets: ' , '}\n",
            r"train\.lora_targets: expected one name or mo",
        ),
        ("title: t\nevaluate: {models: ''}\n", r"evaluate\.models: expected one name or more"),
        ("false\n", "expected settings by name, found bool"),
        ("title: t\nname: other\n", "name: a recipe is called as its file is; leave it out"),
        ("title: t\nstages: [prepare, trian]\n", "no stage 'trian'; did you mean 'train'"),
        ("title: t\nstages: [train, prepare]\n", "once and in this order"),
        ("title: t\nstages: [train, train]\n", "once and in this order"),
        ("title: t\nstages: []\n", "expected one or more of"),
        ("title: t\ntrain: {beta: true}\n", r"train\.beta: expected a number"),
        ("title: t\ntrain: {steps: yes}\n", r"train\.steps: expected a number"),
        ("title: t\nevaluate: {benchmark_names: 'pope,poep'}\n", "no 'poep'; did you mean 'pope'"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_one_message(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        config.load_recipe(str(tmp_path / "r.yaml"), {"lora_rank": 8})
    assert "r.yaml" in str(caught.value) or "no recipe" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_recipe_in_another_encoding_is_named(tmp_path):
    for encoding in ("utf-16", "latin-1"):
        (tmp_path / "r.yaml").write_bytes("title: été\n".encode(encoding))
        with pytest.raises(BadInput, match=r"r\.yaml: not UTF-8 \(byte \d+\); save it as UTF-8"):
            config.load_recipe(str(tmp_path / "r.yaml"))


def test_a_long_chain_of_recipes_ends(tmp_path):
    for number in range(40):
        text = f"title: t\nextends: {tmp_path / f'{number + 1}.yaml'}\n"
        (tmp_path / f"{number}.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"20\.yaml: extends: .* is too long a chain"):
        config.load_recipe(str(tmp_path / "0.yaml"))


def test_anchors_that_say_a_thing_once_are_read(tmp_path):
    text = "title: t\ntrain: &own {beta: 0.3}\nmerge: {}\n"
    (tmp_path / "r.yaml").write_text(text)
    assert config.load_recipe(str(tmp_path / "r.yaml")).train.beta == 0.3
    text = "title: t\nmodel:\n  backbone: llava/mini\n  files: {a: &x one, b: *x}\n"
    (tmp_path / "r.yaml").write_text(text)
    recipe = config.load_recipe(str(tmp_path / "r.yaml"))
    assert recipe.model and recipe.model.files == {"a": "one", "b": "one"}


def test_plain_numbers_are_read_as_they_stand(tmp_path):
    text = "title: '010'\ntrain: {steps: 0, beta: 0.5, train_seed: 1_000, learning_rate: 1.0e-6}\n"
    (tmp_path / "r.yaml").write_text(text)
    recipe = config.load_recipe(str(tmp_path / "r.yaml"))
    train = recipe.train
    assert (recipe.title, train.steps, train.beta, train.train_seed) == ("010", 0, 0.5, 1000)
    assert train.learning_rate == 1e-6


@pytest.mark.parametrize("text", ["title=\udcff", "t\ud800=1"])
def test_a_parameter_that_is_not_utf_8_is_named(text):
    with pytest.raises(BadInput, match=r"-p .*: not UTF-8"):
        read_overrides([text])


def test_of_a_parameter_that_is_given_twice_the_last_value_counts_with_a_warning(caplog):
    assert read_overrides(["beta=0.1", "steps=2"]) == {"beta": "0.1", "steps": "2"}
    assert not caplog.messages
    assert read_overrides(["beta=0.1", "beta=0.2"]) == {"beta": "0.2"}
    assert caplog.messages == ["-p beta is given twice; the last one counts: 0.2"]


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck)}
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3)
)
names = st.sampled_from([*config.section_types(), "title", "stages", "extends", "notes", "odd"])
fields = st.sampled_from(["beta", "steps", "files", "backbone", "models", "judge", "pope", "odd"])
recipes = st.dictionaries(names, values | st.dictionaries(fields | plain, values, max_size=3))


@settings(max_examples=100, **FUZZ)
@given(value=recipes, cut=st.integers(0, 9), put_in=st.binary(max_size=3))
def test_whatever_a_recipe_holds_only_bad_input_comes_out(tmp_path, value, cut, put_in):
    load_broken(tmp_path, value, cut, put_in)


@pytest.mark.slow
@settings(max_examples=400, **FUZZ)
@given(value=recipes, cut=st.integers(0, 9), put_in=st.binary(max_size=3))
def test_whatever_many_recipes_hold_only_bad_input_comes_out(tmp_path, value, cut, put_in):
    load_broken(tmp_path, value, cut, put_in)


def load_broken(folder, value, cut, put_in):
    content = yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    place = len(content) * cut // 9
    (folder / "r.yaml").write_bytes(content[:place] + put_in + content[place:])
    try:
        config.load_recipe(str(folder / "r.yaml"), {"lora_rank": 8})
    except BadInput as error:
        str(error).encode()
