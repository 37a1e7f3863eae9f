"""Reading in parts with a cache says the same as reading at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo import backbones
from hadpo.vlm import decoder
from hadpo.vlm.backbone import right_padded


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


@pytest.mark.parametrize("way", ["select", "branch"])
@settings(deadline=None, max_examples=15)
@given(
    parts=st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=4), random=st.randoms()
)
def test_ragged_parts_equal_one_pass(backbone, way, parts, random):
    torch.manual_seed(0)
    image_tokens = torch.randn(2, backbone.num_image_tokens, 32)
    prefixes = [backbone.expand([1, -200]), backbone.expand([1, 9, 8, -200])]
    state = backbone.prefill(prefixes, image_tokens)
    image_of = [random.randrange(2) for _ in parts]
    state = getattr(state, way)(image_of)
    read = [list(prefixes[image]) for image in image_of]
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


def test_branches_keep_what_they_share_once_and_forget_what_nobody_shares(backbone):
    tokens = torch.randn(5, backbone.num_image_tokens, 32)
    state = backbone.prefill([backbone.expand([1, -200])] * 5, tokens)
    branches = state.branch([0, 0, 0, 1, 2, 3, 4])
    assert branches.prefix is not None
    assert branches.prefix.keys[0].data_ptr() == state.keys[0].data_ptr()  # not copied
    assert branches.keys[0].numel() == 0
    with pytest.raises(ValueError, match="cannot branch again"):
        branches.branch([0])
    few = branches.select([0, 2])
    assert few.prefix is not None
    assert (len(few.prefix.keys[0]), few.prefix.of) == (1, (0, 0))
    assert state.select([3]).prefix is None


def test_heads_that_share_keys_share_prefixes_too(tiny_files):
    from transformers import LlamaConfig, LlamaForCausalLM

    from hadpo.vlm import decoder

    torch.manual_seed(0)
    config = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "rms_norm_eps": 1e-5}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    built = decoder.build_llama(config, where="here")
    model = LlamaForCausalLM(LlamaConfig(**config, tie_word_embeddings=False)).eval()
    model.config._attn_implementation = built.config._attn_implementation
    embeds = torch.randn(2, 6, 32)
    counts = torch.tensor([6, 6])
    with torch.no_grad():
        _, state = decoder.grow_cache(model, None, embeds, counts)
        new, rows = torch.randn(3, 2, 32), [1, 0, 1]
        one, _ = decoder.grow_cache(model, state.branch(rows), new, torch.tensor([2, 1, 2]))
        other, _ = decoder.grow_cache(model, state.select(rows), new, torch.tensor([2, 1, 2]))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_states_are_never_changed(backbone):
    image_tokens = torch.randn(1, backbone.num_image_tokens, 32)
    state = backbone.prefill([backbone.expand([1, -200])], image_tokens)
    first, _ = backbone.extend(state, [[7, 8, 9]])
    again, grown = backbone.extend(state, torch.tensor([[7, 8, 9]]))
    assert torch.equal(first, again)
    assert len(state.select([0, 0, 0])) == 3 and len(state) == 1
    assert state.lengths.tolist() == [5] and grown.lengths.tolist() == [8]
    assert first.dtype == torch.float32 and not first.requires_grad


@pytest.mark.parametrize("way", ["select", "branch"])
def test_slots_give_what_beams_that_are_moved_give(backbone, way):
    """Random parents over more than one enlargement: each beam reads on behind its ancestors."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, backbone.num_image_tokens, 32, generator=generator)
    state = backbone.prefill([backbone.expand([1, -200])] * 2, tokens)
    _, state = backbone.extend(getattr(state, way)([0, 1, 0]), [[7, 8], [9], [5, 6, 4]])
    rows, beams = 3, 2
    moved, slots = state.select([0, 0, 1, 1, 2, 2]), state.slots(beams)
    before, lengths = [layer.clone() for layer in state.keys], state.lengths.tolist()
    for step in range(70):
        if step == 66:  # a row is done
            rows, moved, slots = 2, moved.select([2, 3, 4, 5]), slots.select([1, 2])
        parents = torch.randint(0, beams, (rows, beams), generator=generator)
        new = torch.randint(3, 350, (rows, beams), generator=generator)
        flat = (torch.arange(rows)[:, None] * beams + parents).flatten()
        expected, moved = backbone.extend(moved.select(flat), new.reshape(-1, 1))
        found, slots = backbone.extend(slots.follow(parents), new)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert slots.lengths.tolist() == moved.lengths[::beams].tolist()
    used = state.real.shape[1] + 70 * beams
    assert slots.keys[0].shape[2] == -(-used // (64 * beams)) * 64 * beams  # enlarged by 64 steps
    assert all(torch.equal(a, b) for a, b in zip(before, state.keys, strict=True))
    assert state.lengths.tolist() == lengths


def test_right_padded():
    assert right_padded([[1, 2], [3]]).tolist() == [[1, 2], [3, 0]]


def test_what_was_read_is_not_copied_once_more():
    """transformers' constructor concatenates: at each step all keys and values, once too often."""
    keys, values = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    real, lengths = torch.ones(2, 5, dtype=torch.bool), torch.full((2,), 5)
    cache = decoder.cache_of(decoder.KVState((keys,), (values,), real, lengths))
    layers: list = cache.layers
    assert layers[0].keys is keys and layers[0].values is values
    new = torch.randn(2, 3, 1, 4)
    grown, _ = cache.update(new, new, 0)
    assert torch.equal(grown, torch.cat([keys, new], dim=2))
    assert keys.shape[2] == 5  # a state never changes
    empty = decoder.KVState((), (), real[:, :0], torch.zeros(2, dtype=torch.long))
    first, _ = decoder.cache_of(empty).update(new, new, 0)
    assert torch.equal(first, new)
