"""Packed rows against the plain way: one row per answer, all logits, log_softmax.

The plain way lives here, as the reference that the fast path must equal.
"""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hadpo import adapter, backbones, batch, loss
from hadpo.batch import Example
from hadpo.images import ORIENTATION
from hadpo.records import BadInput, Pair
from hadpo.vlm.prompt import IMAGE, Prompts, PromptTemplate

ORDERS = {  # the four families: where begin marker, image tokens and instruction stand
    "llava": "<s>USER: <image>\n{instruction} ASSISTANT:",
    "instructblip": "<image></s>{instruction}",
    "minigpt4": "<s>[INST] <Img><image></Img> {instruction} [/INST] ",
    "mplug_owl": "<s>A chat.<|>\nHuman: <image><|>\nHuman: <|>{instruction}\n<|>AI: ",
}
TEXTS = ["", "No", "Yes, there is.", "There is a red cup at the top left.", "é☃ 2 </s>"]


def pair(k, chosen, rejected, instruction="Is there a dog?", image="a"):
    return Pair(
        pair_id=f"{k}",
        image_id=image,
        image=image,
        instruction=instruction,
        chosen=chosen,
        rejected=rejected,
        kind="pope",
        source="test",
    )


def naive_logps(backbone, examples, image_tokens, sides=("chosen", "rejected")):
    """Two rows per pair, right-padded, all logits; as HA-DPO's trainers do."""
    rows = [(e, getattr(e, side)) for side in sides for e in examples]
    images = None if image_tokens is None else torch.cat([image_tokens] * len(sides))
    longest = max(len(e.prefix) + len(answer) for e, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for r, (example, answer) in enumerate(rows):
        full = [*example.prefix, *answer]
        ids[r, : len(full)] = torch.tensor(full)
        labels[r, len(example.prefix) : len(full)] = torch.tensor(answer)
    embeds = backbone.embed(ids, images)
    mask = torch.ones(longest, longest, dtype=torch.bool).tril().expand(len(rows), 1, -1, -1)
    positions = torch.arange(longest).expand(len(rows), -1)
    hidden = backbone.hidden_states(embeds, mask, positions)
    logps = (hidden @ backbone.lm_head_weight.T)[:, :-1].log_softmax(-1)
    targets = labels[:, 1:]
    picked = logps.gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return (picked * (targets != -100)).sum(-1).view(len(sides), len(examples))


def shake(backbone, seed=0):
    """An adapter whose B is not zero, so that every part of it has a gradient."""
    adapter.attach(backbone, rank=3, alpha=6.0, targets="q_proj,k_proj,v_proj,down_proj", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for value in adapter.state(backbone).values():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        value.copy_(noise.to(value.dtype) * 0.1)
    return [p for p in backbone.parameters() if p.requires_grad]


def dpo(policy, reference):
    return loss.preference_loss(*policy, *reference, beta=0.1).losses.mean()


@pytest.fixture(scope="module")
def exact(tiny_files):
    """A float64 model with an adapter, and its trainable parameters."""
    backbone = backbones.load("llava/mini", tiny_files, device="cpu").to(torch.float64)
    return backbone, shake(backbone)


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)), min_size=1, max_size=4),
    st.sampled_from(sorted(ORDERS)),
    st.integers(0, 9),
    st.sampled_from(["dense", "segments"]),
    st.sampled_from(["cpu", "cuda"]),
)
def test_packed_equals_two_rows(exact, float64_norm, texts, order, seed, attention, used_on):
    backbone, parameters = exact
    backbone.attention = attention
    template = PromptTemplate(ORDERS[order])
    backbone.PROMPTS = Prompts(train=template, evaluate=template)
    questions = ["Is there a dog?", "Describe this image in detail.", "an <image> </s> <s>"]
    pairs = [
        pair(k, chosen, rejected, questions[(k + seed) % 3], image="ab"[k % 2])
        for k, (chosen, rejected) in enumerate(texts)
    ]
    examples = [batch.tokenize(backbone, p, max_length=2048) for p in pairs]
    packed = batch.pack(examples, used_on=used_on)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, backbone.num_image_tokens, 32, generator=generator).double()
    image_tokens = images[list(packed.image_of)]
    embeds = backbone.embed(packed.ids, image_tokens)

    fast = batch.answer_logps(backbone, packed, embeds)
    plain = naive_logps(backbone, examples, image_tokens)
    with torch.no_grad(), adapter.disabled(backbone):
        reference = batch.answer_logps(backbone, packed, embeds)
        plain_reference = naive_logps(backbone, examples, image_tokens)
    assert ((fast - plain).abs() <= 1e-12 * plain.abs()).all()
    ours, theirs = dpo(fast, reference), dpo(plain, plain_reference)
    assert abs(ours - theirs) < 1e-12

    total = ours + 0.5 * loss.language_model_loss(fast[0], packed.lengths[0]).mean()
    plain_total = theirs + 0.5 * loss.language_model_loss(plain[0], packed.lengths[0]).mean()
    for a, b in zip(
        torch.autograd.grad(total, parameters),
        torch.autograd.grad(plain_total, parameters),
        strict=True,
    ):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max() + 1e-16


