"""Fused log-probabilities against log_softmax, and the preference losses by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo import loss


def naive_logps(hidden, head, targets):
    logits = hidden.double() @ head.double().T
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def draw(tokens, width, vocab, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    head = torch.randn(vocab, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (tokens,), generator=generator)
    return hidden.to(dtype), head.to(dtype), targets


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 9), st.integers(1, 6), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99)
)
def test_equals_log_softmax_in_float64(tokens, width, vocab, chunk, seed):
    hidden, head, targets = draw(tokens, width, vocab, torch.float64, seed)
    found = loss.token_logps(hidden, head, targets, chunk_tokens=chunk)
    assert found.shape == (tokens,) and found.dtype == torch.float64
    assert torch.allclose(found, naive_logps(hidden, head, targets), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)],
)
def test_log_sum_exp_is_float32_under_any_dtype(dtype, tolerance):
    hidden, head, targets = draw(50, 16, 300, dtype)
    found = loss.token_logps(hidden, head, targets)
    assert found.dtype == torch.float32
    assert (found - naive_logps(hidden, head, targets)).abs().max() < tolerance


@pytest.mark.parametrize("is_head_frozen", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_gradients_equal_autograd(is_head_frozen, chunk):
    hidden, head, targets = draw(7, 5, 11, torch.float64)
    hidden.requires_grad_()
    head.requires_grad_(not is_head_frozen)
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    inputs = [hidden] if is_head_frozen else [hidden, head]
    found = loss.token_logps(hidden, head, targets, chunk_tokens=chunk)
    expected = naive_logps(hidden, head, targets)
    ours = torch.autograd.grad((found * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-13, rtol=1e-12)


def test_trainable_head_alone():
    hidden, head, targets = draw(4, 5, 11, torch.float64)
    head.requires_grad_()
    ours = torch.autograd.grad(loss.token_logps(hidden, head, targets).sum(), head)[0]
    theirs = torch.autograd.grad(naive_logps(hidden, head, targets).sum(), head)[0]
    assert torch.allclose(ours, theirs, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_under_smaller_dtypes(dtype):
    hidden, head, targets = draw(20, 16, 300, dtype)
    hidden.requires_grad_()
    ours = torch.autograd.grad(loss.token_logps(hidden, head, targets).sum(), hidden)[0]
    theirs = torch.autograd.grad(naive_logps(hidden, head, targets).sum(), hidden)[0]
    assert ours.dtype == dtype
    scale = 1e-5 if dtype == torch.float32 else 2e-2
    assert (ours - theirs).abs().max() < scale * theirs.abs().max()


def test_second_derivatives_are_refused():
    hidden, head, targets = draw(3, 4, 5, torch.float64)
    hidden.requires_grad_()
    total = loss.token_logps(hidden, head, targets).pow(2).sum()
    (first,) = torch.autograd.grad(total, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_large_logits_do_not_overflow():
    hidden, head = torch.full((1, 1), 200.0), torch.tensor([[200.0], [-200.0]])
    assert loss.token_logps(hidden, head, torch.tensor([0])).item() == 0.0
    assert loss.token_logps(hidden, head, torch.tensor([1])).item() == -80000.0


LOGPS = (
    torch.tensor([-0.5, -10.0, -1.0]),
    torch.tensor([-0.1, -30.0, -21.0]),
    torch.tensor([-0.5, -10.1, -0.1]),
    torch.tensor([-0.1, -20.1, -0.1]),
)


def test_dpo_by_hand():
    found = loss.preference_loss(*LOGPS, beta=0.1)
    margins = torch.tensor([0.0, 0.1 * (0.1 + 9.9), 0.1 * (-0.9 + 20.9)])
    assert torch.allclose(found.losses, torch.log1p(torch.exp(-margins)), atol=1e-6)
    assert torch.allclose(found.chosen_rewards - found.rejected_rewards, margins, atol=1e-6)


def test_label_smoothing_by_hand():
    found = loss.preference_loss(*LOGPS, beta=0.1, label_smoothing=0.2).losses
    margins = torch.tensor([0.0, 1.0, 2.0])
    expected = 0.8 * torch.log1p(torch.exp(-margins)) + 0.2 * torch.log1p(torch.exp(margins))
    assert torch.allclose(found, expected, atol=1e-6)


def test_ipo_by_hand():
    found = loss.preference_loss(*LOGPS, beta=0.1, kind="ipo").losses
    assert torch.allclose(found, (torch.tensor([0.0, 10.0, 20.0]) - 5.0) ** 2, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_preference_is_exactly_ln_2(dtype):
    logps = torch.tensor([-300.25, -7.125], dtype=dtype)
    found = loss.preference_loss(logps, logps * 2, logps, logps * 2, beta=0.1)
    assert torch.equal(found.losses, torch.full((2,), 2.0, dtype=dtype).log())
    assert torch.equal(found.chosen_rewards, torch.zeros(2, dtype=dtype))


def test_rewards_carry_no_gradient():
    logps = torch.zeros(2, requires_grad=True)
    found = loss.preference_loss(logps, logps, logps.detach(), logps.detach(), beta=0.1)
    assert found.losses.requires_grad
    assert not found.chosen_rewards.requires_grad and not found.rejected_rewards.requires_grad


@pytest.mark.parametrize(
    "arguments",
    [{"label_smoothing": -0.1}, {"label_smoothing": 0.5}, {"kind": "ipo", "label_smoothing": 0.1}],
)
def test_settings_without_a_meaning(arguments):
    with pytest.raises(ValueError, match="label_smoothing"):
        loss.preference_loss(*LOGPS, beta=0.1, **arguments)


def test_language_model_loss_is_a_mean_over_tokens():
    logits = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, 3, 4, 5]])
    logps = logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    found = loss.language_model_loss(logps.sum(-1), torch.tensor([5]))
    assert math.isclose(found.item(), F.cross_entropy(logits[0], targets[0]).item(), rel_tol=1e-6)


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 30.0), (0.25, 0.0), (0.5, 2.0)])
@pytest.mark.parametrize("is_head_trained", [False, True])
def test_softcap_and_scale_are_in_the_gradient(scale, softcap, is_head_trained):
    """Against autograd on c tanh(s h W / c), in float64; by the states and by the head."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(7, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    head.requires_grad_(is_head_trained)
    targets = torch.arange(7)
    logits = scale * hidden @ head.T
    logits = softcap * (logits / softcap).tanh() if softcap else logits
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    found = loss.token_logps(hidden, head, targets, chunk_tokens=3, scale=scale, softcap=softcap)
    assert torch.allclose(found, expected, atol=1e-14)
    wanted = [hidden, head] if is_head_trained else [hidden]
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    ours = torch.autograd.grad((found * weights).sum(), wanted)
    theirs = torch.autograd.grad((expected * weights).sum(), wanted)
    for own, other in zip(ours, theirs, strict=True):
        assert torch.allclose(own, other, atol=1e-13)
