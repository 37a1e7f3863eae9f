"""Packing by image computes the same as a row each, and the report says what was measured."""

import json

import pytest
import torch
from typer.testing import CliRunner

from hadpo.records import BadInput
from tools.speed import __main__ as cli
from tools.speed import cost, models, sft


@pytest.mark.parametrize("sizes", models.FINETUNED_TINY, ids=lambda sizes: sizes.name)
def test_every_way_is_equal_to_a_plain_row_each_in_float64(sizes):
    found = sft.equal(sizes, 4)
    assert set(found) == set(sft.NAMES)
    assert all(gaps["loss"] < 1e-12 and gaps["gradient"] < 1e-10 for gaps in found.values())


@pytest.mark.parametrize("sizes", models.FINETUNED_TINY, ids=lambda sizes: sizes.name)
def test_what_a_way_reads_and_encodes(sizes):
    ways = sft.Steps(sizes, 4, dtype=torch.float32)
    rows, images = {}, {}
    passes = []
    features = ways.backbone.features
    ways.backbone.features = lambda pixels: passes.append(len(pixels)) or features(pixels)
    for name, (packed, _) in ways.ways.items():
        passes.clear()
        ways.step(lambda name=name: ways.loss(name))
        rows[name], images[name] = packed.num_tokens, sum(passes)
    own = sizes.rest + sizes.answers["instruction"]
    row = sizes.shared + own
    assert rows == {"rows": 4 * row, "rows_of_an_image": 4 * row, "packed": row + 3 * own}
    assert images == {"rows": 4, "rows_of_an_image": 1, "packed": 1}
    assert sizes.image_tokens == ways.backbone.num_image_tokens
    is_lora = ["lora_" in name for name in ways.parameters]
    assert is_lora and all(is_lora) == any(is_lora) == bool(sizes.rank)


def test_something_unequal_is_not_timed(monkeypatch):
    loss = sft.Steps.loss
    monkeypatch.setattr(
        sft.Steps, "loss", lambda self, n: loss(self, n) * (1.1 if n == sft.PACKED else 1)
    )
    with pytest.raises(BadInput, match="packed: not equal to a plain row each"):
        sft.run(models.FINETUNED_TINY, pairs=2, rounds=1)


def test_products_of_the_real_models_are_those_counted_by_hand():
    minigpt4, owl = (cost.finetuning_flops(sizes, 15) for sizes in models.FINETUNED_7B)
    assert minigpt4["encoder"] == pytest.approx(0.56e12, rel=0.05)  # EVA: 1.0e9 weights, 257 places
    assert owl["encoder"] == pytest.approx(0.19e12, rel=0.1)
    assert minigpt4["packed"] == pytest.approx(4 * 6.6e9 * 629, rel=0.08)


def test_the_command_writes_the_table_and_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "FINETUNED", models.FINETUNED_TINY)
    arguments = ["sft", "--json", str(tmp_path / "x/speed.json"), "--folder", str(tmp_path)]
    done = CliRunner().invoke(cli.app(), [*arguments, "--pairs", "3", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "x/speed.json").read_text())
    assert found == json.loads((tmp_path / "sft-cpu-toy.json").read_text())
    assert {"minigpt4-tiny", "mplug-owl-tiny"} == set(found["geometries"])
    page = (tmp_path / "sft-cpu-toy.md").read_text()
    assert page in done.output and "| minigpt4-tiny | 44, 39 |" in page