@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(TEXTS),
            st.sampled_from(TEXTS),
            st.sampled_from(["Is there a dog?", "Is there a cat?", "", "Describe this image."]),
            st.sampled_from("ab"),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([order for order in ORDERS if order != "instructblip"]),
    st.integers(2, 4),
    st.sampled_from(["dense", "segments"]),
)
def test_rows_of_many_pairs_equal_two_rows(
    exact, float64_norm, drawn, order, pairs_per_row, attention
):
    """The tree: unequal and equal instructions, one-token answers, several images."""
    backbone, parameters = exact
    backbone.attention = attention
    template = PromptTemplate(ORDERS[order])
    backbone.PROMPTS = Prompts(train=template, evaluate=template)
    pairs = [pair(k, c, r, question, image) for k, (c, r, question, image) in enumerate(drawn)]
    rows = batch.grouped(
        [batch.tokenize(backbone, p, max_length=2048) for p in pairs], pairs_per_row
    )
    assert max(map(len, rows)) <= pairs_per_row
    examples = [example for row in rows for example in row]
    assert sorted(e.pair_id for e in examples) == [p.pair_id for p in pairs]
    packed = batch.pack_rows(rows)
    assert packed.num_tokens == sum(map(batch.row_length, rows))
    generator = torch.Generator().manual_seed(len(drawn))
    pictures = torch.randn(2, backbone.num_image_tokens, 32, generator=generator).double()
    of_row = pictures[["ab".index(row[0].image) for row in rows]]
    of_pair = pictures[["ab".index(e.image) for e in examples]]

    def total(policy, reference):
        anchor = loss.language_model_loss(policy[0], packed.lengths[0]).mean()
        return dpo(policy, reference) + 0.5 * anchor

    def fast():
        return batch.answer_logps(backbone, packed, backbone.embed(packed.ids, of_row))

    def plain():
        return naive_logps(backbone, examples, of_pair)

    with torch.no_grad(), adapter.disabled(backbone):
        references = fast(), plain()
    ours, theirs = total(fast(), references[0]), total(plain(), references[1])
    assert abs(ours - theirs) < 1e-12 * max(1, abs(theirs))
    for a, b in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max() + 1e-16


