"""How many questions fit: more memory, more questions; never fewer bytes than are used."""

import pytest
import torch

from hadpo.generation import Decoding
from hadpo.generation.answering import MOST, Progress, batch_that_fits, bytes_of_a_question

GREEDY = Decoding(name="greedy", max_new_tokens=20)
BEAMS = Decoding(name="beams", max_new_tokens=20, beams=5)


def test_the_budget_decides(tiny_llava):
    backbone = tiny_llava()
    one = bytes_of_a_question(backbone, GREEDY) / 2**30
    assert batch_that_fits(backbone, GREEDY, 0.5 * one) == 1
    assert batch_that_fits(backbone, GREEDY, 3.5 * one) == 3
    assert batch_that_fits(backbone, GREEDY, 1e6) == MOST
    assert batch_that_fits(backbone, BEAMS, 3.5 * one) < 3
    assert 1 <= batch_that_fits(backbone, GREEDY) <= MOST  # what this machine has


@pytest.mark.parametrize("decoding", [GREEDY, BEAMS])
def test_the_estimate_covers_what_is_kept(tiny_llava, decoding):
    backbone = tiny_llava()
    tokens = torch.randn(1, backbone.num_image_tokens, 32)
    state = backbone.prefill([backbone.expand([1, -200])], tokens).branch([0])
    _, state = backbone.extend(state, [[5] * 60])
    state = state.slots(decoding.beams)
    for _ in range(decoding.max_new_tokens):
        _, state = backbone.extend(state, torch.full((1, decoding.beams), 7))
    tensors = [*state.keys, *state.values, *state.prefix.keys, *state.prefix.values]
    used = sum(t.numel() * t.element_size() for t in tensors)
    assert used < bytes_of_a_question(backbone, decoding) < 100 * used


def test_progress_is_told_in_the_log_where_there_is_no_terminal(caplog):
    caplog.set_level("INFO", logger="hadpo")
    progress = Progress("base, pope", 4, seconds=0.0)
    progress.done({"a": 1, "b": 2})
    progress.done(["b"])
    progress.done({"c", "d"})
    progress.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("base, pope: 2 of 4 images, ")
    assert "images/s, about" in said[0]
    assert said[1].endswith("done")
    quiet = Progress("base", 100, seconds=1000.0)
    quiet.done(["a"])
    assert len(caplog.records) == 2
    start = quiet._start
    assert quiet.text(start + 10).endswith("0.10 images/s, about 16 min left")
    assert quiet.text(start + 200).endswith("about 5.5 h left")
