"""The fused LoRA drifts from peft's no farther than a mere change of rounding does."""

import pytest

from tools.speed import agree


@pytest.mark.slow
def test_a_few_updates_on_a_float32_base_are_the_same():
    found = agree.run(device="cpu", dtype="float32", updates=3, rate=2e-4)
    assert found[agree.FUSED]["loss"] < 1e-6
    assert found[agree.FUSED]["weights"] < 1e-3
    assert found[agree.FUSED]["size"] == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_the_drift_on_a_16_bit_base_is_that_of_rounding():
    found = agree.run(device="cpu", dtype="bfloat16", updates=20, rate=2e-4)
    assert found[agree.SEGMENTS]["weights"] > 0
    assert found["drift"] < 1.5