def test_an_adapter_on_the_output_layer_is_trained(tiny_llava, float64_norm, tiny_pairs):
    """The recomputing path: the head's adapter gets the gradients that all logits give it."""
    backbone = tiny_llava("float64")
    adapter.attach(backbone, rank=3, alpha=6.0, targets="q_proj,lm_head")
    for value in adapter.state(backbone).values():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).double())
    examples = [batch.tokenize(backbone, p, max_length=512) for p in tiny_pairs[:3]]
    packed = batch.pack(examples)
    images = torch.randn(3, backbone.num_image_tokens, 32).double()
    parameters = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    assert any("lm_head.lora_B" in name for name in parameters)
    states = torch.randn(5, 32).double()
    head = backbone.language_model.lm_head
    assert torch.allclose(states @ backbone.lm_head_weight.T, head(states), atol=1e-12)
    fast = batch.answer_logps(backbone, packed, backbone.embed(packed.ids, images))
    plain = naive_logps(backbone, examples, images)
    assert torch.allclose(fast, plain, atol=0, rtol=1e-12)
    ours = torch.autograd.grad((fast[0] - fast[1]).sum(), list(parameters.values()))
    theirs = torch.autograd.grad((plain[0] - plain[1]).sum(), list(parameters.values()))
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        assert b.abs().max() > 0 and (a - b).abs().max() <= 1e-10 * b.abs().max(), name
    with torch.no_grad(), adapter.disabled(backbone):
        base = backbone.lm_head_weight
    assert torch.equal(base, backbone.language_model.lm_head.base_layer.weight)
    merged = backbone.lm_head_weight.detach().clone()
    adapter.merge(backbone)
    assert torch.allclose(backbone.lm_head_weight, merged, atol=1e-12)


def test_an_adapter_on_the_output_layer_takes_no_dropout(tiny_llava):
    with pytest.raises(BadInput, match="take lm_head out of lora_targets"):
        adapter.attach(tiny_llava(), rank=3, alpha=6.0, targets="lm_head", dropout=0.1)


IDS = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
TREES = st.lists(st.lists(st.tuples(IDS, IDS, IDS), min_size=1, max_size=3), min_size=1, max_size=3)


def trees(drawn):
    """Rows of pairs of prefix, chosen and rejected; what their prefixes share may be nothing."""
    return [
        [
            Example(
                pair_id=f"{r}-{k}",
                kind="pope",
                image=f"{r}",
                instruction="",
                prefix=prefix,
                chosen=chosen,
                rejected=rejected,
                cut=0,
            )
            for k, (prefix, chosen, rejected) in enumerate(row)
        ]
        for r, row in enumerate(drawn)
    ]


@given(TREES, st.sampled_from([("chosen", "rejected"), ("chosen",)]))
def test_parts_say_what_the_mask_says(drawn, sides):
    packed = batch.pack_rows(trees(drawn), sides=sides)
    for mask, parts in zip(packed.mask[:, 0], packed.parts, strict=True):
        end = 0
        seen = torch.zeros_like(mask)
        for part in parts:
            assert part.start == end < part.end  # no gap
            end = part.end
            for first, last in part.earlier:
                assert first < last <= part.start
                seen[part.start : end, first:last] = True
            seen[part.start : end, part.start : end].fill_diagonal_(True)
            seen[part.start : end, part.start : end] |= torch.ones(
                end - part.start, end - part.start, dtype=torch.bool
            ).tril()
        assert torch.equal(seen[:end], mask[:end])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES, st.sampled_from(["dense", "segments"]))
