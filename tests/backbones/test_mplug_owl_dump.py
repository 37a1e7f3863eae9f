"""LRV V2's kind of file: mPLUG-Owl with its LoRA inside, as peft of several ages wrote it."""

import json
import logging

import pytest
import torch
import typer.testing
from safetensors.torch import load_file, save_file

from hadpo import adapter, backbones
from hadpo.records import BadInput

TARGETS = ("q_proj", "v_proj")


def load(folder):
    files = {"language_model": folder}
    return backbones.load("mplug_owl/llama-7b", files, dtype="float32", device="cpu")


def dumped(weights, age, rank=2):
    """The base's weights and a random LoRA, by the keys of peft at that age."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for key, value in weights.items():
        layer = key.removesuffix(".weight")
        if not layer.endswith(TARGETS):
            found["base_model.model." + key] = value
            continue
        own = "base_layer.weight" if age == "new" else "weight"
        found[f"base_model.model.{layer}.{own}"] = value
        name = "" if age == "very old" else ".default"
        for half, shape in (("A", (rank, value.shape[1])), ("B", (value.shape[0], rank))):
            tensor = torch.randn(shape, generator=generator) * 0.2
            found[f"base_model.model.{layer}.lora_{half}{name}.weight"] = tensor
    return found


def merged(weights, dump, scale):
    """What the dumped model computes with: W + scale B A, by the base's keys."""
    halves = {key.replace(".default.", "."): value for key, value in dump.items()}
    found = dict(weights)
    for key in weights:
        start = "base_model.model." + key.removesuffix(".weight")
        if start + ".lora_A.weight" in halves:
            delta = halves[start + ".lora_B.weight"] @ halves[start + ".lora_A.weight"]
            found[key] = weights[key] + scale * delta
    return found


def logits(backbone):
    ids = backbone.expand(backbone.prompt_ids("Who?", prompt="evaluate"))
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(6))
    state = backbone.prefill([ids[:-1]], backbone.image_tokens(pixels))
    return backbone.extend(state, [ids[-1:]])[0]


@pytest.mark.parametrize("age", ["very old", "old", "new"])
def test_base_and_adapter_are_the_dumped_model(make_owl, tmp_path, age, caplog):
    base, weights = make_owl()
    dump = dumped(weights, age)
    torch.save(dump, tmp_path / "pytorch_model.bin")
    with caplog.at_level(logging.WARNING):
        report = adapter.from_dump(
            tmp_path / "pytorch_model.bin", base, tmp_path / "adapter", alpha=8.0
        )
    assert not caplog.records
    assert (report.rank, report.targets, report.lora_tensors) == (2, TARGETS, 2 * 2 * 2)
    assert report.adapter_is_all and report.largest_difference == 0
    assert report.compared == len([key for key in weights if "inv_freq" not in key])
    whole, _ = make_owl(weights=merged(weights, dump, 8.0 / 2), name="whole")
    expected, backbone = logits(load(whole)), load(base)
    unlike = logits(backbone)
    adapter.load(backbone, tmp_path / "adapter")
    assert (logits(backbone) - expected).abs().max() < 1e-4 < (unlike - expected).abs().max()
    adapter.merge(backbone)
    assert (logits(backbone) - expected).abs().max() < 1e-4


def test_layout_is_the_originals(make_owl, tmp_path):
    base, weights = make_owl()
    torch.save(dumped(weights, "old", rank=8), tmp_path / "dump.bin")
    adapter.from_dump(tmp_path / "dump.bin", base, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 32, 0.05)
    assert config["target_modules"] == list(TARGETS)
    keys = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight" in keys


def test_how_far_the_rest_is_from_the_base(make_owl, tmp_path, caplog):
    base, weights = make_owl()
    dump = dumped(weights, "new")
    moved = "base_model.model.language_model.model.layers.0.self_attn.q_proj.base_layer.weight"
    dump[moved] = dump[moved].clone()
    dump[moved][3, 4] += 0.25
    dump["base_model.model.abstractor.vit_eos"] = torch.full((1, 1, 32), torch.nan)
    del dump["base_model.model.query_tokens"]
    dump["base_model.model.strange"] = torch.ones(1)
    save_file(dump, tmp_path / "dump.safetensors")
    with caplog.at_level(logging.WARNING):
        report = adapter.from_dump(tmp_path / "dump.safetensors", base, tmp_path / "adapter")
    assert not report.adapter_is_all and "base and adapter are not all of it" in caplog.text
    assert report.missing == ("query_tokens",) and report.unexpected == ("strange",)
    assert report.compared - report.equal == 2
    far = dict(report.farthest)
    assert far.pop("abstractor.vit_eos") == float("inf") == report.largest_difference
    assert far.keys() == {"language_model.model.layers.0.self_attn.q_proj.weight"}
    assert abs(next(iter(far.values())) - 0.25) < 1e-6
    written = json.loads((tmp_path / "adapter" / "base_difference.json").read_text())
    assert written["missing"] == ["query_tokens"] and written["rank"] == 2


