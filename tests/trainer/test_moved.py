"""A micro-batch goes to the device in one copy, from one pinned buffer."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hadpo.trainer.update import Training
from hadpo.vlm import decoder
from hadpo.vlm.decoder import on_device

VALUES = {
    "flags": torch.tensor([[True, False, True]]),
    "ids": torch.arange(5).reshape(5, 1)[:, 0],
    "halves": torch.arange(6, dtype=torch.float16).reshape(2, 3).T,  # not contiguous
    "number": torch.tensor(2.5, dtype=torch.float64),
    "none": torch.empty(0, 3),
    "text": "a word",
}
OTHER = torch.device("cpu", 0)  # not equal to the device of what lies on "cpu"


class Copies(TorchDispatchMode):
    """Counts what is sent to another device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", [OTHER, torch.device("meta")])
def test_all_tensors_are_parts_of_one_copy(device):
    with Copies() as copies:
        moved = on_device(VALUES, device)
    assert copies.count == 1
    assert moved.keys() == VALUES.keys() - {"text"}
    assert len({value.untyped_storage()._cdata for value in moved.values()}) == 1
    for name, value in moved.items():
        assert (value.dtype, value.shape) == (VALUES[name].dtype, VALUES[name].shape)
        assert value.storage_offset() * value.element_size() % 16 == 0
        if device is OTHER:
            assert torch.equal(value, VALUES[name]), name


def test_what_is_there_stays_as_it_is():
    assert on_device({"ids": VALUES["ids"], "text": "a"}, torch.device("cpu")) == {
        "ids": VALUES["ids"]
    }
    both = {"here": torch.zeros(3, device="meta"), "ids": VALUES["ids"]}
    moved = on_device(both, torch.device("meta"))
    assert moved["here"] is both["here"]
    assert moved["ids"].device.type == "meta"


@pytest.mark.parametrize(("device", "is_pinned"), [("cuda", True), ("cpu:0", False)])
def test_the_buffer_is_pinned_for_a_gpu(monkeypatch, device, is_pinned):
    seen, real = [], torch.empty

    def empty(*shape, pin_memory=False, **more):
        seen.append((shape, pin_memory))
        return real(*shape, **more)

    monkeypatch.setattr(decoder.torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking=False: self)
    on_device({"ids": VALUES["ids"], "number": VALUES["number"]}, torch.device(device))
    assert seen == [((48 + 16,), is_pinned)]


def test_a_micro_batch_is_one_copy(tiny_llava, tiny_pairs, fast):

    training = Training(tiny_llava(), tiny_pairs, replace(fast, gamma=0.0), None, "dpo")
    micro = training.prepare(range(2))[0]
    with Copies() as copies:
        moved = micro.to(torch.device("meta"))
    assert copies.count == 1
    tensors = [moved.packed.ids, moved.packed.mask, moved.pixels, moved.example_weights]
    assert len({tensor.untyped_storage()._cdata for tensor in tensors}) == 1
