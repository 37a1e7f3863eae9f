"""LoRA: where it lies, how it is switched, saved, read by peft, and merged."""

import json
import math
import os
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaForCausalLM

from hadpo import adapter, backbones, batch
from hadpo.records import BadInput

TARGETS = "q_proj,k_proj,v_proj"


def shake(backbone, targets=TARGETS, rank=4):
    adapter.attach(backbone, rank=rank, alpha=8.0, targets=targets, seed=1)
    generator = torch.Generator().manual_seed(0)
    for value in adapter.state(backbone).values():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return backbone


def logps(backbone, pairs):
    packed = batch.pack([batch.tokenize(backbone, p, max_length=512) for p in pairs[:3]])
    embeds = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))
    with torch.no_grad():
        return batch.answer_logps(backbone, packed, embeds)


def test_only_the_language_models_targets_are_trained(tiny_llava):
    backbone = tiny_llava()
    parameters = adapter.attach(backbone, rank=4, alpha=8.0, targets=TARGETS)
    open_names = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert len(open_names) == len(parameters) == 2 * 3 * 2  # layers, targets, A and B
    assert all(name.startswith("language_model.model.layers.") for name in open_names)
    assert not any("lora" in name for name, _ in backbone.vision.named_modules())
    # the vision tower has layers of the same names
    assert any(name.endswith("q_proj") for name, _ in backbone.vision.named_modules())


def test_dropout_is_off_where_the_backbone_evaluates(tiny_llava):
    backbone = tiny_llava()
    adapter.attach(backbone, rank=4, alpha=8.0, targets=TARGETS, dropout=0.5)
    assert not any(module.training for module in backbone.language_model.modules())
    backbone.language_model.train()
    dropouts = [m for m in backbone.language_model.modules() if isinstance(m, nn.Dropout)]
    assert dropouts and all(m.training and m.p == 0.5 for m in dropouts)