def test_rounding_is_no_silence(make_owl, tmp_path):
    """A dump in float16 of a base in float32 differs, and the report says by how much."""
    base, weights = make_owl()
    dump = {key: value.half() for key, value in dumped(weights, "old").items()}
    torch.save(dump, tmp_path / "dump.bin")
    report = adapter.from_dump(tmp_path / "dump.bin", base, tmp_path / "adapter")
    kept = [key for key in weights if "inv_freq" not in key]
    expected = max(float((weights[key] - weights[key].half()).abs().max()) for key in kept)
    assert report.largest_difference == pytest.approx(expected) and 0 < expected < 1e-2


def test_a_file_with_the_adapter_only(make_owl, tmp_path):
    base, weights = make_owl()
    dump = {key: value for key, value in dumped(weights, "very old").items() if "lora_" in key}
    torch.save(dump, tmp_path / "adapter_model.bin")
    report = adapter.from_dump(tmp_path / "adapter_model.bin", base, tmp_path / "adapter")
    assert report.compared == 0 and not report.adapter_is_all
    adapter.load(load(base), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no lora", "no LoRA in it"),
        ("half", r"layers\.0\.self_attn\.q_proj' has lora_A only"),
        ("ranks", r"layers of different ranks: \[2, 3\]"),
        ("misfit", r"A \[2, 32\] and B \[32, 5\] do not fit"),
        ("outside", "outside the language model"),
        ("another base", r"1 tensors have other shapes .*another model"),
    ],
)
def test_dumps_that_are_none(make_owl, tmp_path, change, message):
    base, weights = make_owl()
    dump = dumped(weights, "old")
    layer = "base_model.model.language_model.model.layers.0.self_attn.q_proj."
    if change == "no lora":
        dump = {key: value for key, value in dump.items() if "lora_" not in key}
    elif change == "half":
        del dump[layer + "lora_B.default.weight"]
    elif change == "ranks":
        dump[layer + "lora_A.default.weight"] = torch.ones(3, 32)
        dump[layer + "lora_B.default.weight"] = torch.ones(32, 3)
    elif change == "misfit":
        dump[layer + "lora_B.default.weight"] = torch.ones(32, 5)
    elif change == "outside":
        dump["base_model.model.vision_model.fc.lora_A.default.weight"] = torch.ones(2, 4)
        dump["base_model.model.vision_model.fc.lora_B.default.weight"] = torch.ones(4, 2)
    else:
        dump["base_model.model.query_tokens"] = torch.ones(1, 5, 16)
    torch.save(dump, tmp_path / "dump.bin")
    with pytest.raises(BadInput, match=message):
        adapter.from_dump(tmp_path / "dump.bin", base, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_the_command_says_how_far_the_rest_is(make_owl, tmp_path):
    from hadpo.cli import app

    base, weights = make_owl()
    moved = dict(weights)
    key = "language_model.model.layers.1.mlp.up_proj.weight"
    moved[key] = weights[key] + 0.25
    save_file(dumped(moved, "new"), tmp_path / "dump.safetensors")
    words = ["convert-dump", str(tmp_path / "dump.safetensors"), str(base), str(tmp_path / "out")]
    done = typer.testing.CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "rank 2 on q_proj, v_proj: 8 tensors" in done.output
    assert "difference is 0.25; 0 missing, 0 unexpected" in done.output
    assert f"0.25  {key}" in done.output and "are not the dumped model" in done.output
    report = json.loads(typer.testing.CliRunner().invoke(app, [*words, "--json"]).output)
    assert report["farthest"] == {key: pytest.approx(0.25)}
    assert (tmp_path / "out" / "adapter_config.json").is_file()
