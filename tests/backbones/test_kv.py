"""Reading in parts with a cache says the same as reading at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo import backbones
from hadpo.backbones._base import right_padded


@pytest.fixture(scope="module")
def backbone(tiny_files):
    return backbones.load("llava/mini", tiny_files, device="cpu")


def at_once(backbone, ids, image_tokens):
    n = len(ids)
    mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    with torch.no_grad():
        embeds = backbone.embed(torch.tensor([ids]), image_tokens)
        hidden = backbone.hidden_states(embeds, mask, torch.arange(n)[None])
    return hidden[0, -1] @ backbone.lm_head_weight.T


TOKENS = st.lists(st.integers(3, 350), min_size=1, max_size=6)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=4), st.randoms())
def test_ragged_parts_equal_one_pass(backbone, parts, random):
    torch.manual_seed(0)
    image_tokens = torch.randn(2, backbone.num_image_tokens, 32)
    prefix = backbone.expand([1, -200])
    state = backbone.prefill([prefix] * 2, image_tokens)
    image_of = [random.randrange(2) for _ in parts]
    state = state.select(image_of)
    read = [list(prefix) for _ in parts]
    for k in range(3):
        new = [row[k] for row in parts]
        logits, state = backbone.extend(state, new)
        for row, more in zip(read, new, strict=True):
            row += more
        assert state.lengths.tolist() == [len(row) for row in read]
        for i, row in enumerate(read):
            expected = at_once(backbone, row, image_tokens[image_of[i]][None])
            assert (logits[i] - expected).abs().max() < 1e-4
        order = list(range(len(read)))
        random.shuffle(order)  # as a beam search does
        state, parts = state.select(order), [parts[i] for i in order]
        read, image_of = [list(read[i]) for i in order], [image_of[i] for i in order]


def test_states_are_never_changed(backbone):
    image_tokens = torch.randn(1, backbone.num_image_tokens, 32)
    state = backbone.prefill([backbone.expand([1, -200])], image_tokens)
    first, _ = backbone.extend(state, [[7, 8, 9]])
    again, grown = backbone.extend(state, torch.tensor([[7, 8, 9]]))
    assert torch.equal(first, again)
    assert len(state.repeat(3)) == 3 and len(state) == 1
    assert state.lengths.tolist() == [5] and grown.lengths.tolist() == [8]
    assert first.dtype == torch.float32 and not first.requires_grad


def test_repeat_puts_copies_side_by_side(backbone):
    tokens = torch.randn(2, backbone.num_image_tokens, 32)
    state = backbone.prefill([backbone.expand([1, -200])] * 2, tokens).repeat(2)
    logits, _ = backbone.extend(state, torch.tensor([[5]] * 4))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[2], logits[3])
    assert not torch.allclose(logits[0], logits[2])


def test_right_padded():
    assert right_padded([[1, 2], [3]]).tolist() == [[1, 2], [3, 0]]