def test_anything_else_that_is_open_is_refused(tiny_llava):
    backbone = tiny_llava()
    backbone.connector[0].weight.requires_grad_()
    with pytest.raises(ValueError, match=r"connector\.0\.weight"):
        adapter.attach(backbone, rank=4, alpha=8.0, targets=TARGETS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_float32_and_start_at_nothing(tiny_llava, dtype):
    first, second = tiny_llava(dtype), tiny_llava(dtype)
    for backbone in (first, second):
        adapter.attach(backbone, rank=4, alpha=8.0, targets=TARGETS, seed=3)
    mine, other = adapter.state(first), adapter.state(second)
    assert all(value.dtype == torch.float32 for value in mine.values())
    assert all(torch.equal(mine[key], other[key]) for key in mine)
    assert all(bool(value.any()) == ("lora_A" in key) for key, value in mine.items())
    third = tiny_llava(dtype)
    adapter.attach(third, rank=4, alpha=8.0, targets=TARGETS, seed=4)
    assert any(not torch.equal(mine[k], v) for k, v in adapter.state(third).items())


def test_disabled_is_the_base(tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    base = logps(backbone, tiny_pairs)
    shake(backbone)
    with adapter.disabled(backbone):
        assert torch.equal(logps(backbone, tiny_pairs), base)
    assert not torch.allclose(logps(backbone, tiny_pairs), base)
    with pytest.raises(ZeroDivisionError), adapter.disabled(backbone):
        _ = 1 / 0
    assert not torch.allclose(logps(backbone, tiny_pairs), base)
    assert all(p.requires_grad for name, p in backbone.named_parameters() if "lora_" in name)


def test_detach_gives_the_base_back(tiny_llava, tiny_pairs):
    backbone, before = tiny_llava(), tiny_llava().state_dict()
    adapter.detach(shake(backbone))
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(p.requires_grad for p in backbone.parameters())
    shake(backbone)  # and it takes another one


def test_unknown_targets_and_second_adapters(tiny_llava):
    backbone = tiny_llava()
    with pytest.raises(BadInput, match=r"no layer 'q_porj'; did you mean 'q_proj'"):
        adapter.attach(backbone, rank=4, alpha=8.0, targets="q_porj")
    with pytest.raises(BadInput, match="lora_targets is empty"):
        adapter.attach(backbone, rank=4, alpha=8.0, targets=" , ")
    shake(backbone)
    with pytest.raises(ValueError, match="has an adapter already"):
        shake(backbone)


def test_files_have_the_originals_layout(tiny_llava, tmp_path):
    adapter.save(shake(tiny_llava()), tmp_path)
    keys = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert keys == {
        f"base_model.model.model.layers.{i}.self_attn.{name}_proj.lora_{x}.weight"
        for i in range(2)
        for name in "qkv"
        for x in "AB"
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["bias"]) == (4, 8.0, "none")
    assert config["target_modules"] == ["k_proj", "q_proj", "v_proj"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_with_a_config_is_whole(tiny_llava, tmp_path, monkeypatch, name):
    """Its existence says that the training is finished: a kill must not leave one too early."""
    backbone = shake(tiny_llava())
    adapter.save(backbone, tmp_path)  # an older one, to be written over

    def killed(part, target):
        if str(target).endswith(name):
            raise KeyboardInterrupt
        return rename(part, target)

    rename = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(type(tmp_path), "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            adapter.save(backbone, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    adapter.save(backbone, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4


def test_peft_reads_it_on_a_bare_language_model(tiny_llava, tiny_pairs, tmp_path):
    backbone = shake(tiny_llava(), targets="q_proj,o_proj,up_proj,down_proj")
    adapter.save(backbone, tmp_path)
    plain = tiny_llava().language_model
    bare = LlamaForCausalLM(plain.config)
    bare.load_state_dict(plain.state_dict())
    wrapped = PeftModel.from_pretrained(bare, tmp_path).eval()
    ids = torch.tensor([[1, 5, 9, 13]])
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    with torch.no_grad():
        hidden = backbone.hidden_states(backbone.embed(ids), mask, torch.arange(4)[None])
        ours = hidden @ backbone.lm_head_weight.T
        theirs = wrapped(input_ids=ids).logits
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_round_trip(tiny_llava, tiny_pairs, tmp_path, name):
    backbone = shake(tiny_llava())
    adapter.save(backbone, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    if name.endswith(".bin"):  # as peft 0.4 wrote the published ones
        torch.save(load_file(path), tmp_path / name)
        path.unlink()
    again = tiny_llava()
    adapter.load(again, tmp_path)
    assert torch.equal(logps(again, tiny_pairs), logps(backbone, tiny_pairs))


def test_keys_that_do_not_fit(tiny_llava, tmp_path):
    adapter.save(shake(tiny_llava()), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    key = next(iter(weights))
    for change, message in (
        ({key: None}, f"missing '{key}'"),
        ({"strange": torch.ones(1)}, "unexpected 'strange'"),
        ({key: torch.ones(3, 3)}, r"has shape \[3, 3\]"),
        ({key: torch.ones(0)}, f"'{key}' is empty"),
    ):
        save_file({k: v for k, v in (weights | change).items() if v is not None}, path)
        with pytest.raises(BadInput, match=message):
            adapter.load(tiny_llava(), tmp_path)
    path.unlink()
    with pytest.raises(BadInput, match=r"no adapter_model\.safetensors or"):
        adapter.load(tiny_llava(), tmp_path)
    with pytest.raises(BadInput, match=r"no file .*adapter_config\.json"):
        adapter.load(tiny_llava(), tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"use_rslora": True}, {"bias": "all"}, {"peft_type": "IA3"}]
)
def test_other_adapters_are_refused(tiny_llava, tmp_path, change):
    adapter.save(shake(tiny_llava()), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput, match="not a plain LoRA adapter: " + next(iter(change))):
        adapter.load(tiny_llava(), tmp_path)


def test_weights_beside_the_lora(tiny_llava, tmp_path):
    """LLaVA's published adapter comes with the projector that was trained by accident."""
    backbone = shake(tiny_llava())
    adapter.save(backbone, tmp_path)
    start = "base_model.model.model.mm_projector."
    extra = {f"{start}0.weight": torch.full((32, 16), 0.5), f"{start}2.bias": torch.ones(32)}
    extra |= {f"{start}0.bias": torch.zeros(32), f"{start}2.weight": torch.ones(32, 32)}
    torch.save(extra, tmp_path / "non_lora_trainables.bin")
    again = tiny_llava()
    adapter.load(again, tmp_path)
    assert torch.equal(again.connector[0].weight.data, extra[f"{start}0.weight"])
    assert torch.equal(again.connector[2].bias.data, extra[f"{start}2.bias"])

    torch.save(extra | {f"{start}0.weight": torch.empty(0)}, tmp_path / "non_lora_trainables.bin")
    third = tiny_llava()
    with pytest.raises(BadInput, match=r"mm_projector\.0\.weight' is empty"):
        adapter.load(third, tmp_path)
    assert not torch.equal(third.connector[2].bias.data, extra[f"{start}2.bias"])


@pytest.fixture
def make_other(tiny_files, tmp_path_factory):
    """A LLaVA that is half as wide as the adapter's."""

    def make():
        folder = tmp_path_factory.mktemp("other")
        for path in tiny_files["language_model"].iterdir():
            shutil.copy(path, folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"hidden_size": 16, "num_attention_heads": 2}
        (folder / "config.json").write_text(json.dumps(config))
        weights = load_file(folder / "model.safetensors")
        half = {
            key: value[tuple(slice(16 if n == 32 else n) for n in value.shape)].contiguous()
            for key, value in weights.items()
        }
        half["model.mm_projector.0.weight"] = weights["model.mm_projector.0.weight"][
            :16
        ].contiguous()
        save_file(half, folder / "model.safetensors")
        files = {**tiny_files, "language_model": folder}
        return backbones.load("llava/mini", files, device="cpu")

    return make


def test_the_base_keeps_its_projector_where_that_is_asked_for(tiny_llava, tmp_path, caplog):
    """Published projectors may be empty or absent: an error names the way out."""
    adapter.save(shake(tiny_llava()), tmp_path)
    start = "base_model.model.model.mm_projector."
    torch.save({f"{start}0.weight": torch.empty(0)}, tmp_path / "non_lora_trainables.bin")
    with pytest.raises(BadInput, match="set adapter_projector: base") as error:
        adapter.load(tiny_llava(), tmp_path)
    assert "mm_projector.0.weight' is empty" in str(error.value)
    for key in ("0.bias", "2.weight", "2.bias"):
        assert f"missing '{start}{key}'" in str(error.value)
    base = tiny_llava()
    again = tiny_llava()
    adapter.load(again, tmp_path, projector="base")
    assert torch.equal(again.connector[0].weight, base.connector[0].weight)
    assert "the base keeps its projector" in caplog.text


def test_an_adapter_of_another_rank_or_model_is_refused(tiny_llava, make_other, tmp_path):
    adapter.save(shake(tiny_llava()), tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"r": 8}))  # the weights have rank 4
    with pytest.raises(
        BadInput, match=r"12 keys do not fit llava/mini:\n.*needs \[8, 32\]"
    ) as error:
        adapter.load(tiny_llava(), tmp_path)
    assert str(tmp_path) in str(error.value)
    path.write_text(json.dumps(config))
    with pytest.raises(BadInput, match="keys do not fit llava/mini") as error:
        adapter.load(make_other(), tmp_path)
    assert str(tmp_path) in str(error.value)


def test_an_adapter_of_another_family_is_refused_though_it_fits(tiny_llava, tmp_path):
    adapter.save(shake(tiny_llava()), tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    for base in ("minigpt4/llama2", "MAGAer13/mplug-owl-llama-7b-ft"):
        path.write_text(json.dumps(config | {"base_model_name_or_path": base}))
        with pytest.raises(BadInput, match="the backbone is llava/mini: name the adapter") as error:
            adapter.load(tiny_llava(), tmp_path)
        assert str(path) in str(error.value) and base in str(error.value)
    for base in ("liuhaotian/llava-v1.5-7b", "/data/models/7b", None):
        path.write_text(json.dumps(config | {"base_model_name_or_path": base}))
        adapter.load(tiny_llava(), tmp_path)


def test_merge_is_w_plus_ba_in_float32(tiny_llava):
    backbone, base = shake(tiny_llava("bfloat16")), tiny_llava("bfloat16")
    weights = {key: value.clone() for key, value in adapter.state(backbone).items()}
    adapter.merge(backbone)
    start = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    before = base.language_model.model.layers[1].self_attn.q_proj.weight
    delta = 8.0 / 4 * (weights[f"{start}B.weight"] @ weights[f"{start}A.weight"])
    after = backbone.language_model.model.layers[1].self_attn.q_proj
    assert type(after) is nn.Linear
    assert torch.equal(after.weight, (before.float() + delta).bfloat16())
    assert backbone.state_dict().keys() == base.state_dict().keys()


def test_merged_says_what_the_adapter_says(tiny_llava, tiny_pairs, tmp_path):
    backbone = shake(tiny_llava())
    expected = logps(backbone, tiny_pairs)
    adapter.merge(backbone)
    assert (logps(backbone, tiny_pairs) - expected).abs().max() < 1e-4
    backbone.save_original(tmp_path / "merged", dtype=torch.float16)
    files = backbone.files_with(tmp_path / "merged")
    again = backbones.load("llava/mini", files, device="cpu")
    difference = float((logps(again, tiny_pairs) - expected).abs().max())
    assert 0 < difference < 0.1 and not math.isnan(difference)
