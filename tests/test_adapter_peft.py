"""Adapters as peft itself reads them: every field computes what peft computes, or is refused."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hadpo import adapter
from hadpo.records import BadInput
from tests.backbones.test_fields import ODD

ATTENTION = ["q_proj", "k_proj", "v_proj"]


def write(folder, model, *, change=(), **settings):
    """An adapter of random numbers that peft makes and saves; then its config is changed."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ATTENTION} | settings)
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(change)))
    return folder


def logits(backbone):
    ids = torch.tensor([[1, 5, 9, 13, 40, 77]])
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    with torch.no_grad():
        hidden = backbone.hidden_states(backbone.embed(ids), mask, torch.arange(6)[None])
        return hidden @ backbone.lm_head_weight.T


def by_peft(backbone, folder):
    PeftModel.from_pretrained(backbone.language_model, str(folder)).eval()
    return logits(backbone)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha_pattern": {"q_proj": 64}},
        {"alpha_pattern": {r"layers\.1\.self_attn\.v_proj": 32.5, "k_proj": 2}},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.0.self_attn.v_proj": 1}},
        {"rank_pattern": {r"model.layers.1.self_attn.(q|k)_proj": 7}},
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"layers_to_transform": [0], "layers_pattern": ["blocks", "layers"]},
        {"target_modules": ["self_attn.q_proj", "mlp.up_proj"]},
        {"target_modules": ["model.layers.1.self_attn.o_proj", "layers.0.mlp.down_proj"]},
        {"target_modules": r".*layers\.[01]\.(self_attn\.[qv]_proj|mlp\.gate_proj)"},
        {"target_modules": "all-linear"},
        {"target_modules": [*ATTENTION, "lm_head"]},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"exclude_modules": r".*\.1\..*k_proj"},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1},
    ],
)
def test_it_computes_what_peft_computes(tiny_llava, tmp_path, settings):
    folder = write(tmp_path / "a", tiny_llava().language_model, **settings)
    mine = tiny_llava()
    adapter.load(mine, folder)
    expected = by_peft(tiny_llava(), folder)
    effect = (expected - logits(tiny_llava())).abs().max()
    assert effect > 0.1
    assert (logits(mine) - expected).abs().max() < 1e-5 * effect

    adapter.save(mine, tmp_path / "b")  # ours again, in peft's hands and in ours
    again = tiny_llava()
    adapter.load(again, tmp_path / "b")
    assert torch.equal(logits(again), logits(mine))
    assert (by_peft(tiny_llava(), tmp_path / "b") - expected).abs().max() < 1e-5 * effect
    assert adapter.describe(tmp_path / "b")["LoRA modules"] > 0
    adapter.merge(mine)
    assert (logits(mine) - expected).abs().max() < 1e-5 * effect


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "lora_ga"},
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "lora_only"},
        {"bias": None},
        {"lora_bias": True},
        {"modules_to_save": ["embed_tokens"]},
        {"layer_replication": [[0, 2], [1, 2]]},
        {"fan_in_fan_out": True},
        {"trainable_token_indices": [3]},
        {"target_parameters": ["experts.up_proj"]},
        {"alora_invocation_tokens": [5]},
        {"peft_type": "LOHA"},
        {"a_later_field": 1},
        {"r": "16"},
        {"r": 0},
        {"r": True},
        {"r": None},
        {"lora_alpha": -8},
        {"lora_alpha": [8]},
        {"lora_dropout": 1.0},
        {"target_modules": {"q_proj": 1}},
        {"rank_pattern": {"q_proj": "4"}},
        {"alpha_pattern": [8]},
        {"alpha_pattern": None},
        {"rank_pattern": None},
        {"layers_to_transform": ["1"]},
    ],
)
def test_what_is_not_computed_is_refused_by_name(tiny_llava, tmp_path, change):
    folder = write(tmp_path, tiny_llava().language_model, change=change)
    ((field, value),) = change.items()
    with pytest.raises(BadInput) as error:
        adapter.load(tiny_llava(), folder)
    path = folder / "adapter_config.json"
    assert str(error.value).startswith(
        f"{path}: not a plain LoRA adapter: {field}: found {value!r}"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": "(("}, "target_modules and what goes with it"),
        ({"target_modules": []}, "which name no layer of the model"),
        ({"target_modules": ["q_porj"]}, r"found \['q_porj'\], which name no layer"),
        ({"layers_pattern": "layers"}, "layers_to_transform"),
        ({"layers_to_transform": [0]}, "unexpected 'base_model.model.model.layers.1"),
        ({"exclude_modules": ["k_proj"]}, "unexpected .*k_proj"),
        ({"rank_pattern": {"q_proj": 8}}, "q_proj.*the model needs"),
    ],
)
def test_places_and_weights_must_agree(tiny_llava, tmp_path, change, message):
    folder = write(tmp_path, tiny_llava().language_model, change=change)
    with pytest.raises(BadInput, match=message) as error:
        adapter.load(tiny_llava(), folder)
    assert str(folder) in str(error.value)


def respell(folder, spell):
    path = folder / "adapter_model.safetensors"
    save_file({spell(key): value for key, value in load_file(path).items()}, path)


BARE = "base_model.model.model."


@pytest.mark.parametrize(
    "spell",
    [
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.replace(BARE, "base_model.model.model.language_model."),
        lambda key: key.replace(BARE, "base_model.model.language_model.model."),
        lambda key: key.removeprefix("base_model.model."),
        lambda key: "module." + key,
        lambda key: "_orig_mod.module." + key.replace(".weight", ".default.weight"),
    ],
)
@pytest.mark.parametrize("targets", [ATTENTION, r".*\.(q|k|v)_proj"])
def test_keys_of_other_writers(tiny_llava, tmp_path, spell, targets):
    folder = write(tmp_path, tiny_llava().language_model)
    expected = by_peft(tiny_llava(), folder)
    respell(folder, spell)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": targets}))
    mine = tiny_llava()
    adapter.load(mine, folder)
    assert (logits(mine) - expected).abs().max() < 1e-4


def test_an_expression_is_matched_against_the_names_of_its_writer(tiny_llava, tmp_path):
    """`language_model` stands in the names of transformers' class, not in ours."""
    folder = write(tmp_path, tiny_llava().language_model)
    expected = by_peft(tiny_llava(), folder)
    path = folder / "adapter_config.json"
    places = {"target_modules": r".*language_model\..*\.(q|k|v)_proj", "r": 9, "lora_alpha": 99}
    places |= {"rank_pattern": {r".*language_model.*": 4}, "alpha_pattern": {r"\w+.language.*": 8}}
    path.write_text(json.dumps(json.loads(path.read_text()) | places))
    with pytest.raises(BadInput, match="which name no layer"):
        adapter.load(tiny_llava(), folder)
    respell(folder, lambda key: key.replace(BARE, BARE + "language_model."))
    mine = tiny_llava()
    adapter.load(mine, folder)
    assert (logits(mine) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    ],
)
def test_weights_of_other_parts_are_named(tiny_llava, tmp_path, key):
    folder = write(tmp_path, tiny_llava().language_model)
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {key: torch.ones(4, 32)}, path)
    with pytest.raises(BadInput, match=f"unexpected '{key}'"):
        adapter.load(tiny_llava(), folder)


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(tiny_llava, tmp_path, half, value):
    folder = write(tmp_path, tiny_llava().language_model)
    key = f"base_model.model.model.layers.1.self_attn.k_proj.{half}.weight"
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights[key][0, 1] = value
    save_file(weights, path)
    with pytest.raises(BadInput, match=f"'{key}' holds NaN or infinite numbers"):
        adapter.load(tiny_llava(), folder)


