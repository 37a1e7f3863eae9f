"""Finetuning as a user does it: the photos' LRV data, from file to reloaded weights; bad input."""

import math
from dataclasses import replace

import pytest
import torch

from hadpo import adapter, batch, trainer
from hadpo.data import Report, lrv
from hadpo.records import BadInput
from hadpo.trainer.checkpoints import Stopping
from hadpo.trainer.examples import Examples


@pytest.fixture(scope="session")
def photos(shared):
    """LRV's instructions about the five photos."""
    report = Report()
    folder = shared / "data" / "photoset" / "lrv"
    found = list(lrv.read(folder / "filter_cap1.json", folder / "image", report))
    report.finish()
    assert len(found) == 35
    return found


@pytest.fixture(scope="session")
def lrv_settings(fast):
    """LRV V1's schedule and optimizer, a little faster."""
    return replace(
        fast,
        objective="sft",
        mean_over="tokens",
        schedule="cosine_from_start",
        learning_rate=3e-3,
        min_learning_rate=1e-3,
        warmup_learning_rate=1e-4,
        warmup_steps=1,
        weight_decay=0.05,
        max_answer_tokens=160,
        max_length=1024,
        batch_pairs=8,
        micro_batch_pairs=8,
        pairs_per_row=4,
        steps=5,
        lora_targets="q_proj,v_proj",
    )


def logits(backbone, example):
    packed = batch.pack([example], sides=("chosen",))
    with torch.no_grad():
        embeds = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))
        hidden = backbone.hidden_states(embeds, packed.mask, packed.positions)
        return hidden @ backbone.lm_head_weight.T


@pytest.mark.parametrize(
    ("case", "trained"),
    [
        ("minigpt4_vicuna0", "connector"),
        ("mplug_owl", "adapter"),
        ("mplug_owl", "connector"),
        ("minigpt4_vicuna0", "adapter+connector"),
    ],
)
def test_five_steps_saved_and_reloaded_bit_for_bit(
    golden, photos, lrv_settings, tmp_path, case, trained
):
    settings = replace(lrv_settings, trained=trained)
    backbone = golden(case)
    before = golden(case)
    held = photos[:5]
    found = list(
        trainer.steps(
            backbone, photos, settings, objective="sft", held_out=held, folder=tmp_path / "c"
        )
    )
    assert len(found) == 5
    assert all(step.metrics["grad_norm"] for step in found) and "eval_loss" in found[-1].metrics
    adapter.trained.save(backbone, tmp_path)
    assert adapter.trained.is_saved(tmp_path, settings)
    examples = Examples(backbone, held, settings)
    changed = {}
    if "connector" in trained:
        changed["connector"] = tmp_path / "connector"
        (file,) = changed["connector"].iterdir()
        content = torch.load(file, weights_only=True)
        if case == "minigpt4_vicuna0":  # the original layout
            assert set(content) == {"model"}
            assert set(content["model"]) == {"llama_proj.weight", "llama_proj.bias"}
    again = golden(case, **changed)
    if "adapter" in trained:
        adapter.load(again, tmp_path / "adapter")
    for example in examples:
        expected = logits(backbone, example)
        assert torch.equal(expected, logits(again, example))
        assert not torch.equal(expected, logits(before, example))
    adapter.trained.end(backbone)
    for example in examples:
        assert torch.equal(logits(backbone, example), logits(before, example))


