"""Weights that a stage wrote are compared with its manifest before a later stage reads them."""

import pytest

from hadpo.records import BadInput, decode, input_hashes
from hadpo.runs import Manifest, check_weights


@pytest.fixture
def trained(tmp_path):
    """A finished stage with an adapter, whose hash its manifest has."""
    folder = tmp_path / "run" / "train"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"own")
    weights = input_hashes([folder / "adapter"], below=folder.parent)
    assert [*weights] == ["train/adapter/adapter_model.safetensors"]
    Manifest(
        **{"name": "run", "stage": "train", "recipe": "r", "is_mini": True, "settings": {}},
        **{"overrides": {}, "earlier": "", "parents": {}, "run_id": "1", "status": "done"},
        facts={"weights": weights},
    ).write(folder)
    return folder


def test_what_was_written_passes_also_elsewhere(trained, tmp_path):
    check_weights(trained, [trained / "adapter", trained / "connector"])
    moved = trained.parent.rename(tmp_path / "moved") / "train"
    check_weights(moved, [moved / "adapter"])


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "more.bin"])
def test_exchanged_and_added_weights_are_named(trained, name):
    (trained / "adapter" / name).write_bytes(b"another's")
    match = rf"train/adapter/{name}: not what stage train wrote; .*--redo-from train"
    with pytest.raises(BadInput, match=match):
        check_weights(trained, [trained / "adapter"])


def test_a_run_of_before_is_believed(trained):
    path = trained / "manifest.json"
    path.write_text(path.read_text().replace('"weights"', '"other"'))
    (trained / "adapter" / "adapter_model.safetensors").write_bytes(b"another's")
    check_weights(trained, [trained / "adapter"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"r": 4, "lora_alpha": NaN}', "f: lora_alpha: expected a finite number, found NaN"),
        ('{"rope": {"rope_theta": Infinity}}', "f: rope_theta: expected a finite number"),
        ('{"a": 1, "mean": [0.5, -Infinity]}', "f: mean: expected a finite number"),
        ('{"a": "x", "rate": 1e999}', "f: rate: expected a finite number, found 1e999"),
        ("[NaN]", "f: expected a finite number, found NaN"),
    ],
)
def test_a_number_that_is_not_finite_is_named_by_its_field(text, message):
    with pytest.raises(BadInput, match=message):
        decode(text, where="f")
