"""Checkpoint files: all formats, key tables, and every way in which files are broken."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hadpo.records import BadInput
from hadpo.vlm import checkpoint, export

KEYS = {"old.{}": "layer.{}"}
IGNORED = {"extra.{}": "not needed"}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.device("meta"):
            self.layer = nn.Linear(3, 2)


WEIGHTS = {"old.weight": torch.arange(6.0).view(2, 3), "old.bias": torch.ones(2)}


def fill(path, weights=None, **changed):
    model = Model()
    arguments = {"keys": KEYS, "ignored": IGNORED, "dtype": torch.float32} | changed
    if weights is not None:
        save_file(weights, path)
    files = checkpoint.weight_files(path, what="part")
    checkpoint.fill(model, files, device=torch.device("cpu"), **arguments)
    return model


def write(folder, how):
    if how == "safetensors":
        save_file(WEIGHTS, folder / "model.safetensors")
    elif how == "bin":
        torch.save(WEIGHTS, folder / "pytorch_model.bin")
    elif how == "old bin":
        path = folder / "pytorch_model.bin"
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    elif how == "pth":
        torch.save({"model": WEIGHTS, "epoch": 3}, folder / "weights.pth")
        return folder / "weights.pth"
    else:
        ending = how.removeprefix("sharded ")
        names = {key: f"part-{i}.{ending}" for i, key in enumerate(WEIGHTS)}
        for key, name in names.items():
            one = {key: WEIGHTS[key]}
            save_file(one, folder / name) if ending == "safetensors" else torch.save(
                one, folder / name
            )
        index = "model.safetensors.index.json"
        if ending == "bin":
            index = "pytorch_model.bin.index.json"
        (folder / index).write_text(json.dumps({"weight_map": names}))
    return folder


@pytest.mark.parametrize(
    "how", ["safetensors", "bin", "old bin", "pth", "sharded safetensors", "sharded bin"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_formats(tmp_path, how, dtype):
    model = fill(write(tmp_path, how), dtype=dtype)
    assert model.layer.weight.dtype == dtype
    assert torch.equal(model.layer.weight, WEIGHTS["old.weight"].to(dtype))
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old.bias": None}, r"missing key 'old\.bias' \(for layer\.bias\)"),
        ({"old.more": torch.ones(1)}, r"unexpected key 'old\.more'"),
        ({"new.weight": torch.ones(1)}, r"unexpected key 'new\.weight'"),
        ({"old.bias": torch.ones(5)}, r"'old\.bias' .* has shape \[5\], the model needs \[2\]"),
        ({"old.weight": torch.ones(0, 3)}, r"'old\.weight' .* is empty, shape \[0, 3\]"),
    ],
)
def test_every_key_is_accounted_for(tmp_path, change, message):
    weights = {k: v for k, v in (WEIGHTS | change).items() if v is not None}
    with pytest.raises(BadInput, match=message) as error:
        fill(tmp_path / "w.safetensors", weights)
    assert "1 keys do not fit" in str(error.value)


def test_ignored_keys_are_left_out(tmp_path):
    model = fill(tmp_path / "w.safetensors", WEIGHTS | {"extra.thing": torch.ones(7)})
    assert torch.equal(model.layer.bias, torch.ones(2))


def test_all_problems_at_once(tmp_path):
    weights = {f"strange.{i}": torch.ones(1) for i in range(20)}
    with pytest.raises(BadInput, match="22 keys do not fit") as error:
        fill(tmp_path / "w.safetensors", weights)
    assert "and 14 more" in str(error.value)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "w.pth"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"<html>", "a web page"),
        (b"", "an empty file"),
        (b"nonsense, and quite some of it", "truncated or no checkpoint"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as error:
        list(checkpoint.read_tensors(tmp_path / name))
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["safetensors", "bin", "old bin"])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_truncated_files(tmp_path, how, share):
    folder = write(tmp_path, how)
    path = next(iter(folder.glob("*model*")))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BadInput, match="truncated or no checkpoint"):
        list(checkpoint.read_tensors(path))


def test_pickles_with_code_are_refused(tmp_path):
    torch.save({"model": pytest.raises}, tmp_path / "w.pth")
    with pytest.raises(BadInput, match=r"w\.pth: a pickle with code in it .*; refused") as error:
        list(checkpoint.read_tensors(tmp_path / "w.pth"))
    assert "safetensors" in str(error.value)


def test_missing_folders_and_shards(tmp_path):
    with pytest.raises(BadInput, match="vision: no folder"):
        checkpoint.weight_files(tmp_path / "nowhere", what="vision")
    with pytest.raises(BadInput, match=r"no weights in .*found nothing"):
        checkpoint.weight_files(tmp_path, what="vision")
    index = {"weight_map": {"a": "part-0.safetensors", "b": "part-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="2 of 2 shards are missing"):
        checkpoint.weight_files(tmp_path, what="vision")


def test_written_shards_are_read_back(tmp_path):
    export.write_tensors(tmp_path, WEIGHTS, shard_bytes=10)
    assert len(checkpoint.weight_files(tmp_path, what="part")) == 2
    assert torch.equal(fill(tmp_path).layer.weight, WEIGHTS["old.weight"])


def test_new_weights_take_the_place_of_old_shards(tmp_path):
    old = {key: torch.zeros_like(value) for key, value in WEIGHTS.items()}
    export.write_tensors(tmp_path, old, shard_bytes=10)
    export.write_tensors(tmp_path, WEIGHTS, shard_bytes=10**6, dtype=torch.float16)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    ((_, stored), *_) = checkpoint.read_tensors(tmp_path / "model.safetensors")
    assert stored.dtype == torch.float16
    assert torch.equal(fill(tmp_path).layer.weight, WEIGHTS["old.weight"])


def test_tables():
    table = {"a.{}.w": "b.{}", "a.{}": "c.{}", "plain": "d"}
    assert checkpoint.translate("a.1.w", table) == "b.1"
    assert checkpoint.translate("a.1.x", table) == "c.1.x"
    assert checkpoint.translate("plain", table) == "d"
    assert checkpoint.translate("a.", table) is None
    assert checkpoint.translate_back("b.7", {"a.{}.w": "b.{}"}) == "a.7.w"


NAMES = checkpoint.WEIGHT_NAMES


@pytest.mark.parametrize(
    ("new", "old"), [(a, b) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]]
)
def test_of_several_sets_transformers_own_order_decides(tmp_path, new, old, caplog):
    """Any two sets: the one that transformers' own loader takes; the other one is named."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    for name, shift in ((new, 0.0), (old, 1.0)):
        values = {key: value + shift for key, value in weights.items()}
        file = name.removesuffix(".index.json")
        if name != file:
            file = file.replace(".", f"-{NAMES.index(name)}-of-1.")
            (tmp_path / name).write_text(
                json.dumps({"metadata": {}, "weight_map": dict.fromkeys(values, file)})
            )
        is_safe = file.endswith("safetensors")
        save_file(values, tmp_path / file, metadata={"format": "pt"}) if is_safe else torch.save(
            values, tmp_path / file
        )
    config.save_pretrained(tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    found = {
        key: value
        for path in checkpoint.weight_files(tmp_path, what="part")
        for key, value in checkpoint.read_tensors(path)
    }
    assert all(torch.equal(found[key], value) for key, value in theirs.items())
    assert torch.equal(found["model.norm.weight"], weights["model.norm.weight"])
    assert old in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (None, "weight_map: found None, expected key -> file"),
        ({}, "weight_map: found {}"),
        ([], r"weight_map: found \[\]"),
        ("model.safetensors", "weight_map: found 'model.safetensors'"),
        ({"old.weight": 3}, "found 3, expected a file of this folder"),
        ({"old.weight": "../other.safetensors"}, "expected a file of this folder"),
        ({"old.weight": "/etc/passwd"}, "expected a file of this folder"),
    ],
)
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("json")])
@pytest.mark.parametrize("is_alone", [True, False])
def test_an_index_that_says_nothing(tmp_path, places, message, name, is_alone):
    if not is_alone:
        save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / name).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(BadInput, match=message) as error:
        checkpoint.weight_files(tmp_path, what="part")
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("name", ["w.bin", "w.pth", "w.pt"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 1},
        lambda weights: {"module": weights, "global_step": 7, "args": {"lr": 0.1}},
        lambda weights: {"model": {"state_dict": weights}},
        lambda weights: {"model_state_dict": weights, "optimizer": {"state": {}}},
        lambda weights: {f"module.{key}": value for key, value in weights.items()},
        lambda weights: {f"_orig_mod.{key}": value for key, value in weights.items()},
        lambda weights: {"model": {f"_orig_mod.module.{k}": v for k, v in weights.items()}},
    ],
)
def test_weights_in_any_wrapping(tmp_path, name, wrap):
    torch.save(wrap(WEIGHTS), tmp_path / name)
    assert torch.equal(fill(tmp_path / name).layer.weight, WEIGHTS["old.weight"])


def test_a_prefix_of_a_wrapped_model_in_safetensors(tmp_path):
    model = fill(tmp_path / "w.safetensors", {f"module.{k}": v for k, v in WEIGHTS.items()})
    assert torch.equal(model.layer.bias, WEIGHTS["old.bias"])
    mixed = {"module.old.weight": WEIGHTS["old.weight"], "old.bias": WEIGHTS["old.bias"]}
    with pytest.raises(BadInput, match=r"unexpected key 'module\.old\.weight'"):
        fill(tmp_path / "w.safetensors", mixed)


def test_a_file_without_tensors_says_what_it_holds(tmp_path):
    torch.save({"optimizer": {"state": {}}, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(BadInput, match=r"w\.pt: no tensors in it; it holds optimizer, epoch"):
        list(checkpoint.read_tensors(tmp_path / "w.pt"))