def test_trees_without_a_common_prefix_equal_two_rows(exact, float64_norm, drawn, attention):
    backbone, parameters = exact
    backbone.attention = attention
    rows = trees(drawn)
    packed = batch.pack_rows(rows)
    fast = batch.answer_logps(backbone, packed, backbone.embed(packed.ids))
    plain = naive_logps(backbone, [e for row in rows for e in row], None)
    assert ((fast - plain).abs() <= 1e-12 * plain.abs()).all()
    for a, b in zip(
        torch.autograd.grad((fast[0] - fast[1]).sum(), parameters, allow_unused=True),
        torch.autograd.grad((plain[0] - plain[1]).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert (a - b).abs().max() <= 1e-10 * max(1.0, b.abs().max())


def test_rows_share_what_is_common_and_nothing_else(tiny_llava):
    backbone = tiny_llava()
    pairs = [pair(k, "No.", "Yes.", f"Is there a {what}?") for k, what in enumerate(["dog", "cup"])]
    examples = [batch.tokenize(backbone, p, max_length=512) for p in pairs]
    (row,) = batch.grouped(examples, 2)
    alone = sum(batch.row_length([example]) for example in examples)
    saved = alone - batch.row_length(row)
    assert saved > backbone.num_image_tokens + 3  # the image and the words before and behind it
    packed = batch.pack_rows([row])
    common = saved
    seen = packed.mask[0, 0]
    second = len(examples[0].prefix) + sum(map(len, (examples[0].chosen, examples[0].rejected)))
    assert seen[second:, :common][: len(row[1].chosen)].all()
    assert not seen[second:, common:second].any()
    other = [examples[0], batch.tokenize(backbone, pair(2, "a", "b", image="b"), max_length=512)]
    with pytest.raises(ValueError, match="the one image they show"):
        batch.pack_rows([other])


@pytest.mark.parametrize("order", ORDERS)
def test_all_token_orders_are_read_alike(tiny_llava, order):
    backbone = tiny_llava()
    template = PromptTemplate(ORDERS[order])
    backbone.PROMPTS = Prompts(train=template, evaluate=template)
    example = batch.tokenize(backbone, pair(0, "No.", "Yes."), max_length=512)
    at = backbone.prompt_ids("Is there a dog?", prompt="train").index(IMAGE)
    n = backbone.num_image_tokens
    assert list(example.prefix[at : at + n]) == [IMAGE] * n and example.prefix.count(IMAGE) == n
    tokens = torch.randn(1, n, 32)
    embeds = backbone.embed(batch.pack([example]).ids, tokens)
    assert torch.equal(embeds[0, at : at + n], tokens[0])
    other = torch.tensor(example.prefix[at + n :])
    assert torch.equal(embeds[0, at + n : len(example.prefix)], backbone.embedding(other))


def test_image_tokens_that_depend_on_the_instruction(tiny_llava, monkeypatch):
    """InstructBLIP's seam: one encoder pass per image, one connector pass per row."""
    backbone = tiny_llava()
    seen = []

    def connect(features, instructions):
        seen.append((len(features), tuple(instructions)))
        shift = torch.tensor([float(len(text)) for text in instructions])
        return backbone.connector(features) + shift[:, None, None]

    monkeypatch.setattr(type(backbone), "image_tokens_depend_on_instruction", True)
    monkeypatch.setattr(backbone, "connect", connect)
    pixels = torch.randn(1, 3, 28, 28)
    tokens = backbone.image_tokens(pixels, ["a", "abc"], image_of=[0, 0])
    assert seen == [(2, ("a", "abc"))]
    assert torch.allclose(tokens[1] - tokens[0], torch.tensor(2.0), atol=1e-5)


def test_each_distinct_image_is_encoded_once(tiny_llava, tiny_pairs, monkeypatch):
    backbone = tiny_llava()
    encoded = []
    features = type(backbone).features
    monkeypatch.setattr(
        type(backbone), "features", lambda self, x: (encoded.append(len(x)), features(self, x))[1]
    )
    examples = [batch.tokenize(backbone, p, max_length=512) for p in tiny_pairs]
    packed = batch.pack(examples)
    embeds = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))
    assert encoded == [3] and len(packed.images) == 3
    assert packed.image_of == tuple(k % 3 for k in range(10))
    assert not embeds.requires_grad


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_untrained_policy_is_exactly_the_reference(tiny_llava, tiny_pairs, dtype):
    backbone = tiny_llava(dtype)
    adapter.attach(backbone, rank=4, alpha=8.0, targets="q_proj,v_proj")
    examples = [batch.tokenize(backbone, p, max_length=512) for p in tiny_pairs]
    packed = batch.pack(examples)
    embeds = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))
    with torch.no_grad(), adapter.disabled(backbone):
        reference = batch.answer_logps(backbone, packed, embeds)
    policy = batch.answer_logps(backbone, packed, embeds)
    assert policy.requires_grad and policy.dtype == torch.float32
    found = loss.preference_loss(*policy, *reference, beta=0.1)
    assert torch.equal(found.losses.detach(), torch.full((10,), 2.0).log())
    assert not found.chosen_rewards.any() and not found.rejected_rewards.any()


