"""Fields of published configs: all that are known pass, what is not implemented is refused."""

import copy
import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import InstructBlipConfig, LlamaConfig, LlavaConfig

from hadpo import backbones
from hadpo.records import BadInput
from hadpo.vlm import checkpoint, fields
from hadpo.vlm.vision import ClipTower

# What transformers 4.31 wrote into every config and sub-config that it saved.
OLD_BASE = {
    **{"_name_or_path": "", "add_cross_attention": False, "architectures": None},
    **{"bad_words_ids": None, "begin_suppress_tokens": None, "bos_token_id": None},
    **{"chunk_size_feed_forward": 0, "cross_attention_hidden_size": None},
    **{"decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False},
    **{"early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": None},
    **{"exponential_decay_length_penalty": None, "finetuning_task": None},
    **{"forced_bos_token_id": None, "forced_eos_token_id": None},
    **{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False},
    **{"is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}},
    **{"length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0},
    **{"num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1},
    **{"output_attentions": False, "output_hidden_states": False, "output_scores": False},
    **{"pad_token_id": None, "prefix": None, "problem_type": None, "pruned_heads": {}},
    **{"remove_invalid_values": False, "repetition_penalty": 1.0, "return_dict": True},
    **{"return_dict_in_generate": False, "sep_token_id": None, "suppress_tokens": None},
    **{"task_specific_params": None, "temperature": 1.0, "tf_legacy_loss": False},
    **{"tie_encoder_decoder": False, "tokenizer_class": None, "top_k": 50, "top_p": 1.0},
    **{"torch_dtype": None, "torchscript": False, "transformers_version": "4.31.0"},
    **{"typical_p": 1.0, "use_bfloat16": False},
}
LLAMA_1 = {  # huggyllama, Vicuna
    **{"_name_or_path": "vicuna", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1},
    **{"eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02},
    **{"intermediate_size": 11008, "max_position_embeddings": 2048, "model_type": "llama"},
    **{"num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 0},
    **{"rms_norm_eps": 1e-06, "tie_word_embeddings": False, "torch_dtype": "float16"},
    **{"transformers_version": "4.28.1", "use_cache": True, "vocab_size": 32000},
}
LLAMA_2 = LLAMA_1 | {
    **{"num_key_value_heads": 32, "pretraining_tp": 1, "rope_scaling": None},
    **{"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "max_length": 4096},
    **{"attention_bias": False, "attention_dropout": 0.0, "rope_theta": 10000.0},
}
LLAVA = LLAMA_2 | {  # the authors' LLaVA-1.5
    **{"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava"},
    **{"freeze_mm_mlp_adapter": False, "freeze_mm_vision_resampler": False},
    **{"image_aspect_ratio": "pad", "mm_hidden_size": 1024, "mm_resampler_type": None},
    **{"mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False},
    **{"mm_use_im_start_end": False, "mm_vision_select_feature": "patch"},
    **{"mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14-336"},
    **{"tune_mm_mlp_adapter": False, "tune_mm_vision_resampler": False},
    **{"unfreeze_mm_vision_tower": False, "use_mm_proj": True, "mm_projector_lr": None},
}
EYE = {
    **{"attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu"},
    **{"hidden_size": 1024, "image_size": 336, "initializer_factor": 1.0},
    **{"initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-05},
    **{"num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": 24},
    **{"patch_size": 14, "projection_dim": 768, "model_type": "clip_vision_model"},
}
CLIP = {
    **{"_name_or_path": "clip", "architectures": ["CLIPModel"], "initializer_factor": 1.0},
    **{"logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 768},
    **{"text_config": OLD_BASE | {"vocab_size": 49408}, "text_config_dict": {"hidden_size": 768}},
    **{"vision_config": OLD_BASE | EYE, "vision_config_dict": {"hidden_size": 1024}},
    **{"torch_dtype": "float32", "transformers_version": None},
}
LLAVA_HUB = {
    **{"architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100},
    **{"image_token_index": 32000, "image_seq_length": 576, "model_type": "llava"},
    **{"pad_token_id": 32001, "projector_hidden_act": "gelu", "tie_word_embeddings": False},
    **{"multimodal_projector_bias": True, "vision_feature_layer": -2, "vocab_size": 32064},
    **{"vision_feature_select_strategy": "default", "torch_dtype": "float16"},
    "text_config": LLAMA_2 | {"vocab_size": 32064},
    "vision_config": EYE | {"vocab_size": 32000},
}
BLIP_HUB = {
    **{"architectures": ["InstructBlipForConditionalGeneration"], "model_type": "instructblip"},
    **{"initializer_factor": 1.0, "initializer_range": 0.02, "is_encoder_decoder": False},
    **{"num_query_tokens": 32, "tie_word_embeddings": False, "image_token_index": 32000},
    **{"use_decoder_only_language_model": True, "torch_dtype": "float32"},
    "text_config": OLD_BASE | LLAMA_1 | {"vocab_size": 32001, "max_sequence_length": 2048},
    "vision_config": OLD_BASE
    | {"attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "gelu", "hidden_size": 1408}
    | {"image_size": 224, "initializer_factor": 1.0, "initializer_range": 1e-10}
    | {"intermediate_size": 6144, "layer_norm_eps": 1e-06, "num_attention_heads": 16}
    | {"model_type": "instructblip_vision_model", "num_channels": 3, "num_hidden_layers": 39}
    | {"patch_size": 14, "projection_dim": 512, "qkv_bias": True, "tie_word_embeddings": True},
    "qformer_config": OLD_BASE
    | {"attention_probs_dropout_prob": 0.1, "classifier_dropout": None, "hidden_act": "gelu"}
    | {"cross_attention_frequency": 2, "encoder_hidden_size": 1408, "hidden_size": 768}
    | {"hidden_dropout_prob": 0.1, "initializer_range": 0.02, "intermediate_size": 3072}
    | {"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "pad_token_id": 0}
    | {"model_type": "instructblip_qformer", "num_attention_heads": 12, "vocab_size": 30523}
    | {"num_hidden_layers": 12, "position_embedding_type": "absolute"},
}
OWL = LLAMA_1 | {  # spec: the text's fields stand at the top, too
    **{"architectures": ["MplugOwlForConditionalGeneration"], "model_type": "mplug-owl"},
    **{"num_query_tokens": 64, "use_decoder_only_language_model": True},
    "text_config": OLD_BASE | LLAMA_1,
    "vision_config": OLD_BASE
    | {"attention_dropout": 0.0, "hidden_act": "quick_gelu", "hidden_size": 1024}
    | {"image_size": 224, "initializer_range": 0.02, "intermediate_size": 4096}
    | {"layer_norm_eps": 1e-06, "model_type": "mplug_owl_vision_model", "num_channels": 3}
    | {"num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14}
    | {"projection_dim": 768, "use_flash_attn": False},
    "visual_abstractor_config": OLD_BASE
    | {"attention_probs_dropout_prob": 0.1, "encoder_hidden_size": 1024, "hidden_size": 1024}
    | {"initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-06}
    | {"model_type": "mplug_owl_visual_abstract", "num_attention_heads": 16}
    | {"num_hidden_layers": 6},
}
PIXELS = [
    {  # CLIP of 2021, LLaVA's
        **{"crop_size": 336, "do_center_crop": True, "do_normalize": True, "do_resize": True},
        **{"feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 336},
        **{"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]},
    },
    {  # transformers' LLaVA
        **{"crop_size": {"height": 336, "width": 336}, "size": {"shortest_edge": 336}},
        **{"do_convert_rgb": True, "do_rescale": True, "rescale_factor": 0.00392156862745098},
        **{"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"},
    },
    {  # transformers' InstructBLIP
        **{"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True},
        **{"image_processor_type": "BlipImageProcessor", "resample": 3},
        **{"processor_class": "InstructBlipProcessor", "size": {"height": 224, "width": 224}},
    },
    {"resolution": 224, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},  # Owl's
]
LAYOUTS = {
    **{"llama-1": (LLAMA_1, "llama"), "llama-2": (LLAMA_2, "llama")},
    **{"llava": (LLAVA, "llava"), "clip": (CLIP, "clip")},
    **{"llava-hub": (LLAVA_HUB, "llava_hub"), "blip-hub": (BLIP_HUB, "instructblip_hub")},
    "owl": (OWL, "mplug_owl"),
    **{f"pixels-{i}": (config, "pixels") for i, config in enumerate(PIXELS)},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_field_of_the_published_files_is_known(name):
    config, table = LAYOUTS[name]
    fields.check(config, table, where=name)


@pytest.mark.parametrize(
    ("config", "table"),
    [
        (LlamaConfig(), "llama"),
        (LlavaConfig(), "llava_hub"),
        (InstructBlipConfig(text_config=LlamaConfig().to_dict()), "instructblip_hub"),
    ],
)
def test_what_the_installed_transformers_writes_is_known(config, table):
    fields.check(json.loads(config.to_json_string(use_diff=False)), table, where="config.json")


OTHERS = [  # layout, place, value: each computes something else, and is found by its name
    ("llava", "model_type", "llava_mistral"),
    ("llava", "model_type", "llava_qwen"),
    ("llava", "architectures", ["LlavaMptForCausalLM"]),
    ("llava", "sliding_window", 4096),
    ("llava", "mm_projector_type", "linear"),
    ("llava", "mm_vision_select_feature", "cls_patch"),
    ("llava", "mm_use_im_start_end", True),
    ("llava", "image_aspect_ratio", "anyres"),
    ("llava", "image_grid_pinpoints", [[336, 672]]),
    ("llava", "mm_resampler_type", "spatial_pool"),
    ("llava", "tie_word_embeddings", True),
    ("llava", "rope_scaling", {"type": "ntk-by-hand", "factor": 2.0}),
    ("llava", "rope_scaling", {"type": "linear", "factor": "2"}),
    ("llava", "partial_rotary_factor", 0.5),
    ("llava", "quantization_config", {"quant_method": "awq"}),
    ("llama-1", "model_type", "mistral"),
    ("llama-1", "architectures", ["MistralForCausalLM"]),
    ("llama-2", "hidden_act", "no-such-activation"),
    ("llama-2", "attention_dropout", 0.1),
    ("llama-2", "residual_multiplier", 0.22),
    ("clip", "model_type", "siglip"),
    ("clip", "vision_config.model_type", "siglip_vision_model"),
    ("clip", "vision_config.num_channels", 1),
    ("clip", "vision_config.hidden_act", 3),
    ("clip", "vision_config.use_head", True),
    ("llava-hub", "model_type", "vipllava"),
    ("llava-hub", "projector_hidden_act", "relu"),
    ("llava-hub", "vision_feature_layer", [-2, -5]),
    ("llava-hub", "vision_feature_select_strategy", "full"),
    ("llava-hub", "multimodal_projector_bias", False),
    ("llava-hub", "text_config.model_type", "mistral"),
    ("llava-hub", "vision_config.model_type", "pixtral"),
    ("blip-hub", "model_type", "blip-2"),
    ("blip-hub", "text_config.model_type", "opt"),
    ("blip-hub", "vision_config.hidden_act", "relu"),
    ("blip-hub", "vision_config.qkv_bias", False),
    ("blip-hub", "vision_config.layer_norm_eps", 1e-5),
    ("blip-hub", "qformer_config.hidden_act", "relu"),
    ("blip-hub", "qformer_config.layer_norm_eps", 1e-6),
    ("blip-hub", "qformer_config.position_embedding_type", "relative_key"),
    ("blip-hub", "use_decoder_only_language_model", False),
    ("owl", "model_type", "mplug-owl2"),
    ("owl", "text_config.model_type", "bloom"),
    ("owl", "vision_config.attention_dropout", 0.1),
    ("owl", "visual_abstractor_config.grid_size", 32),
    ("pixels-0", "resample", 2),
    ("pixels-0", "image_std", [0.0, 1.0, 1.0]),
    ("pixels-1", "image_mean", [122.8, 116.7, 104.1]),
    ("pixels-1", "image_mean", [-0.1, 0.5, 0.5]),
    ("pixels-1", "image_std", [1e-30, 1, 1]),
    ("pixels-1", "image_std", [68.5, 66.6, 70.3]),
    ("pixels-1", "do_normalize", False),
    ("pixels-1", "rescale_factor", 1.0),
    ("pixels-1", "do_flip", True),
    ("pixels-2", "size", {"longest_edge": 224}),
]


@pytest.mark.parametrize(("name", "place", "value"), OTHERS)
def test_a_value_that_nobody_implements_is_refused_by_name(name, place, value):
    config, table = LAYOUTS[name]
    config = copy.deepcopy(config)
    *path, field = place.split(".")
    inner = config
    for step in path:
        inner = inner[step]
    inner[field] = value
    with pytest.raises(BadInput) as error:
        fields.check(config, table, where="a/config.json")
    assert str(error.value).startswith(f"a/config.json: {place}: found {fields.shown(value)}, ")


def test_true_is_no_number_and_problems_come_together():
    changed = LLAMA_2 | {"num_hidden_layers": True, "vocab_size": "32000", "sinks": 4}
    with pytest.raises(BadInput) as error:
        fields.check(changed, "llama", where="config.json")
    assert str(error.value) == (
        "config.json: num_hidden_layers: found True, expected a whole number from 1 to 1000; "
        "vocab_size: found '32000', expected a whole number from 1 to 16777216; "
        "sinks: found 4, a field that no file of this kind has"
    )


def test_an_old_copy_of_the_towers_fields_must_say_the_same():
    config = CLIP | {"vision_config_dict": {"hidden_size": 768}}
    with pytest.raises(BadInput, match=r"vision_config_dict\.hidden_size: found 768"):
        fields.clip_section(config, where="config.json")
    assert fields.clip_section(CLIP, where="config.json")["patch_size"] == 14


# The same through the loader: tiny LLaVA.


@pytest.fixture
def changed(tiny_files, tmp_path):
    """A copy of the tiny LLaVA's files, its config or its weights changed."""

    def change(part="language_model", config=(), file="config.json", weights=None, name="copy"):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_files[part], folder)
        path = folder / file
        values = json.loads(path.read_text()) if path.is_file() else {}
        values |= dict(config)
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
        if weights:
            found = weights(load_file(folder / "model.safetensors"))
            save_file({k: v.contiguous() for k, v in found.items()}, folder / "model.safetensors")
        return {**tiny_files, part: folder}

    return change


def load(files):
    return backbones.load("llava/mini", files, dtype="float32", device="cpu")


def test_a_field_that_is_read_reaches_the_model(changed):
    rope = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    config = load(changed(config=rope | {"hidden_act": "gelu"})).language_model.config
    assert config.rope_parameters["rope_theta"] == 5e5
    assert (config.rope_parameters["rope_type"], config.rope_parameters["factor"]) == ("linear", 2)
    assert config.hidden_act == "gelu"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mm_vision_select_layer": -9}, r"vision_feature_layer -9, but the tower has 3 layers"),
        ({"mm_vision_select_layer": [-2]}, r"mm_vision_select_layer: found \[-2\], expected"),
        ({"mm_vision_select_layer": "-2"}, "mm_vision_select_layer: found '-2', expected"),
        ({"rope_scaling": {"type": "weird"}}, "rope_scaling: found {'type': 'weird'}, expected"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads"),
        ({"num_attention_heads": 5}, "no LLaMA can be built of its sizes"),
        ({"mm_vision_select_layer": ...}, "no LLaVA"),
        ({"rms_norm_eps": ...}, "no rms_norm_eps"),
        ({"vocab_size": None}, "vocab_size: found None"),
        ({"unfreeze_mm_vision_tower": True}, "hold no vision_tower"),
    ],
)
def test_sizes_that_do_not_fit_together(changed, config, message):
    files = changed(config=config)
    with pytest.raises(BadInput, match=message) as error:
        load(files)
    assert str(files["language_model"]) in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"crop_size": 336}, "crop_size 336, but the vision encoder takes 28"),
        ({"size": {"shortest_edge": 32}}, "size 32, but the vision encoder takes 28"),
        ({"size": {"height": 28, "width": 30}}, "size 28x30, but"),
        ({"image_mean": None}, "image_mean: found None, expected a list of three numbers"),
    ],
)
def test_pixels_that_the_encoder_does_not_take(changed, config, message):
    with pytest.raises(BadInput, match=r"preprocessor_config\.json: " + message):
        load(changed(part="vision", config=config, file="preprocessor_config.json"))


def test_a_tower_that_does_not_fit_together_is_named_by_its_own_file(changed):
    files = changed(part="vision", config={"num_attention_heads": 5}, name="eye")
    config = json.loads((files["vision"] / "config.json").read_text())
    if "vision_config" in config:
        inner = config["vision_config"] | {"num_attention_heads": 5}
        files = changed(part="vision", config={"vision_config": inner}, name="eye")
    with pytest.raises(BadInput, match=r"eye/config\.json: .*not a multiple"):
        load(files)


def test_a_tower_inside_the_checkpoint_must_be_the_one_that_is_read(changed, tiny_files):
    """LLaVA's own code reads it if it was tuned, else the folder: equal is fine, another is not."""
    tower = torch.load(tiny_files["vision"] / "pytorch_model.bin")
    start = "model.vision_tower.vision_tower."
    inside = {start + k: v for k, v in tower.items() if k.startswith("vision_model.enc")}

    def add(shift, dtype):
        cast = {k: (v + shift).to(dtype) for k, v in inside.items()}
        return lambda weights: weights | cast

    same = changed(config={"unfreeze_mm_vision_tower": True}, weights=add(0, torch.float16))
    assert load(same).num_image_tokens == 4
    for shift, dtype in ((0.05, torch.float32), (0.01, torch.bfloat16)):
        other = changed(weights=add(shift, dtype), name=f"other{shift}")
        with pytest.raises(BadInput, match="trained with its own part vision") as error:
            load(other)
        assert start in str(error.value)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32])
@pytest.mark.parametrize("key", ["model.layers.0.mlp.up_proj.weight", "model.mm_projector.0.bias"])
def test_weights_without_scales_are_refused(changed, kind, key):
    with pytest.raises(BadInput, match="without the scales") as error:
        load(changed(weights=lambda weights: weights | {key: weights[key].to(kind)}))
    assert repr(key) in str(error.value) and str(kind).removeprefix("torch.") in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_none_is_refused(changed, value):
    key = "model.layers.1.self_attn.o_proj.weight"

    def spoil(weights):
        weights[key][3, 5] = value
        return weights

    with pytest.raises(BadInput, match="holds NaN or infinite numbers") as error:
        load(changed(weights=spoil))
    assert repr(key) in str(error.value)


def test_numbers_beyond_a_dtype_are_named():
    weight = torch.tensor([1.0, 1e6])
    assert checkpoint.fault(weight, torch.float16) is not None
    assert checkpoint.fault(weight, torch.bfloat16) is None
    assert checkpoint.fault(torch.full((9,), 3e38), torch.float32) is None  # its sum is infinite


# Generation settings of the folder.


def test_sampling_settings_of_the_folder_are_known_and_overridden(tmp_path):
    assert fields.overridden(tmp_path) == {}
    values = {"_from_model_config": True, "bos_token_id": 1, "temperature": 0.6, "top_p": 0.9}
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(values | {"max_length": 4096, "transformers_version": "4.31.0"}))
    found = {"bos_token_id": 1, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}
    assert fields.overridden(tmp_path) == found
    path.write_text(json.dumps({"logit_bias": 3}))
    with pytest.raises(BadInput, match=r"generation_config\.json: logit_bias: found 3"):
        fields.overridden(tmp_path)


def test_no_sampling_field_reaches_the_model_in_silence(changed):
    values = {"temperature": 0.6, "eos_token_id": 2}
    files = changed(config=values, file="generation_config.json")
    found = load(files)
    assert backbones.overridden(files) == backbones.overridden(found.files) == values
    found.save_original(files["language_model"].parent / "saved", dtype=torch.float32)
    assert fields.overridden(files["language_model"].parent / "saved") == values
    with pytest.raises(BadInput, match=r"generation_config\.json: logit_bias: found 3"):
        load(changed(config={"logit_bias": 3}, file="generation_config.json", name="odd"))


# Anything at all in a config: a message, or a model.

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "llama", "silu", "linear", "pad", "16"])
)
ODD = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=4), LEAVES)
FIELDS = sorted({*fields.table("llava"), "rope", "x"})


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(change=st.dictionaries(st.sampled_from(FIELDS), ODD, min_size=1, max_size=2))
def test_any_config_loads_or_is_a_message(changed, change):
    files = changed(config=change)
    try:
        assert load(files).num_image_tokens > 0
    except BadInput as error:
        assert "config.json" in str(error) or "keys do not fit" in str(error)


PLACES = [
    (name, field)
    for name, (config, table) in sorted(LAYOUTS.items())
    for field in sorted({*config, *fields.table(table), "unknown"})
]


@settings(max_examples=400, deadline=None)
@example(place=("owl", "vision_config"), change={})
@given(
    place=st.sampled_from(PLACES),
    change=st.recursive(LEAVES, lambda x: st.dictionaries(st.text(max_size=8), x)),
)
def test_any_field_of_any_layout_is_taken_or_named(place, change):
    name, field = place
    config, table = LAYOUTS[name]
    try:
        fields.check(config | {field: change}, table, where="config.json")
    except BadInput as error:
        assert f"config.json: {field}" in str(error)


def test_a_clip_tower_whose_heads_do_not_divide_its_size_is_named():
    with pytest.raises(
        BadInput, match=r"clip/config\.json: .*hidden size \(64\) is not a multiple"
    ):
        ClipTower({"hidden_size": 64, "num_attention_heads": 5}, -2, where="clip/config.json")
