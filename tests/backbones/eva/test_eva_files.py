"""Files of MiniGPT-4 and InstructBLIP: what is read, what is left out, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hadpo import backbones
from hadpo.records import BadInput
from hadpo.vlm import vision

NAMES = ["minigpt4/llama2", "minigpt4/vicuna0", "instructblip/vicuna7b"]


def load(name, files):
    return backbones.load(name, files, dtype="float32", device="cpu")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_is_the_files(make, name, dtype):
    files, weights = make(name)
    backbone = backbones.load(name, files, dtype=dtype, device="cpu")
    kind = getattr(torch, dtype)
    own = dict(backbone.named_parameters())
    assert all(p.dtype == kind for p in own.values())
    for ours, theirs in {
        "vision.embeddings.position_embedding": "pos_embed",
        "vision.encoder.layers.1.mlp.fc1.weight": "blocks.1.mlp.fc1.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight": (
            "model.layers.0.self_attn.q_proj.weight"
        ),
        "connector.projection.bias": "llm_proj.bias" if "blip" in name else "llama_proj.bias",
    }.items():
        assert torch.equal(own[ours], weights[theirs].to(kind))
    bias = own["vision.encoder.layers.0.self_attn.qkv.bias"].chunk(3)
    for part, key in zip(bias[::2], ("q_bias", "v_bias"), strict=True):
        assert torch.equal(part, weights[f"blocks.0.attn.{key}"].to(kind))
    assert len(backbone.vision.encoder.layers) == 2  # the file has three blocks


LEFT_OUT = {
    "minigpt4/llama2": {
        "vision": ["norm.weight", "head.bias", "fc_norm.bias"],
        "connector": ["llama_model.model.layers.0.self_attn.rotary_emb.inv_freq"],
    },
    "minigpt4/vicuna0": {
        "vision": ["norm.weight", "head.bias"],
        "qformer": [
            "t5_proj.weight",
            "Qformer.bert.embeddings.position_ids",
            "Qformer.bert.embeddings.word_embeddings.weight",
            "Qformer.bert.encoder.layer.2.intermediate.dense.bias",
            "Qformer.cls.predictions.bias",
        ],
        "connector": ["Qformer.bert.embeddings.position_ids"],
    },
    "instructblip/vicuna7b": {
        "qformer": [
            "Qformer.bert.embeddings.position_ids",
            "Qformer.cls.predictions.bias",
        ]
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_what_nobody_needs_is_left_out(make, name):
    extra = {part: dict.fromkeys(keys, torch.ones(7)) for part, keys in LEFT_OUT[name].items()}
    files, _ = make(name, extra=extra)
    assert load(name, files).num_image_tokens > 0


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("minigpt4/vicuna0", "qformer"),
        ("minigpt4/llama2", "connector"),
        ("instructblip/vicuna7b", "qformer"),
    ],
)
def test_a_tower_inside_another_file_must_be_the_same(make, name, part, tmp_path):
    """LAVIS would read it over eva_vit_g.pth: the same is taken, another one is refused."""
    files, weights = make(name)
    path = files[part]
    content = torch.load(path)["model"]
    own = {"visual_encoder.blocks.0.norm1.bias": weights["blocks.0.norm1.bias"].half()}
    torch.save({"model": content | own}, path)
    ignored = name != "minigpt4/llama2"  # that file has what was trained only
    if ignored:
        assert load(name, files).num_image_tokens > 0
    own = {key: value + 0.01 for key, value in own.items()}
    torch.save({"model": content | own}, path)
    with pytest.raises(BadInput, match=r"visual_encoder\.blocks\.0\.norm1\.bias") as error:
        load(name, files)
    assert str(path) in str(error.value) and ("eva_vit_g.pth" in str(error.value)) == ignored


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("minigpt4/llama2", "vision"),
        ("minigpt4/llama2", "connector"),
        ("minigpt4/llama2", "language_model"),
        ("minigpt4/vicuna0", "connector"),
        ("minigpt4/vicuna0", "qformer"),
        ("instructblip/vicuna7b", "qformer"),
    ],
)
def test_unknown_keys_are_refused(make, name, part):
    files, _ = make(name, extra={part: {"strange.weight": torch.ones(2)}})
    if part in files:
        with pytest.raises(
            BadInput, match=r"1 keys do not fit.*\n.*unexpected key 'strange\.weigh"
        ):
            load(name, files)


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("minigpt4/llama2", "llama_proj.weight", r"missing key 'llama_proj\.weight'"),
        ("minigpt4/vicuna0", "llama_proj.bias", r"missing key 'llama_proj\.bias'"),
        ("minigpt4/vicuna0", "ln_vision.weight", r"missing key 'ln_vision\.weight'"),
        ("minigpt4/vicuna0", "query_tokens", "missing key 'query_tokens'"),
        ("minigpt4/llama2", "pos_embed", "missing key 'pos_embed'"),
        ("minigpt4/llama2", "cls_token", "missing key 'cls_token'"),
        ("minigpt4/llama2", "blocks.1.attn.q_bias", r"missing key 'blocks\.1\.attn\.q_bias'"),
        ("instructblip/vicuna7b", "llm_proj.weight", r"missing key 'llm_proj\.weight'"),
        (
            "instructblip/vicuna7b",
            "Qformer.bert.encoder.layer.1.intermediate.dense.bias",
            r"missing key 'Qformer\.bert\.encoder\.layer\.1\.intermediate\.dense\.bias'",
        ),
    ],
)
def test_missing_keys_are_named(make, name, key, message):
    files, _ = make(name, drop=(key,))
    with pytest.raises(BadInput, match=message):
        load(name, files)


def test_the_file_of_the_other_variant(make, tmp_path):
    files, _ = make("minigpt4/llama2", extra={"connector": {"llama_proj.weight": torch.ones(5, 7)}})
    with pytest.raises(BadInput, match=r"'llama_proj\.weight' .* has shape \[5, 7\].*\[32, 64\]"):
        load("minigpt4/llama2", files)
    with pytest.raises(BadInput, match="minigpt4/llama2 has no Q-Former"):
        load("minigpt4/llama2", files | {"qformer": tmp_path})
    with pytest.raises(BadInput, match=r"files need qformer: blip2_pretrained_flant5xxl\.pth"):
        load("minigpt4/vicuna0", files)
    with pytest.raises(BadInput, match="unknown part 'bert'"):
        load("minigpt4/vicuna0", files | {"bert": tmp_path})


@pytest.mark.parametrize("part", ["vision", "qformer"])
def test_sizes_are_checked(make, tmp_path, part):
    name = "instructblip/vicuna7b"
    files, _ = make(name)
    path = files[part].with_suffix(".json")
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"dept": 3}))
    with pytest.raises(BadInput, match="unknown size 'dept'; did you mean 'depth'"):
        load(name, files)
    path.write_text(json.dumps(good | {"heads": 2.0}))
    with pytest.raises(BadInput, match=r"heads: found 2\.0, expected a whole number"):
        load(name, files)


def test_a_folder_stands_for_the_only_file_in_it(make, tmp_path):
    files, _ = make("minigpt4/llama2")
    (tmp_path / "repository").mkdir()
    moved = tmp_path / "repository" / "pretrained_minigpt4.pth"
    files["connector"].rename(moved)
    backbone = load("minigpt4/llama2", files | {"connector": moved.parent})
    assert backbone.files["connector"] == moved
    save_file({"x": torch.ones(1)}, moved.with_name("other.safetensors"))
    with pytest.raises(BadInput, match=r"connector: .* has 2 files of weights"):
        load("minigpt4/llama2", files | {"connector": moved.parent})


def test_position_tables_of_another_grid_are_interpolated(make, tmp_path):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(1, 1 + 16, 16, generator=generator)  # 4 x 4, the model wants 2 x 2
    files, _ = make("minigpt4/llama2", extra={"vision": {"pos_embed": table}})
    backbone = load("minigpt4/llama2", files)
    found = backbone.vision.embeddings.position_embedding
    grid = table[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, scale_factor=0.5, mode="bicubic")
    assert torch.equal(found[:, :1], table[:, :1])
    assert torch.allclose(found[0, 1:], wanted[0].flatten(1).T, atol=1e-6)
    assert not found.requires_grad and backbone.num_image_tokens == 1
    same = torch.randn(1, 1 + 9, 5)
    assert torch.allclose(vision.resize_positions(same, 9), same, atol=1e-6)
    flat = torch.full((1, 1 + 9, 5), 0.25)
    assert torch.allclose(vision.resize_positions(flat, 25), torch.full((1, 26, 5), 0.25))


@pytest.mark.parametrize("shape", [(1, 12, 16), (1, 5, 8), (5, 16)])
def test_position_tables_of_no_grid_are_refused(make, shape):
    files, _ = make("minigpt4/llama2", extra={"vision": {"pos_embed": torch.ones(shape)}})
    with pytest.raises(BadInput, match=r"'pos_embed' in eva_vit_g\.pth has shape"):
        load("minigpt4/llama2", files)


def test_rows_of_pad(make, tmp_path):
    name = "instructblip/vicuna7b"
    files, weights = make(name)
    assert load(name, files).lm_head_weight.shape == (360, 32)
    rows = {
        "lm_head.weight.row360": torch.full((1, 32), 0.5),
        "model.embed_tokens.weight.row360": torch.full((1, 32), 0.25),
    }
    save_file(rows, tmp_path / "llm_pad_rows.safetensors")
    backbone = load(name, files)
    assert torch.equal(backbone.lm_head_weight[:360], weights["lm_head.weight"])
    assert (backbone.lm_head_weight[360] == 0.5).all() and len(backbone.lm_head_weight) == 361
    assert (backbone.embed(torch.tensor([[360]])) == 0.25).all()
    backbone.save_original(tmp_path / "saved", dtype=torch.float32)
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert len(saved["lm_head.weight"]) == len(saved["model.embed_tokens.weight"]) == 360
    again = load(name, backbone.files_with(tmp_path / "saved"))
    assert torch.equal(again.lm_head_weight, backbone.lm_head_weight)
    save_file({"lm_head.weight.row32000": torch.ones(1, 32)}, tmp_path / "llm_pad_rows.safetensors")
    with pytest.raises(BadInput, match=r"found \['lm_head\.weight\.row32000'\], expected .*row360"):
        load(name, files)


def test_vocabularies_that_do_not_fit(make, tmp_path):
    name = "instructblip/vicuna7b"
    files, _ = make(name)
    vocab = tmp_path / "vocab.txt"
    vocab.write_text(vocab.read_text() + "cat\n")
    with pytest.raises(BadInput, match=r"pieces with \[DEC\], but the Q-Former knows"):
        load(name, files)
    vocab.write_text("a\nb\n[PAD]\n")
    with pytest.raises(BadInput, match=r"no \[UNK\], \[CLS\], \[SEP\]"):
        load(name, files)
    vocab.unlink()
    with pytest.raises(BadInput, match=r"no vocab\.txt; copy it from bert-base-uncased"):
        load(name, files)
    config = files["language_model"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 300}))
    with pytest.raises(BadInput, match=r"360 pieces, but .* vocab_size 300"):
        load(name, files)


def test_a_folder_of_another_model(make):
    files, _ = make("minigpt4/vicuna0")
    config = files["language_model"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "llava"}))
    with pytest.raises(BadInput, match="model_type: found 'llava', expected 'llama'"):
        load("minigpt4/vicuna0", files)


def test_the_published_size_of_another_variant(make):
    files, _ = make("minigpt4/vicuna0")
    config = files["language_model"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 5120}))
    with pytest.raises(BadInput, match="hidden_size 5120, a 13B model; minigpt4/vicuna0 is made"):
        load("minigpt4/vicuna0", files)


def test_differences_of_weights_are_refused(make):
    files, weights = make("minigpt4/vicuna0")
    path = files["language_model"] / "model.safetensors"
    delta = load_file(path) | {"model.norm.weight": weights["model.norm.weight"] * 1e-3}
    save_file(delta, path)
    with pytest.raises(BadInput, match=r"delta weights .* 0\.001 on average.*apply_delta"):
        load("minigpt4/vicuna0", files)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_image_tokens_in_half_precision(make, name, dtype):
    files, _ = make(name)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    texts = ["Is there a dog?", "Who?"]
    exact = load(name, files).image_tokens(pixels, texts)
    half = backbones.load(name, files, dtype=dtype, device="cpu").image_tokens(pixels, texts)
    assert half.dtype == getattr(torch, dtype)
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()