@pytest.mark.parametrize("trained", ["connector", "adapter+connector"])
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    golden, photos, lrv_settings, tmp_path, trained
):
    settings = replace(lrv_settings, trained=trained, checkpoint_every=2)
    whole, part = golden("minigpt4_vicuna0"), golden("minigpt4_vicuna0")
    list(trainer.steps(whole, photos, settings, objective="sft"))
    for step in trainer.steps(part, photos, settings, objective="sft", folder=tmp_path):
        if step.step == 3:
            break
    resumed = golden("minigpt4_vicuna0")
    steps = list(trainer.steps(resumed, photos, settings, objective="sft", folder=tmp_path))
    assert [step.step for step in steps] == [2, 3, 4]
    expected, found = adapter.trained.state(whole), adapter.trained.state(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_it_stops_early(golden, photos, lrv_settings, tmp_path):
    settings = replace(
        lrv_settings,
        learning_rate=0.0,  # nothing becomes better
        min_learning_rate=0.0,
        warmup_steps=0,
        trained="connector",
        steps=20,
        checkpoint_every=2,
        early_stop=2,
    )
    arguments = {"objective": "sft", "held_out": photos[:5], "folder": tmp_path}
    found = list(trainer.steps(golden("minigpt4_vicuna0"), photos[5:], settings, **arguments))
    assert len(found) == 6  # the first checkpoint is the best, and two are not better
    again = trainer.steps(golden("minigpt4_vicuna0"), photos[5:], settings, **arguments)
    assert list(again) == []


def test_what_had_the_lowest_loss_is_kept():
    weights = {"w": torch.zeros(2)}
    stopping = Stopping(2)
    for loss, is_over in ((3.0, False), (2.0, False), (None, False), (1.5, False), (1.6, False)):
        weights["w"].fill_(loss or -1)
        assert stopping.look(loss, weights) is is_over
    again = Stopping(2)
    again.restore(stopping.state())
    weights["w"].fill_(9)
    assert again.look(1.5, weights) and again.is_over
    assert again.best == 1.5 and again.weights["w"].tolist() == [1.5, 1.5]
    never = Stopping(0)
    assert not never.look(5.0, weights) and not never.look(6.0, weights) and not never.weights


def test_a_connector_is_refused_under_dpo(fast, tiny_llava, tiny_pairs):
    with pytest.raises(BadInput, match="a connector that learns would change it, too"):
        list(trainer.steps(tiny_llava(), tiny_pairs, replace(fast, trained="connector")))


def test_the_connector_learns_beside_the_adapter_as_in_ha_dpos_llava(fast, tiny_llava, tiny_pairs):
    """Policy and reference read through the one connector; a kept reference would be another's."""
    backbone = tiny_llava()
    base = {k: v.detach().clone() for k, v in backbone.connector_parameters().items()}
    settings = replace(fast, trained="adapter+connector", gamma=0.0, steps=2, learning_rate=1e-2)
    first, *_ = trainer.steps(backbone, tiny_pairs, settings)
    assert first.metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    moved = backbone.connector_parameters()
    assert all(not torch.equal(moved[key], value) for key, value in base.items())
    adapter.trained.end(backbone)
    assert all(torch.equal(backbone.connector_parameters()[k], v) for k, v in base.items())
    with pytest.raises(BadInput, match="adapter_off"):
        list(trainer.steps(backbone, tiny_pairs, replace(settings, reference="cache")))


def test_a_part_that_the_backbone_lacks_is_refused(
    fast, tiny_llava, tiny_instructions, monkeypatch
):
    backbone = tiny_llava()
    monkeypatch.setattr(type(backbone), "CONNECTOR_KEYS", {})
    settings = replace(fast, objective="sft", trained="connector")
    with pytest.raises(BadInput, match=r"trained: llava/mini has no connector"):
        list(trainer.steps(backbone, tiny_instructions, settings, objective="sft"))


@pytest.mark.parametrize("case", ["minigpt4_vicuna0", "mplug_owl", "minigpt4_llama2"])
def test_a_long_answer_is_cut_and_keeps_its_end_marker(golden, tiny_instructions, fast, case):
    backbone = golden(case)
    record = replace(tiny_instructions[0], answer="There is a red cup at the top left. " * 40)
    settings = replace(fast, objective="sft", max_length=4096, max_answer_tokens=20)
    (example,) = examples = Examples(backbone, [record], settings)
    assert len(example.chosen) == 20 and example.cut == 1 and not examples.left_out
    assert list(example.chosen[-len(backbone.end_ids) :]) == backbone.end_ids
    (whole,) = Examples(backbone, [record], replace(settings, max_answer_tokens=0))
    assert len(whole.chosen) > 200 and whole.cut == 0


def test_what_leaves_nothing_to_learn_is_left_out_and_counted(golden, tiny_instructions, fast):
    backbone = golden("mplug_owl")
    long = replace(tiny_instructions[0], instruction="word " * 500)
    empty = replace(tiny_instructions[1], answer="  ")
    settings = replace(fast, objective="sft", max_length=300)
    examples = Examples(backbone, [long, empty, tiny_instructions[2]], settings)
    assert [example.pair_id for example in examples] == ["i-2"]
    assert examples.left_out == {"the prompt leaves no room for an answer": 1, "empty answer": 1}
    (step,) = trainer.steps(
        backbone, [long, empty, tiny_instructions[2]], replace(settings, steps=1), objective="sft"
    )
    loss = step.metrics["loss"]
    assert loss is not None and loss > 0  # never NaN
    with pytest.raises(BadInput, match="nothing to learn from"):
        Examples(backbone, [long, empty], settings)


@pytest.mark.parametrize("case", ["minigpt4_vicuna0", "mplug_owl", "llava", "instructblip_vicuna"])
def test_an_image_marker_in_an_instruction_is_text(golden, tiny_instructions, fast, case):
    """The original splits its prompt there, and has two halves too many."""
    from hadpo.vlm.prompt import IMAGE

    backbone = golden(case)
    settings = replace(fast, objective="sft", max_length=1024)
    for marker in ("<ImageHere>", "<image>", "<Img><ImageHere></Img>", "###"):
        record = replace(tiny_instructions[0], instruction=f"What is {marker} here?")
        (example,) = Examples(backbone, [record], settings)
        assert example.prefix.count(IMAGE) == backbone.num_image_tokens


def test_a_weight_that_is_not_above_0_is_refused(golden, tiny_instructions, fast):
    backbone = golden("mplug_owl")
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match=r"i-0: weight .* expected above 0"):
            Examples(backbone, [replace(tiny_instructions[0], weight=weight)], fast)


def test_captions_without_a_request_get_one(golden, tiny_instructions, fast):
    from hadpo.trainer.examples import REQUESTS

    backbone = golden("mplug_owl")
    records = [
        replace(r, instruction="", instruction_id=str(k))
        for k, r in enumerate(tiny_instructions * 4)
    ]
    for name in REQUESTS:
        settings = replace(fast, objective="sft", caption_requests=name, max_length=1024)
        examples = Examples(backbone, records, settings)
        assert {example.instruction for example in examples} == set(REQUESTS[name])
        again = Examples(backbone, records, settings)
        assert list(examples) == list(again)
