"""LLaVA from its authors' files and from transformers' folder, saved, and at its real size."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from hadpo import backbones
from hadpo.backbones import llava
from hadpo.records import BadInput
from hadpo.vlm import checkpoint
from hadpo.vlm.prompt import IMAGE

OPENAI_CLIP = {  # openai/clip-vit-large-patch14-336
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
LLAVA_7B = {  # liuhaotian/llava-v1.5-7b
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32000,
    "mm_vision_select_layer": -2,
    "mm_projector_type": "mlp2x_gelu",
}


def logits_of(backbone, text="Is there a dog?"):
    ids = torch.tensor([backbone.expand(backbone.prompt_ids(text, prompt="evaluate"))])
    pixels = backbone.preprocess(Image.linear_gradient("L").resize((30, 20)))[None]
    n = ids.shape[1]
    mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    embeds = backbone.embed(ids, backbone.image_tokens(pixels))
    with torch.no_grad():
        hidden = backbone.hidden_states(embeds, mask, torch.arange(n)[None])
    return hidden @ backbone.lm_head_weight.T, ids, pixels


def test_is_frozen_and_in_evaluation_mode(tiny_llava):
    backbone = tiny_llava()
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())
    assert backbone.num_image_tokens == 4
    assert backbone.variant == "mini" and backbone.name == "llava/mini"


def test_prompts_of_the_published_models(tiny_files):
    backbone = backbones.load("llava/1.5-7b", tiny_files, device="cpu")
    train, evaluate = (backbone.prompt_ids("Q", prompt=p) for p in ("train", "evaluate"))
    assert train != evaluate and train.count(IMAGE) == evaluate.count(IMAGE) == 1
    assert "curious user" in backbone.decode(train)
    assert "curious human" in backbone.decode(evaluate)


def test_rotary_tables_stay_in_float32(tiny_llava):
    backbone = tiny_llava("bfloat16")
    tables = [b for name, b in backbone.named_buffers() if "inv_freq" in name]
    assert tables and all(b.dtype == torch.float32 and b.abs().sum() > 0 for b in tables)


@pytest.fixture
def hub_folder(tmp_path, tiny_files):
    """The tiny model as transformers saves it, with three rows that no text uses."""
    weights = load_file(tiny_files["language_model"] / "model.safetensors")
    tower = torch.load(tiny_files["vision"] / "pytorch_model.bin", weights_only=True)
    own = json.loads((tiny_files["language_model"] / "config.json").read_text())
    vision = json.loads((tiny_files["vision"] / "config.json").read_text())["vision_config"]
    keys = "hidden_size intermediate_size num_hidden_layers num_attention_heads rms_norm_eps"
    text = LlamaConfig(vocab_size=363, **{key: own[key] for key in keys.split()})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=text,
        image_token_index=361,
        image_seq_length=4,
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration(config).eval()
    renamed = {}
    for key, value in weights.items():
        if "mm_projector" in key:
            n = "1" if ".0." in key else "2"
            key = f"model.multi_modal_projector.linear_{n}.{key.rpartition('.')[2]}"
        elif key.startswith("model.vision_tower") or "inv_freq" in key:
            continue
        elif key.startswith("model."):
            key = "model.language_model." + key.removeprefix("model.")
        if key.endswith(("embed_tokens.weight", "lm_head.weight")):
            value = torch.cat([value, torch.randn(3, value.shape[1])])
        renamed[key] = value
    inner = (
        "vision_model." if any("vision_tower.vision_model" in k for k in model.state_dict()) else ""
    )
    for key, value in tower.items():
        if key.startswith("vision_model.") and "position_ids" not in key:
            renamed["model.vision_tower." + inner + key.removeprefix("vision_model.")] = value
    result = model.load_state_dict(renamed, strict=False)
    assert not result.missing_keys and not result.unexpected_keys
    model.save_pretrained(tmp_path / "hub")
    shutil.copy(tiny_files["language_model"] / "tokenizer.model", tmp_path / "hub")
    return tmp_path / "hub", model


def test_transformers_folder_is_the_same_backbone(tiny_files, hub_folder):
    folder, model = hub_folder
    original = backbones.load("llava/mini", tiny_files, device="cpu")
    from_hub = backbones.load("llava/mini", {"language_model": folder}, device="cpu")
    expected, ids, pixels = logits_of(original)
    found, *_ = logits_of(from_hub)
    assert torch.equal(found, expected)
    with torch.no_grad():
        theirs = model(input_ids=ids.masked_fill(ids == IMAGE, 361), pixel_values=pixels).logits
    assert (theirs[..., :360] - expected).abs().max() < 2e-5


STYLES = {  # the three ways in which transformers has named the same weights on disk
    "published": {
        "lm_head.": "language_model.lm_head.",
        "text.": "language_model.model.",
        "tower.": "vision_tower.vision_model.",
        "mlp.": "multi_modal_projector.",
    },
    "in memory": {
        "lm_head.": "lm_head.",
        "text.": "model.language_model.",
        "tower.": "model.vision_tower.",
        "mlp.": "model.multi_modal_projector.",
    },
    "in memory, older": {
        "lm_head.": "lm_head.",
        "text.": "model.language_model.",
        "tower.": "model.vision_tower.vision_model.",
        "mlp.": "model.multi_modal_projector.",
    },
}


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_transformers_folder_in_every_naming(tiny_files, hub_folder, style):
    folder, _ = hub_folder
    weights = load_file(folder / "model.safetensors")
    renamed = {}
    for key, value in weights.items():
        bare = key.replace("vision_model.", "").removeprefix("model.")
        bare = bare.replace("language_model.lm_head.", "lm_head.")
        bare = bare.replace("language_model.model.", "text.").replace("language_model.", "text.")
        bare = bare.replace("vision_tower.", "tower.").replace("multi_modal_projector.", "mlp.")
        start = next(short for short in style if bare.startswith(short))
        renamed[style[start] + bare.removeprefix(start)] = value
    assert len(renamed) == len(weights)
    save_file(renamed, folder / "model.safetensors")
    found, *_ = logits_of(backbones.load("llava/mini", {"language_model": folder}, device="cpu"))
    expected, *_ = logits_of(backbones.load("llava/mini", tiny_files, device="cpu"))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("source", ["authors", "transformers"])
def test_saved_weights_are_read_back_bit_for_bit(tiny_files, hub_folder, tmp_path, source):
    files = tiny_files if source == "authors" else {"language_model": hub_folder[0]}
    backbone = backbones.load("llava/mini", files, device="cpu")
    backbone.save_original(tmp_path / "saved", dtype=torch.float32)
    again = backbones.load("llava/mini", backbone.files_with(tmp_path / "saved"), device="cpu")
    mine, theirs = backbone.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    keys = set(load_file(tmp_path / "saved" / "model.safetensors"))
    expected = set(load_file(tiny_files["language_model"] / "model.safetensors"))
    assert keys == {k for k in expected if "vision_tower" not in k and "inv_freq" not in k}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["torch_dtype"] == "float32"


@pytest.mark.parametrize("source", ["authors", "transformers"])
def test_written_for_transformers_it_says_the_same_there_and_here(
    tiny_files, hub_folder, tmp_path, source
):
    files = tiny_files if source == "authors" else {"language_model": hub_folder[0]}
    backbone = backbones.load("llava/mini", files, device="cpu")
    expected, ids, pixels = logits_of(backbone)
    folder = tmp_path / "whole"
    assert backbone.save_transformers(folder, dtype=torch.float32)
    found, *_ = logits_of(backbones.load("llava/mini", {"language_model": folder}, device="cpu"))
    assert torch.equal(found, expected)
    model, notes = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    image = model.config.image_token_index if hasattr(model.config, "image_token_index") else 360
    with torch.no_grad():
        theirs = model(input_ids=ids.masked_fill(ids == IMAGE, image), pixel_values=pixels).logits
    assert theirs.shape[-1] == 360  # no row more
    assert (theirs[..., :360] - expected).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("variant", "changes", "language_model", "connector"),
    [
        ("1.5-7b", {}, 6_738_415_616, 20_979_712),
        (
            "1.5-13b",
            {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40}
            | {"num_attention_heads": 40, "num_key_value_heads": 40},
            13_015_864_320,
            31_467_520,
        ),
    ],
)
def test_real_size_has_the_published_shapes(variant, changes, language_model, connector):
    config = LLAVA_7B | changes
    h, inner, last = (config[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    backbone = llava.Llava(
        f"llava/{variant}", vision_config=OPENAI_CLIP, original_config=config, where="test"
    )
    assert backbone.num_image_tokens == 576
    assert llava.VARIANTS[variant].sizes.width == h
    shapes = {name: tuple(p.shape) for name, p in backbone.named_parameters()}
    assert all(p.is_meta for p in backbone.parameters())
    published = {
        "model.embed_tokens.weight": (32000, h),
        "model.mm_projector.0.weight": (h, 1024),
        "model.mm_projector.0.bias": (h,),
        "model.mm_projector.2.weight": (h, h),
        "model.mm_projector.2.bias": (h,),
        "model.norm.weight": (h,),
        "lm_head.weight": (32000, h),
    }
    for layer in range(last):
        start = f"model.layers.{layer}."
        published |= {f"{start}self_attn.{name}_proj.weight": (h, h) for name in "qkvo"}
        published |= {f"{start}mlp.{name}_proj.weight": (inner, h) for name in ("gate", "up")}
        published[f"{start}mlp.down_proj.weight"] = (h, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            published[f"{start}{name}.weight"] = (h,)
    mine = {name: shape for name, shape in shapes.items() if not name.startswith("vision.")}
    assert {checkpoint.translate(key, llava.KEYS): s for key, s in published.items()} == mine
    count = {"language_model": 0, "connector": 0, "vision": 0}
    for name, p in backbone.named_parameters():
        count[name.partition(".")[0]] += p.numel()
    assert count["language_model"] == language_model  # Vicuna
    assert count["connector"] == connector
    # CLIP ViT-L/14-336 without its last layer and the norm behind it
    assert count["vision"] == 303_507_456 - 12_596_224 - 2 * 1024


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("lava/mini", {}, "did you mean 'llava'"),
        ("llava/7b", {}, r"no variant '7b'.*1\.5-7b"),
        ("llava", {}, "no variant ''"),
        ("llava/mini", {"visoin": "x"}, "unknown part 'visoin'.*did you mean 'vision'"),
        ("llava/mini", {}, "files need language_model"),
        (
            "llava/mini",
            {"language_model": "/nowhere"},
            "language_model: no file or folder /nowhere",
        ),
    ],
)
def test_mistakes_are_named(name, files, message):
    with pytest.raises(BadInput, match=message):
        backbones.load(name, files)


def test_a_folder_that_is_no_llava(tiny_files, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 3}')
    with pytest.raises(BadInput, match=r"no LLaVA \(model_type 'llama'"):
        backbones.load("llava/mini", {**tiny_files, "language_model": tmp_path})
    with pytest.raises(BadInput, match="files need vision"):
        backbones.load("llava/mini", {"language_model": tiny_files["language_model"]})


def test_a_tokenizer_of_another_model(tiny_files, tmp_path):
    for path in tiny_files["language_model"].iterdir():
        shutil.copy(path, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    with pytest.raises(BadInput, match=r"360 pieces, but .* vocab_size 300"):
        backbones.load("llava/mini", {**tiny_files, "language_model": tmp_path})


def test_a_tokenizer_of_a_much_smaller_vocabulary(tiny_files, tmp_path):
    for path in tiny_files["language_model"].iterdir():
        shutil.copy(path, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 32000}))
    with pytest.raises(BadInput, match=r"tokenizer.model: 360 pieces, but .* vocab_size 32000"):
        backbones.load("llava/mini", {**tiny_files, "language_model": tmp_path})


@pytest.mark.parametrize(("variant", "width"), [("1.5-13b", 4096), ("1.5-7b", 5120)])
def test_the_folder_of_another_size(tiny_files, tmp_path, variant, width):
    for path in tiny_files["language_model"].iterdir():
        shutil.copy(path, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": width}))
    with pytest.raises(BadInput, match=f"hidden_size {width}, a .* choose the other variant"):
        backbones.load(f"llava/{variant}", {**tiny_files, "language_model": tmp_path})


def test_hub_ids_are_fetched(tiny_files, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(name)
        return str(tiny_files["language_model" if "llava" in name else "vision"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    files = {"language_model": "liuhaotian/llava-v1.5-7b", "vision": "openai/clip-vit-large"}
    backbone = backbones.load("llava/mini", files, device="cpu")
    assert asked == list(files.values())
    assert backbone.files == tiny_files
