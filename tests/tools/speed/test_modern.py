"""A step on classes of transformers beside TRL's: the recorded classes of shared/golden/hf."""

import os
from pathlib import Path

import pytest

from hadpo.records import BadInput
from tools.speed import machine, modern, steps

ROOT = Path(os.environ.get("HADPO_SHARED") or Path(__file__).parents[4] / "shared") / "golden/hf"
IS_MISSED = "trl is not installed: pip install hadpo[bench]"


def folder_of_a_class() -> Path:
    """Any case of Qwen2.5-VL: M-RoPE, and pixels that are no square."""
    found = sorted(ROOT.glob("qwen2_5_vl/*/"))
    assert found, f"no case of Qwen2.5-VL below {ROOT}"
    return found[0]


@pytest.mark.extra
@pytest.mark.skipif(not machine.version("trl"), reason=IS_MISSED)
@pytest.mark.skipif(not ROOT.is_dir(), reason=f"no {ROOT}")
def test_the_loss_is_trls_and_every_way_has_its_times():
    folder = folder_of_a_class()
    two = modern.Two(folder, (12, 7))
    losses = {name: two.step(name) for name in modern.WAYS}
    assert losses == pytest.approx(dict.fromkeys(losses, losses[steps.OURS]), abs=1e-5)
    found = modern.run(folder, "pope", rounds=2)
    assert found["seconds"].keys() == losses.keys()
    assert {len(each) for each in found["seconds"].values()} == {2}
    assert f"{steps.TRL} / {steps.OURS}" in found["ratios"]
    assert 0 < found["image_tokens"] < found["prompt_tokens"]


@pytest.mark.extra
@pytest.mark.skipif(not machine.version("trl"), reason=IS_MISSED)
@pytest.mark.skipif(not ROOT.is_dir(), reason=f"no {ROOT}")
def test_times_of_another_loss_mean_nothing(monkeypatch):
    """Half the answers' tokens for TRL alone: another loss, and so no time is taken."""
    whole = modern.Two._rows

    def half(two, question):
        made = whole(two, question)
        made["completion_mask"][:, 1::2] = 0
        return made

    monkeypatch.setattr(modern.Two, "_rows", half)
    with pytest.raises(BadInput, match="losses differ"):
        modern.run(folder_of_a_class(), "pope", rounds=1)