@pytest.mark.parametrize(
    "name",
    [
        *("non_lora_trainables.bin", "non_lora_trainables.safetensors", "mm_projector.bin"),
        *("non_lora_state_dict.bin", "projector.pt", "connector.pth"),
    ],
)
@pytest.mark.parametrize("start", ["", "base_model.model."])
def test_a_projector_beside_the_adapter_is_read_under_any_name(tiny_llava, tmp_path, name, start):
    folder = write(tmp_path, tiny_llava().language_model)
    own = tiny_llava().connector_parameters()
    tuned = {start + key: value.data + 0.02 for key, value in own.items()}
    if name.endswith(".safetensors"):
        save_file(tuned, folder / name)
    else:
        torch.save({"model": tuned} if name.endswith(".pth") else tuned, folder / name)
    torch.save({"step": 1}, folder / "training_args.bin")  # a trainer's, which says nothing
    mine = tiny_llava()
    adapter.load(mine, folder)
    for key, value in mine.connector_parameters().items():
        assert torch.equal(value.data, own[key].data + 0.02)
    torch.save(tuned, folder / "another.bin")
    with pytest.raises(BadInput, match=r"several files of weights.*another\.bin"):
        adapter.load(tiny_llava(), folder)


def test_weights_beside_the_adapter_that_fit_nothing_are_named(tiny_llava, tmp_path):
    folder = write(tmp_path, tiny_llava().language_model)
    save_file({"vision.head.weight": torch.ones(3)}, folder / "tower.safetensors")
    with pytest.raises(BadInput, match=r"tower\.safetensors.*\n.*\n.*unexpected 'vision\.head"):
        adapter.load(tiny_llava(), folder)


