"""Which pairs meet in which update, how fast each learns, and settings that mean nothing."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo.config import load_recipe
from hadpo.records import BadInput
from hadpo.trainer import order

KINDS = ["description", "pope", "pope", "description", "pope"]


def test_an_epoch_visits_every_copy_once(fast):
    config = replace(fast, repeat_description=2, repeat_pope=1)
    batches = order.batches(KINDS, config)
    assert [len(b) for b in batches] == [4, 3]
    visits = sorted(i for b in batches for i in b)
    assert visits == [0, 0, 1, 2, 3, 3, 4]
    assert batches == order.batches(KINDS, config)
    assert batches != order.batches(KINDS, replace(config, train_seed=1))


@given(st.floats(0.1, 4), st.integers(1, 7), st.integers(0, 9))
@settings(max_examples=30)
def test_epochs_and_steps(fast, epochs, size, steps):
    config = replace(fast, epochs=epochs, batch_pairs=size, steps=steps)
    batches = order.batches(KINDS, config)
    total = steps * size or round(epochs * 5)
    assert sum(map(len, batches)) == total and all(len(b) == size for b in batches[:-1])
    stream = [i for b in batches for i in b]
    for start in range(0, total - 4, 5):
        assert sorted(stream[start : start + 5]) == [0, 1, 2, 3, 4]


def test_description_share_of_every_batch(fast):
    config = replace(fast, description_share=0.25, steps=6)
    for rows in order.batches(KINDS, config):
        assert sorted(KINDS[i] for i in rows) == ["description", "pope", "pope", "pope"]
    with pytest.raises(BadInput, match="asks for 1 description pairs"):
        order.batches(["pope"], config)
    assert order.batches(["pope"], replace(config, description_share=0.0))[0] == [0] * 4


def test_no_pairs(fast):
    with pytest.raises(BadInput, match="no pairs to train on"):
        order.batches([], fast)
    with pytest.raises(BadInput, match="no pairs to train on"):
        order.batches(["pope"], replace(fast, repeat_pope=0))


def test_schedules_by_hand(fast):
    config = replace(fast, warmup_steps=4)
    rates = [order.learning_rate(k, 12, config) / 1e-3 for k in range(12)]
    assert rates[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert rates[8] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.0380602)
    flat = replace(config, schedule="constant")
    assert [order.learning_rate(k, 12, flat) / 1e-3 for k in (2, 4, 11)] == [0.5, 1, 1]
    assert order.learning_rate(0, 12, replace(fast, warmup_steps=0)) == 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0, "epochs": 0.0}, "both 0"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing works with loss: sigmoid"),
        ({"loss": "ipo", "beta": 0.0}, "ipo divides"),
        ({"trained": "connector"}, "the reference is the same model with the adapter off"),
        ({"objective": "sft", "controls": "sft"}, "objective: sft has none"),
        ({"mixture": "a=1"}, "mixture: .* needs objective: sft"),
        ({"min_learning_rate": 1.0}, "min_learning_rate: found 1.0, expected at most"),
    ],
)
def test_settings_that_contradict_each_other(fast, change, message):
    with pytest.raises(BadInput, match=message):
        order.check(replace(fast, **change))


def test_an_unknown_control_is_refused_by_the_setting_itself(fast):
    with pytest.raises(ValueError, match="no 'stf'; did you mean 'sft'"):
        replace(fast, controls="stf")


def test_all_problems_at_once(fast):
    change = {"loss": "ipo", "label_smoothing": 0.1}
    with pytest.raises(BadInput) as error:
        order.check(replace(fast, mixture="a=1", min_learning_rate=1.0, **change))
    assert str(error.value).count("\n") == 3


def test_pairs_of_one_image_meet_in_an_update(fast):
    images = [f"{k % 5}.png" for k in range(20)]  # four pairs of each of five images
    config = replace(fast, pairs_per_row=4, micro_batch_pairs=4, batch_pairs=4, epochs=2.0)
    updates = order.batches(["pope"] * 20, config, images=images)
    assert [len({images[i] for i in update}) for update in updates] == [1] * 10
    assert sorted(i for update in updates[:5] for i in update) == list(range(20))
    assert updates[:5] != updates[5:]
    alone = order.batches(["pope"] * 20, replace(config, pairs_per_row=1), images=images)
    assert alone == order.batches(["pope"] * 20, replace(config, pairs_per_row=1))
    assert max(len({images[i] for i in update}) for update in alone) > 1


def test_rows_must_fit_into_micro_batches(fast):
    with pytest.raises(BadInput, match=r"pairs_per_row: found 3, expected at most .* \(2\)"):
        order.check(replace(fast, pairs_per_row=3, micro_batch_pairs=2))


def test_minigpt4s_schedule_at_every_step(fast):
    """common/optims.py of LRV, restated: spec 3.4; t runs over all epochs, i within one."""
    init, low, start, warmup = 3e-5, 1e-5, 1e-6, 200
    for epochs, iterations in ((20, 20000), (30, 3000), (5, 200)):  # LRV V1, Oxford HIC, stage 2
        total = epochs * iterations
        config = replace(
            fast,
            schedule="cosine_from_start",
            learning_rate=init,
            min_learning_rate=low,
            warmup_learning_rate=start,
            warmup_steps=warmup,
        )
        for t in range(0, total, 1 if total <= 90000 else 7):
            i = t % iterations
            if t < warmup:
                expected = min(init, start + (init - start) * i / max(1, warmup))
            else:
                expected = low + 0.5 * (init - low) * (1 + math.cos(math.pi * t / total))
            found = order.learning_rate(t, total, config)
            assert abs(found - expected) <= 1e-15 * expected


def test_a_linear_schedule_ends_at_0(fast):
    config = replace(fast, schedule="linear", learning_rate=2.0, warmup_steps=2)
    rates = [order.learning_rate(k, 6, config) for k in range(6)]
    assert rates == [0.0, 1.0, 2.0, 1.5, 1.0, 0.5]  # as transformers' "linear"


@given(st.integers(0, 9), st.sampled_from([1, 4, 10]), st.sampled_from([1, 3]))
def test_a_mixture_keeps_its_proportions_after_every_draw(fast, seed, size, per_row):
    shares = {"a": 0.7, "b": 0.2, "c": 0.1}
    sources = [name for name, count in (("a", 5), ("b", 40), ("c", 7)) for _ in range(count)]
    images = [str(k % 11) for k in range(len(sources))]
    config = replace(
        fast,
        objective="sft",
        mixture="a=0.7, b=0.2, c=0.1",
        steps=60,
        batch_pairs=size,
        micro_batch_pairs=10,
        pairs_per_row=per_row,
        train_seed=seed,
    )
    found = order.batches(["instruction"] * len(sources), config, images=images, sources=sources)
    drawn = [sources[i] for update in found for i in update]
    assert len(drawn) == 60 * size
    for count in range(1, len(drawn) + 1):
        for name, share in shares.items():
            assert abs(drawn[:count].count(name) - share * count) <= 1.5
    first_pass = [i for update in found for i in update if sources[i] == "a"][:5]
    assert sorted(first_pass[: min(5, len(first_pass))]) == [0, 1, 2, 3, 4][: len(first_pass)]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("a=0.5, z=0.5", r"nothing of z; no share for b; the sources are a, b"),
        ("a=1", "no share for b"),
        ("a=0.5, b=0.6", "shares above 0 that sum to 1"),
        ("a, b", "expected source=share"),
        ("a=nothing", "expected source=share"),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(fast, mixture, message):
    config = replace(fast, objective="sft", mixture=mixture)
    with pytest.raises(BadInput, match=message):
        order.check(config)
        order.batches(["instruction"] * 2, config, images=["1", "2"], sources=["a", "b"])


def test_a_share_of_the_updates_warms_up_as_transformers_does(fast):
    """HF's warmup_ratio: ceil(ratio * total), unless the number of steps is given."""
    for total, warmup in ((100, 3), (34, 2), (33, 1), (1, 1)):
        by_share = replace(fast, warmup_steps=0, warmup_share=0.03)
        by_steps = replace(fast, warmup_steps=warmup)
        for step in range(total):
            found = order.learning_rate(step, total, by_share)
            assert found == order.learning_rate(step, total, by_steps)
    given = replace(fast, warmup_steps=5, warmup_share=0.03)
    assert order.learning_rate(4, 100, given) == order.learning_rate(
        4, 100, replace(fast, warmup_steps=5)
    )


def test_rates_of_controls_that_are_not_trained_say_nothing():
    recipe = load_recipe("mini/llava", {"controls": ""}, stage="train")
    assert recipe.train.control_learning_rate
    order.check(recipe.train)
    with pytest.raises(BadInput, match="control_steps names sft_true; controls are: 'sft'"):
        order.check(load_recipe("mini/llava", {"controls": "sft"}, stage="train").train)
