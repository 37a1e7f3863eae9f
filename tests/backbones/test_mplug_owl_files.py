"""mPLUG-Owl's files: saved and read back, at the published size, and all that do not fit."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hadpo import backbones
from hadpo.backbones import mplug_owl
from hadpo.records import BadInput
from hadpo.vlm import checkpoint

REAL = {  # MAGAer13/mplug-owl-llama-7b-ft
    "num_query_tokens": 64,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "layer_norm_eps": 1e-6,
    },
    "visual_abstractor_config": {
        "hidden_size": 1024,
        "encoder_hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 6,
        "num_attention_heads": 16,
        "layer_norm_eps": 1e-6,
    },
    "text_config": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
    },
}


def load(folder, variant="llama-7b", dtype="float32"):
    files = {"language_model": folder}
    return backbones.load(f"mplug_owl/{variant}", files, dtype=dtype, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_weights_are_read_back(make_owl, tmp_path, dtype):
    folder, weights = make_owl()
    backbone = load(folder, dtype=str(dtype).removeprefix("torch."))
    backbone.save_original(tmp_path / "saved", dtype=dtype)
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    expected = {key: value for key, value in weights.items() if "inv_freq" not in key}
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], value.to(dtype)) for key, value in expected.items())
    files = backbone.files_with(tmp_path / "saved")
    again = backbones.load("mplug_owl/llama-7b", files, dtype="float32", device="cpu")
    for key, value in backbone.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.float())
    image = Image.linear_gradient("L").resize((30, 20))
    assert torch.equal(again.preprocess(image), backbone.preprocess(image))
    assert again.prompt_ids("Who?", prompt="train") == backbone.prompt_ids("Who?", prompt="train")


def test_the_weights_say_how_wide_the_abstractor_is(make_owl, tmp_path):
    """Some published configs say 4096 where the weights have 2816."""
    config = json.loads(json.dumps(make_owl.config))
    expected = load(make_owl()[0])
    config["visual_abstractor_config"]["intermediate_size"] = 33
    _, weights = make_owl(name="other")
    folder, _ = make_owl(config=config, weights=weights, name="wrong-config")
    found = load(folder)
    pixels = torch.randn(1, 3, 28, 28)
    assert torch.equal(found.image_tokens(pixels), expected.image_tokens(pixels))
    found.save_original(tmp_path / "saved", dtype=torch.float32)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["visual_abstractor_config"]["intermediate_size"] == 20


def test_real_size_has_the_published_keys_and_shapes(make_owl):
    backbone = mplug_owl.MplugOwl("mplug_owl/llama-7b", original_config=REAL, where="test")
    assert backbone.num_image_tokens == 65
    published = make_owl.shapes(REAL)
    assert len(published) == 754  # lines of the published index
    kept = {key: shape for key, shape in published.items() if "inv_freq" not in key}
    assert len(kept) == 722
    mine = {name: tuple(p.shape) for name, p in backbone.named_parameters()}
    assert all(p.is_meta for p in backbone.parameters())
    assert {checkpoint.translate(key, mplug_owl.KEYS): kept[key] for key in kept} == mine
    for key in published.keys() - kept.keys():
        assert checkpoint.translate(key, mplug_owl.IGNORED) is not None
    count = {"language_model": 0, "connector": 0, "vision": 0}
    for name, p in backbone.named_parameters():
        count[name.partition(".")[0]] += p.numel()
    assert count["language_model"] == 6_738_415_616  # LLaMA-7B
    patches, norms, block = 1024 * (3 * 14 * 14 + 1 + 257), 2 * 2 * 1024, 12_596_224
    assert count["vision"] == patches + norms + 24 * block
    layer = 4 * (1024 * 1024 + 1024) + 3 * 2 * 1024 + 2 * 2816
    layer += 2 * (1024 * 2816 + 2816) + 2816 * 1024 + 1024
    assert count["connector"] == 6 * layer + 64 * 1024 + 1024 * 4096 + 2 * 4096


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temporal_query_tokens": torch.ones(1)}, "mPLUG-Owl for video"),
        ({"base_model.model.query_tokens": torch.ones(1)}, "a model saved with its LoRA inside"),
        ({"abstractor.vit_eos": torch.ones(0)}, r"'abstractor\.vit_eos' .* is empty"),
        ({"abstractor.vit_eos": None}, r"missing key 'abstractor\.vit_eos'"),
        (
            {"vision_model.encoder.layers.1.mlp.fc2.bias": None},
            r"missing key 'vision_model\.encoder\.layers\.1\.mlp\.fc2\.bias'",
        ),
        (
            {"abstractor.encoder.layers.1.crossattention.normk.weight": torch.ones(3)},
            r"has shape \[3\], the model needs \[16\]",
        ),
        ({"abstractor.positions": torch.ones(2)}, r"unexpected key 'abstractor\.positions'"),
    ],
)
def test_weights_that_do_not_fit(make_owl, change, message):
    _, weights = make_owl(name="good")
    weights = {k: v for k, v in (change | weights | change).items() if v is not None}
    folder, _ = make_owl(weights=weights)
    with pytest.raises(BadInput, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("", {"visual_abstractor_config": None}, r"no mPLUG-Owl .*no visual_abstractor_config"),
        ("text_config", {"model_type": "bloom"}, "text_config.model_type: found 'bloom'"),
        ("text_config", {"rms_norm_eps": None}, "no rms_norm_eps"),
        ("text_config", {"vocab_size": 300}, "360 pieces, but .* vocab_size 300"),
        ("vision_config", {"patch_size": None}, "vision_config: no patch_size"),
        ("visual_abstractor_config", {"layer_norm_eps": None}, "abstractor_config: no layer_"),
    ],
)
def test_configs_that_do_not_fit(make_owl, section, change, message):
    config = json.loads(json.dumps(make_owl.config))
    place = config[section] if section else config
    for key, value in change.items():
        place[key] = value
        if value is None:
            del place[key]
    _, weights = make_owl(name="good")
    folder, _ = make_owl(config=config, weights=weights)
    with pytest.raises(BadInput, match=message):
        load(folder)


def test_the_folder_of_another_backbone(tiny_files):
    with pytest.raises(BadInput, match=r"no mPLUG-Owl \(model_type 'llava'.*MAGAer13"):
        load(tiny_files["language_model"])
    with pytest.raises(BadInput, match="files need language_model"):
        backbones.load("mplug_owl/llama-7b", {})
