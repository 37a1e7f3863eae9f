"""Kills, checkpoints, dropout that can be resumed, and losses that are no numbers."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from hadpo import backbones, trainer
from hadpo.records import BadInput
from hadpo.trainer import checkpoints


@pytest.mark.parametrize("change", [{}, {"lora_dropout": 0.3}, {"description_share": 0.5}])
def test_killed_and_resumed_ends_bitwise_equal(
    fast, learn, equal, tiny_llava, tiny_pairs, tmp_path, change
):
    config = replace(fast, steps=7, checkpoint_every=3, log_every=2, gamma=0.3, **change)
    whole, expected = learn(tiny_llava(), tiny_pairs, config)
    killed = []
    for step in trainer.steps(tiny_llava(), tiny_pairs, config, folder=tmp_path):
        killed.append(step)
        if step.step == 4:
            break  # updates 3 and 4 are done, and lost
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003.pt"]
    torch.manual_seed(99)  # another process
    rest, found = learn(tiny_llava(), tiny_pairs, config, folder=tmp_path)
    assert equal(found, expected)
    assert rest == [step for step in whole if step.step > 2]
    assert killed == [step for step in whole if step.step <= 4]
    nothing, again = learn(tiny_llava(), tiny_pairs, config, folder=tmp_path)
    assert nothing == [] and equal(again, expected)


def test_dropout_is_real_and_only_in_the_policy(fast, learn, equal, tiny_llava, tiny_pairs):
    config = replace(fast, steps=3, lora_dropout=0.5)
    dropped, a = learn(tiny_llava(), tiny_pairs, config)
    _, b = learn(tiny_llava(), tiny_pairs, replace(config, lora_dropout=0.0))
    _, c = learn(tiny_llava(), tiny_pairs, config)
    assert equal(a, c) and not equal(a, b)
    assert dropped[0].metrics["loss"] == torch.tensor(2.0).log().item()


def test_dropout_leaves_the_callers_random_numbers_alone(fast, learn, tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    learn(backbone, tiny_pairs, replace(fast, steps=2, lora_dropout=0.5))
    assert torch.equal(torch.rand(3), expected)


def test_old_checkpoints_go_and_others_are_refused(fast, learn, tiny_llava, tiny_pairs, tmp_path):
    config = replace(fast, steps=5, checkpoint_every=1)
    learn(tiny_llava(), tiny_pairs, config, folder=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004.pt", "step-000005.pt"]
    assert checkpoints.last_step(tmp_path) == 5
    for change in ({"beta": 0.2}, {"train_seed": 7}, {"steps": 6}):
        name = next(iter(change))
        with pytest.raises(BadInput, match=rf"a training with other {name} \(found \S+, expected"):
            learn(tiny_llava(), tiny_pairs, replace(config, **change), folder=tmp_path)
    with pytest.raises(BadInput, match=r"other pairs \(found"):
        learn(tiny_llava(), tiny_pairs[:-1], config, folder=tmp_path)
    learn(tiny_llava(), tiny_pairs, replace(config, log_every=3), folder=tmp_path)


def test_a_checkpoint_of_other_weights_is_refused(fast, learn, tiny_folder, tiny_pairs, tmp_path):
    files = {"language_model": tmp_path / "lm", "vision": tiny_folder / "clip-tiny"}
    shutil.copytree(tiny_folder / "llava-tiny", files["language_model"])
    config, folder = replace(fast, steps=2, checkpoint_every=1), tmp_path / "checkpoints"
    learn(backbones.load("llava/mini", files, device="cpu"), tiny_pairs, config, folder=folder)
    elsewhere = files | {"language_model": tmp_path / "elsewhere"}
    shutil.copytree(files["language_model"], elsewhere["language_model"])
    same = backbones.load("llava/mini", elsewhere, device="cpu")
    assert learn(same, tiny_pairs, config, folder=folder)[0] == []
    path = elsewhere["language_model"] / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, path)
    other = backbones.load("llava/mini", elsewhere, device="cpu")
    with pytest.raises(BadInput, match=r"a training with other weights \(found"):
        learn(other, tiny_pairs, config, folder=folder)


def test_a_loss_that_is_no_number(fast, equal, weights, tiny_llava, tiny_pairs, tmp_path):
    backbone = tiny_llava()
    steps = trainer.steps(backbone, tiny_pairs, replace(fast, steps=9), folder=tmp_path)
    next(steps)
    good = weights(backbone)
    head = backbone.language_model.lm_head.weight
    head.data[5] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"update 1: .* pairs pair-\d.* saved in .*step-000001"
    ):
        list(steps)
    assert equal(good, weights(backbone))
    assert equal(torch.load(tmp_path / "step-000001.pt", weights_only=True)["adapter"], good)


def test_a_gradient_that_is_no_number(learn, fast, weights, equal, tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    steps = trainer.steps(backbone, tiny_pairs, replace(fast, steps=9))
    next(steps)
    good = weights(backbone)
    next(p for p in backbone.parameters() if p.requires_grad).register_hook(lambda g: g * torch.inf)
    with pytest.raises(FloatingPointError, match=r"update 1: the gradient .* nothing was saved"):
        list(steps)
    assert equal(good, weights(backbone))


def test_broken_images_stop_it_with_their_name(fast, learn, tiny_llava, tiny_pairs):
    pairs = [*tiny_pairs[:3], replace(tiny_pairs[3], image="gone.png")]
    with pytest.raises(BadInput, match=r"no image gone\.png"):
        learn(tiny_llava(), pairs, fast)


def test_anything_open_beside_the_adapter_is_refused(fast, learn, tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    backbone.vision.requires_grad_()
    with pytest.raises(ValueError, match="only the language model's LoRA may be trained"):
        learn(backbone, tiny_pairs, fast)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_the_checkpoint_before_a_damaged_one_goes_on(
    fast, learn, equal, tiny_llava, tiny_pairs, tmp_path, damage, caplog
):
    config = replace(fast, steps=6, checkpoint_every=2)
    whole, expected = learn(tiny_llava(), tiny_pairs, config, folder=tmp_path / "whole")
    _, _ = learn(tiny_llava(), tiny_pairs, replace(config, steps=6), folder=tmp_path / "kept")
    newest = tmp_path / "kept" / "step-000006.pt"
    content = bytearray(newest.read_bytes())
    place = content.find(b"\0" * 64) + 8000
    content[place] ^= 0xFF
    newest.write_bytes(
        {"cut": content[:-2000], "empty": b"", "flipped": content, "text": b"<html>"}[damage]
    )
    rest, found = learn(tiny_llava(), tiny_pairs, config, folder=tmp_path / "kept")
    assert [step.step for step in rest] == [4, 5] and equal(found, expected)
    assert rest == whole[4:]
    assert "step-000006.pt is damaged" in caplog.text
    assert (tmp_path / "kept" / "step-000006.damaged").is_file()