def test_of_two_files_peft_reads_the_safetensors(tiny_llava, tmp_path, caplog):
    folder = write(tmp_path, tiny_llava().language_model)
    weights = load_file(folder / "adapter_model.safetensors")
    torch.save({k: v * 0 for k, v in weights.items()}, folder / "adapter_model.bin")
    mine = tiny_llava()
    adapter.load(mine, folder)
    assert (logits(mine) - by_peft(tiny_llava(), folder)).abs().max() < 1e-4
    assert "left out: adapter_model.bin" in caplog.text


@pytest.mark.parametrize(
    ("base", "is_taken"),
    [
        ("/data/minigpt4-project/weights/llava-v1.5-7b", True),
        ("instructblip/exports/vicuna-7b", True),
        ("/models/llava-vs-minigpt4/7b/", True),
        ("someone/llava-minigpt4-mix", True),
        ("meta-llama/Llama-2-7b-chat-hf", True),
        ("/data/llava/instructblip-vicuna-7b", False),
        ("minigpt4/vicuna0", False),
        ("MAGAer13/mplug-owl-llama-7b-ft", False),
        ("me/MiniGPT-4-merged/", False),
    ],
)
def test_the_last_part_of_a_path_says_the_family(tiny_llava, tmp_path, base, is_taken):
    change = {"base_model_name_or_path": base}
    folder = write(tmp_path, tiny_llava().language_model, change=change)
    if is_taken:
        adapter.load(tiny_llava(), folder)
        return
    with pytest.raises(BadInput, match="change base_model_name_or_path there") as error:
        adapter.load(tiny_llava(), folder)
    assert repr(base) in str(error.value)


NEVER_READ = {"task_type", "auto_mapping", "peft_version", "revision"}  # peft refuses odd ones
NAMES = sorted({*LoraConfig().to_dict(), "x"} - NEVER_READ)
TARGETS = st.sampled_from(["q_proj", "all-linear", ".*v_proj", "((", ["k_proj", ""], [], ["."]])


@pytest.mark.slow
@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(change=st.dictionaries(st.sampled_from(NAMES), ODD | TARGETS, min_size=1, max_size=3))
def test_any_config_is_what_peft_computes_or_a_message(tiny_llava, tmp_path_factory, change):
    folder = tmp_path_factory.mktemp("fuzz")
    mine = tiny_llava()
    write(folder, tiny_llava().language_model, change=change)
    try:
        adapter.load(mine, folder)
    except BadInput as error:
        assert str(folder) in str(error)
    else:
        assert (logits(mine) - by_peft(tiny_llava(), folder)).abs().max() < 1e-4