@pytest.mark.parametrize(("used_on", "multiple"), [("cpu", 8), ("cuda", 64)])
def test_rows_and_mask_by_hand(tiny_llava, used_on, multiple):
    backbone = tiny_llava()
    first = batch.tokenize(backbone, pair(0, "No.", "Yes, there is."), max_length=512)
    second = batch.tokenize(backbone, pair(1, "", "No"), max_length=512)
    packed = batch.pack([first, second], used_on=used_on)
    prefix, c, r = len(first.prefix), len(first.chosen), len(first.rejected)
    assert packed.ids.shape[1] == -(-(prefix + c + r) // multiple) * multiple
    expected = [*range(prefix + c), *range(prefix, prefix + r)]
    assert packed.positions[0, : prefix + c + r].tolist() == expected
    mask = packed.mask[0, 0]
    assert mask.any(dim=-1).all()
    assert not mask.triu(1).any()
    rejected = slice(prefix + c, prefix + c + r)
    assert not mask[rejected, prefix : prefix + c].any()
    assert mask[rejected, :prefix].all() and mask[prefix : prefix + c, :prefix].all()
    assert not mask[: prefix + c + r, prefix + c + r :].any()
    assert packed.targets.tolist()[: c + r] == [*first.chosen, *first.rejected]
    assert packed.sources[0] == packed.sources[c] == prefix - 1
    assert packed.lengths.tolist() == [[c, 1], [r, len(second.rejected)]]
    total = prefix + c + r + len(second.prefix) + 1 + len(second.rejected)
    assert packed.num_tokens == total
    assert math.isclose(packed.padding, 1 - total / packed.ids.numel())


def test_a_row_without_padding_keeps_its_answers_apart(tiny_llava):
    backbone = tiny_llava()
    for letters in range(1, 40):
        example = batch.tokenize(backbone, pair(0, "\x01" * letters, "x"), max_length=512)
        packed = batch.pack([example])
        if packed.padding == 0:
            start = len(example.prefix)
            middle = start + len(example.chosen)
            assert not packed.mask[0, 0, middle:, start:middle].any()
            return
    pytest.fail("no row filled its positions")


def test_long_answers_are_cut_and_counted(tiny_llava):
    backbone = tiny_llava()
    whole = batch.tokenize(backbone, pair(0, "No dog. " * 20, "Yes."), max_length=512)
    room = 7
    length = len(whole.prefix) + room
    cut = batch.tokenize(backbone, pair(0, "No dog. " * 20, "Yes."), max_length=length)
    assert (whole.cut, cut.cut) == (0, 1)
    assert cut.prefix == whole.prefix and cut.rejected == whole.rejected
    assert cut.chosen == (*whole.chosen[: room - 1], backbone.end_id) and len(cut.chosen) == room
    with pytest.raises(BadInput, match="raise max_length"):
        batch.tokenize(backbone, pair(0, "No", "Yes"), max_length=len(whole.prefix))


def test_picture_files_are_read_as_a_model_is_told(tiny_files, tmp_path):
    stored = Image.effect_noise((40, 20), 90).convert("RGB")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored.save(tmp_path / "a.png", exif=exif)
    turned = stored.transpose(Image.Transpose.ROTATE_270)
    for told, expected in (("as_stored", stored), ("upright", turned)):
        backbone = backbones.load("llava/mini", tiny_files, device="cpu", exif=told)
        (found,) = batch.read_pixels(backbone, [str(tmp_path / "a.png")])
        assert torch.equal(found, backbone.preprocess(expected))


def test_broken_images_are_named(tiny_llava, tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(BadInput, match=r"a\.jpg: no readable image"):
        batch.read_pixels(tiny_llava(), [str(tmp_path / "a.jpg")])
    with pytest.raises(BadInput, match=r"no image .*b\.jpg"):
        batch.read_pixels(tiny_llava(), [str(tmp_path / "b.jpg")])
