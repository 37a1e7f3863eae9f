"""Pairs of one image in one row: the same update as in rows of their own; where it is refused."""

from dataclasses import replace

import pytest

from hadpo import batch, trainer
from hadpo.batch.packing import by_length, micro_batches
from hadpo.records import BadInput


@pytest.mark.parametrize("objective", ["dpo", "sft"])
@pytest.mark.parametrize("source", ["adapter_off", "cache"])
def test_an_update_does_not_depend_on_the_rows(
    fast, learn, tiny_llava, tiny_pairs, tmp_path, objective, source
):
    plain = replace(fast, batch_pairs=10, micro_batch_pairs=4, steps=3, gamma=0.5)
    grouped = replace(plain, pairs_per_row=3, reference=source)
    arguments = {"objective": objective, "held_out": tiny_pairs[:5]}
    alone, expected = learn(tiny_llava("float64"), tiny_pairs, plain, **arguments)
    backbone = tiny_llava("float64")
    together, found = learn(backbone, tiny_pairs, grouped, cache=tmp_path, **arguments)
    for a, b in zip(alone, together, strict=True):
        assert a.metrics.keys() == b.metrics.keys()
        for name in a.metrics.keys() - {"padding", "eval_padding"}:
            assert b.metrics[name] == pytest.approx(a.metrics[name], rel=1e-5, abs=1e-6), name
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= 1e-5 * value.abs().max()


def test_micro_batches_hold_at_most_so_many_pairs(tiny_llava, tiny_pairs):
    examples = [batch.tokenize(tiny_llava(), pair, max_length=512) for pair in tiny_pairs]
    rows = by_length(batch.grouped(examples, 3))
    assert sorted(map(len, rows)) == [1, 3, 3, 3]  # ten pairs of three images: 4, 3, 3
    parts = list(micro_batches(rows, 4))
    assert [row for part in parts for row in part] == rows
    assert all(sum(map(len, part)) <= 4 for part in parts) and len(parts) < len(rows)
    assert list(micro_batches([], 4)) == []


def test_refused_where_image_tokens_depend_on_the_instruction(
    fast, tiny_llava, tiny_pairs, monkeypatch
):
    backbone = tiny_llava()
    monkeypatch.setattr(type(backbone), "image_tokens_depend_on_instruction", True)
    with pytest.raises(BadInput, match=r"pairs_per_row: found 2, .* llava/mini depend on the"):
        list(trainer.steps(backbone, tiny_pairs, replace(fast, pairs_per_row=2)))
