"""How much memory a training step keeps at its peak: one formula for all who estimate it.

A LLaMA layer keeps about 14 h + 3 I numbers per position for its backward pass (h: width, I: of its
MLP), or h where it recomputes them (one layer at a time is then there in full).

Measured on mini, float32 on a CPU: a step grew by 0.98 times the activations and logits estimated
here, and by 2.4 times where activations are recomputed: there the scores of attention, which GPU
kernels never write out, are the larger part (tests/doctor/test_memory.py prints both).
"""

from dataclasses import dataclass

from hadpo.config import TrainConfig

_LOGITS = 2**24  # that exist at one time (loss.CHUNK_VALUES)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of one training step in one process."""

    weights: float
    adapter: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Their sum, without what CUDA and its allocator add."""
        return self.weights + self.adapter + self.activations + self.logits


@dataclass(frozen=True, kw_only=True)
class Language:
    """Sizes of a language model."""

    width: int
    inner: int
    layers: int
    vocab: int


def of_step(
    language: Language,
    train: TrainConfig,
    *,
    weights: float,
    trained: int,
    number_bytes: int,
    positions: int,
    scored: int,
) -> Estimate:
    """What a step keeps at its peak.

    Args:
        language: sizes of the language model.
        train: optimizer and recomputation are read.
        weights: bytes of the frozen weights.
        trained: number of weights that learn.
        number_bytes: of one number of the activations.
        positions: of the largest micro-batch.
        scored: answer tokens of it.
    """
    h, inner = language.width, language.inner
    per_weight = 10 if train.optimizer == "adamw_8bit" else 16  # weight, gradient, two moments
    kept = language.layers * (14 * h + 3 * inner)
    if train.activation_checkpointing:
        kept = language.layers * h + 14 * h + 3 * inner
    logits = 3 * 4 * min(_LOGITS, scored * language.vocab)
    return Estimate(
        weights=weights,
        adapter=float(trained * per_weight),
        activations=float(positions * kept * number_bytes),
        logits=float(logits + scored * h * number_bytes),
    )
