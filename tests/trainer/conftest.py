"""What the tests of training share: settings, a training in one call, comparing adapters."""

from collections.abc import Callable

import pytest

from hadpo.config import TrainConfig


@pytest.fixture(scope="session")
def fast() -> TrainConfig:
    """Settings under which the tiny model learns in a few updates."""
    return TrainConfig(
        learning_rate=1e-3,
        batch_pairs=4,
        micro_batch_pairs=2,
        lora_rank=4,
        lora_alpha=8.0,
        max_length=512,
        epochs=1.0,
    )


@pytest.fixture(scope="session")
def weights() -> Callable:
    """A copy of a backbone's adapter."""
    from hadpo import adapter

    return lambda backbone: {key: v.clone() for key, v in adapter.state(backbone).items()}


@pytest.fixture(scope="session")
def learn(weights: Callable) -> Callable:
    """Metrics of all updates, and the adapter that they made."""
    from hadpo import trainer

    def run(backbone, pairs, config, **arguments):
        return list(trainer.steps(backbone, pairs, config, **arguments)), weights(backbone)

    return run


@pytest.fixture(scope="session")
def equal() -> Callable:
    """Whether two tables of tensors are equal, bit for bit."""
    import torch

    def same(a, b):
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    return same
