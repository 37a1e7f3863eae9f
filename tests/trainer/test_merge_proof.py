"""The merge's proof: a lost update fails it however small it is, a rounding never does."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hadpo import adapter, backbones
from hadpo.adapter import files, lora, proof
from hadpo.config import MergeConfig, TrainConfig
from hadpo.records import BadInput
from hadpo.vlm import export
from tests.trainer.test_stage import FakeRun

TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture
def merge(tmp_path, tiny_files, tiny_llava, tiny_pairs, monkeypatch):
    """Runs the stage on an adapter that peft made; `size` is the size of its numbers."""
    monkeypatch.setattr(proof, "pairs_to_check", lambda run: tiny_pairs[:3])

    def run(size=0.3, change=(), **settings):
        folder = tmp_path / "adapter"
        config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
        model = get_peft_model(tiny_llava().language_model, config)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_" in name:
                    scale = size if ".lora_B" in name else 0.3
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(str(folder))
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(change)))
        settings = {"adapter_folder": str(folder), "check_pairs": 3} | settings
        made = FakeRun(tmp_path, tiny_files, TrainConfig(), **settings)

        made.recipe = replace(made.recipe, merge=MergeConfig(**settings))
        made.resolve = Path
        return adapter.merge_run(made)["merged"]

    return run


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [0.3, 1e-2, 1e-4, 1e-6, 0.0])
def test_a_rounding_passes(merge, size, dtype, monkeypatch):
    monkeypatch.setattr(proof, "_BY_ROUNDING", math.inf)  # the tiny model's numbers are wild
    found = merge(size, merged_dtype=dtype)
    effect = found["effect of the adapter, nats per token"]
    assert effect == pytest.approx(0, abs=1e-12) if not size else effect < 3
    assert effect > 0.05 if size == 0.3 else effect < 0.5
    assert found["adapter to merge in memory, nats per token"] < 1e-4


def test_an_exchanged_adapter_is_not_merged(tmp_path, tiny_files, tiny_pairs, monkeypatch):
    monkeypatch.setattr(proof, "pairs_to_check", lambda run: tiny_pairs[:1])
    made = FakeRun(tmp_path, tiny_files, TrainConfig())
    (tmp_path / "train" / "adapter").mkdir(parents=True)
    seen = []
    monkeypatch.setattr(proof, "check_weights", lambda *given: seen.append(given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        adapter.merge_run(made)
    assert seen == [(tmp_path / "train", [tmp_path / "train" / "adapter"])]


def lose_all(monkeypatch):
    monkeypatch.setattr(lora, "merge", lora.detach)


def lose_a_layer(monkeypatch):
    real = lora.merge

    def merge(backbone):
        layer = backbone.language_model.model.layers[1].mlp.down_proj
        layer.lora_B["default"].weight.data.zero_()
        real(backbone)

    monkeypatch.setattr(lora, "merge", merge)


def lose_a_tenth(monkeypatch):
    real = lora.merge

    def merge(backbone):
        for value in lora.state(backbone).values():
            value.mul_(0.95)
        real(backbone)

    monkeypatch.setattr(lora, "merge", merge)


def read_another_scale(monkeypatch):
    real = lora.modules_of
    monkeypatch.setattr(
        lora,
        "modules_of",
        lambda *args: {name: (r, alpha / 2) for name, (r, alpha) in real(*args).items()},
    )


def forget_a_pattern(monkeypatch):
    real = lora.modules_of
    monkeypatch.setattr(
        lora, "modules_of", lambda config, names: real({**config, "alpha_pattern": {}}, names)
    )


@pytest.mark.parametrize("size", [0.3, 1e-3, 1e-5])
@pytest.mark.parametrize(
    "lose", [lose_all, lose_a_layer, lose_a_tenth, read_another_scale, forget_a_pattern]
)
def test_a_lost_update_fails(merge, monkeypatch, lose, size):
    lose(monkeypatch)
    with pytest.raises(BadInput, match=r"do not say what the adapter says.*of what peft adds"):
        merge(size, change={"alpha_pattern": {r"layers\.1\.mlp\.down_proj": 16}})


@pytest.mark.parametrize("folder", ["merged", "merged_transformers"])
@pytest.mark.parametrize("size", [0.3, 1e-3])
def test_weights_that_do_not_reach_the_disk_fail(merge, monkeypatch, tiny_llava, folder, size):
    """One tensor of the base in the place of the merged one; a rounding hides its effect."""
    base = tiny_llava().language_model.model.layers[0].self_attn.q_proj.weight
    real = export.write_folder

    def write(where, weights, **settings):
        if where.name == folder:
            (key,) = [k for k in weights if k.endswith("model.layers.0.self_attn.q_proj.weight")]
            weights = {**weights, key: base}
        real(where, weights, **settings)

    monkeypatch.setattr(export, "write_folder", write)
    with pytest.raises(BadInput, match=r"layers\.0\.self_attn\.q_proj\.weight is not what was me"):
        merge(size, merged_dtype="float32")


def test_a_difference_in_memory_is_relative_to_the_effect(monkeypatch):
    one = torch.zeros(2, 1)
    for effect, limit in ((1e-3, 2e-4), (1e-2, 5e-4), (1.0, 1e-3)):
        below = proof._compare(one, one + 0.9 * limit, one, effect=effect, what="f", where=None)
        assert below["adapter to merge in memory, nats per token"] == pytest.approx(0.9 * limit)
        with pytest.raises(BadInput, match="nats per token in memory"):
            proof._compare(one, one + 1.1 * limit, one, effect=effect, what="f", where=None)


def test_the_folder_for_transformers_has_cards_and_the_adapter(merge, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    merge(merged_dtype="float32")
    whole, twin = (tmp_path / "train" / f"{n}_transformers" for n in ("merged", "adapter"))
    for folder, line in ((whole, "vllm serve merged_transformers"), (twin, "--enable-lora")):
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nbase_model: hadpo/mini/weights/llava\n") and line in card
    base = tmp_path / "base"
    files_of_base = load_file(whole / "model.safetensors")
    base.mkdir()
    for path in whole.glob("*.json"):
        (base / path.name).write_bytes(path.read_bytes())
    weights = load_file(twin / "adapter_model.safetensors")
    merged = dict(files_of_base)
    for key in list(weights):
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.model.language_model.").split(".lora_A")[0]
            b = weights[key.replace(".lora_A.", ".lora_B.")]
            files_of_base[f"language_model.model.{name}.weight"] -= 2.0 * (b @ weights[key])
    save_file(files_of_base, base / "model.safetensors", metadata={"format": "pt"})
    ids = torch.tensor([[1, 5, 9, 13]])
    plain = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
    tuned = PeftModel.from_pretrained(plain, twin).eval()
    other = AutoModelForImageTextToText.from_pretrained(whole, dtype=torch.float32).eval()
    with torch.no_grad():
        found, expected = (m(input_ids=ids).logits for m in (tuned, other))
    assert set(merged) == set(files_of_base)
    assert (found - expected).abs().max() < 1e-4
    assert backbones.load("llava/mini", {"language_model": whole}, device="cpu").files
    assert files.describe(twin)["LoRA modules"] == 6
