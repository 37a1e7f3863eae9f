"""Token log-probabilities without the logits, and the preference losses: pure functions."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_VALUES = 2**24  # logits that exist at one time: 64 MiB in float32


def token_logps(
    hidden: Float[Tensor, "tokens width"],
    head: Float[Tensor, "vocab width"],
    targets: Int[Tensor, " tokens"],
    *,
    chunk_tokens: int | None = None,
    scale: float = 1.0,
    softcap: float = 0.0,
) -> Float[Tensor, " tokens"]:
    """Log-probability of each target token, in nats, in float32 (float64 for float64 states).

    The logits of a few tokens at a time are computed, reduced and forgotten. With a frozen head the
    gradient by `hidden`, W[y] - softmax(h W^T) W, is taken in the same sweep, so that the backward
    pass is a product; with a trainable head the logits are computed again there.

    Args:
        hidden: state that predicts each target.
        head: weight of the output layer.
        targets: ids of the tokens.
        chunk_tokens: tokens per sweep; None: as many as fit `CHUNK_VALUES`.
        scale: factor of the logits (Cohere, Granite).
        softcap: c of c tanh(logits / c) (Gemma 2, https://arxiv.org/abs/2408.00118); 0: none.

    Raises:
        RuntimeError: on a second derivative, which this function does not have.
    """
    if chunk_tokens is None:
        chunk_tokens = max(1, CHUNK_VALUES // head.shape[0])
    return _TokenLogps.apply(hidden, head, targets, chunk_tokens, scale, softcap)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        chunk: int,
        scale: float,
        softcap: float,
    ) -> Tensor:
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        logps, normalisers, gradients = [], [], []
        for h, y in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = logit_map(_upcast(h @ head.T), scale, softcap)
            normaliser = logits.logsumexp(dim=-1)
            logps.append(logits.gather(1, y[:, None])[:, 0] - normaliser)
            if wants_head:
                normalisers.append(normaliser)
            elif wants_hidden:
                slope = _slope(logits, normaliser, y, scale, softcap)
                gradients.append(slope.to(head.dtype) @ head)
        ctx.chunk, ctx.map = chunk, (scale, softcap)
        ctx.is_recomputed = wants_head
        if wants_head:
            ctx.save_for_backward(hidden, head, targets, _joined(normalisers, hidden))
        elif wants_hidden:
            ctx.save_for_backward(torch.cat(gradients) if gradients else hidden)
        return _joined(logps, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not ctx.is_recomputed:
            (gradients,) = ctx.saved_tensors
            return (grad[:, None] * gradients).to(gradients.dtype), *[None] * 5
        hidden, head, targets, normalisers = ctx.saved_tensors
        by_hidden = torch.empty_like(hidden)
        by_head = torch.zeros_like(head, dtype=_upcast(head[:0]).dtype)
        for i in range(0, len(hidden), ctx.chunk):
            part = slice(i, i + ctx.chunk)
            logits = logit_map(_upcast(hidden[part] @ head.T), *ctx.map)
            slope = _slope(logits, normalisers[part], targets[part], *ctx.map) * grad[part, None]
            by_hidden[part] = slope.to(head.dtype) @ head
            by_head += slope.T @ _upcast(hidden[part])
        wants_hidden = ctx.needs_input_grad[0]
        return by_hidden if wants_hidden else None, by_head.to(head.dtype), *[None] * 4


def _upcast(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def logit_map(logits: Tensor, scale: float, softcap: float) -> Tensor:
    """What a head does behind its product: a factor, then c tanh(x / c)."""
    if scale != 1.0:
        logits = logits * scale
    return softcap * (logits / softcap).tanh() if softcap else logits


def _slope(
    logits: Tensor, normaliser: Tensor, targets: Tensor, scale: float, softcap: float
) -> Tensor:
    """Derivative of log-probabilities by the product: (one-hot - softmax) times the map's."""
    slope = (logits - normaliser[:, None]).exp_().neg_()
    slope = slope.scatter_add_(1, targets[:, None], torch.ones_like(slope[:, :1]))
    if softcap:
        slope = slope * (1 - (logits / softcap) ** 2)
    return slope * scale if scale != 1.0 else slope


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(parts) if parts else _upcast(like.new_zeros(0))


class PreferenceLoss(NamedTuple):
    """One value per pair; rewards are detached."""

    losses: Float[Tensor, " pairs"]
    chosen_rewards: Float[Tensor, " pairs"]
    rejected_rewards: Float[Tensor, " pairs"]


def preference_loss(
    policy_chosen_logps: Float[Tensor, " pairs"],
    policy_rejected_logps: Float[Tensor, " pairs"],
    reference_chosen_logps: Float[Tensor, " pairs"],
    reference_rejected_logps: Float[Tensor, " pairs"],
    *,
    beta: float,
    kind: Literal["sigmoid", "ipo"] = "sigmoid",
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """How little the policy prefers the chosen answers, compared with the reference.

    Args:
        policy_chosen_logps: log-probabilities, summed over the tokens of an answer.
        policy_rejected_logps: as above.
        reference_chosen_logps: as above, without gradient.
        reference_rejected_logps: as above, without gradient.
        beta: strength of the reference.
        kind: "sigmoid" is DPO, Eq. 7 of https://arxiv.org/abs/2305.18290; "ipo" is Eq. 17 of
            https://arxiv.org/abs/2310.12036, on sums as in the paper.
        label_smoothing: share of the labels assumed to be wrong, Eq. 3 of
            https://ericmitchell.ai/cdpo.pdf; sigmoid only.

    Raises:
        ValueError: label smoothing outside [0, 0.5), or without sigmoid.
    """
    if not 0 <= label_smoothing < 0.5 or (kind != "sigmoid" and label_smoothing):
        raise ValueError(f"label_smoothing {label_smoothing} with {kind}: sigmoid takes 0 to 0.5")
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    margins = chosen - rejected
    if kind == "sigmoid":
        losses = -F.logsigmoid(beta * margins) * (1 - label_smoothing)
        losses = losses - F.logsigmoid(-beta * margins) * label_smoothing
    else:
        losses = (margins - 1 / (2 * beta)) ** 2
    return PreferenceLoss(losses, beta * chosen.detach(), beta * rejected.detach())


def language_model_loss(
    logps: Float[Tensor, " pairs"], lengths: Int[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Mean cross-entropy per token of each answer, the end marker included, in nats."""
    return -logps / lengths
