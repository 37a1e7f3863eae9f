"""LoRA as one function: peft's numbers, in the base's dtype, with float32 weights that learn."""

import copy
from typing import Any

import pytest
import torch
from peft.tuners.lora import layer as peft_layer
from torch.utils._python_dispatch import TorchDispatchMode

from hadpo import adapter
from hadpo.adapter.low_rank import LoraLinear
from tests.test_adapter import TARGETS, shake

ALL = f"{TARGETS},o_proj,gate_proj,up_proj,down_proj"


def layers(backbone) -> list[Any]:
    model = backbone.language_model
    return [m for m in model.modules() if isinstance(m, peft_layer.LoraLayer)]


def is_ours(layer):
    return "forward" in layer.__dict__


def plain(layer):
    """The same layer as peft computes it."""
    again = copy.deepcopy(layer)
    again.__dict__.pop("forward")
    return again


def gradients(layer, x, weights):
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * weights).sum().backward()
    found = [y, x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)]
    for p in layer.parameters():
        p.grad = None
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_it_computes_what_peft_computes(tiny_llava, dtype, tolerance):
    torch.manual_seed(0)
    for layer in layers(shake(tiny_llava(), targets=ALL)):
        assert is_ours(layer)
        layer.to(dtype)
        x = torch.randn(2, 5, layer.in_features, dtype=dtype)
        weights = torch.randn(2, 5, layer.out_features, dtype=dtype)
        for mine, peft in zip(
            gradients(layer, x, weights), gradients(plain(layer), x, weights), strict=True
        ):
            assert (mine - peft).abs().max() <= tolerance * peft.abs().max()


def test_a_bias_and_an_input_without_gradient():
    torch.manual_seed(1)
    x, w, bias = (torch.randn(*s, dtype=torch.float64) for s in ((3, 4), (5, 4), (5,)))
    a, b = (torch.randn(*s, dtype=torch.float64).requires_grad_() for s in ((2, 4), (5, 2)))

    def compute(x, a, b):
        return LoraLinear.apply(x, w, bias, a, b, (a.detach(), b.detach()), 0.5)

    y = compute(x, a, b)
    assert torch.allclose(y, x @ w.T + bias + 0.5 * (x @ a.T) @ b.T, rtol=1e-14)
    assert torch.autograd.gradcheck(compute, (x.requires_grad_(), a, b))


class Products(TorchDispatchMode):
    """Dtypes of the matrices that are multiplied, and how often something is cast."""

    def __init__(self):
        super().__init__()
        self.dtypes, self.casts = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_", "bmm", "baddbmm"):
            self.dtypes |= {t.dtype for t in args if isinstance(t, torch.Tensor)}
        self.casts += name == "_to_copy"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_products_are_the_bases_and_gradients_float32(tiny_llava, dtype):
    backbone = shake(tiny_llava(dtype))
    layer = layers(backbone)[0]
    x = torch.randn(2, 3, layer.in_features).to(backbone.dtype).requires_grad_()
    with Products() as first:
        y = layer(x)
        y.float().sum().backward()
    assert x.grad is not None
    assert y.dtype == backbone.dtype == x.grad.dtype
    assert first.dtypes == {backbone.dtype}
    for p in (layer.lora_A["default"].weight, layer.lora_B["default"].weight):
        assert p.grad.dtype == torch.float32
    with Products() as again:
        layer(x)
    assert again.casts == 0  # A and B were cast once


def test_copies_follow_every_way_to_write(tiny_llava):
    backbone = shake(tiny_llava("bfloat16"))
    layer = layers(backbone)[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(1, 2, layer.in_features, dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW([a, b], lr=0.1)

    def update():
        layer(x).float().sum().backward()
        optimizer.step()

    def restore():
        weights = {k: torch.randn_like(v) for k, v in adapter.state(backbone).items()}
        adapter.restore(backbone, weights, where="here")

    def put_elsewhere():
        a.data = torch.randn_like(a)

    def write():
        for value in adapter.state(backbone).values():
            value.mul_(1.5)

    for change in (update, restore, put_elsewhere, write):
        before = layer(x)
        change()
        after = layer(x)
        fresh = LoraLinear.apply(
            x, layer.weight, None, a, b, (a.bfloat16(), b.bfloat16()), layer.scaling["default"]
        )
        assert not torch.equal(before, after), change.__name__
        assert torch.equal(after, fresh), change.__name__
    adapter.cast_each_time(backbone.language_model)
    layer(x)
    assert "kept_copies" not in layer.__dict__


def test_what_it_cannot_compute_stays_pefts(tiny_llava):
    backbone = tiny_llava()
    adapter.attach(backbone, rank=2, alpha=4.0, targets="q_proj", dropout=0.1)
    assert not any(is_ours(layer) for layer in layers(backbone))
    backbone = tiny_llava()
    adapter.attach(backbone, rank=2, alpha=4.0, targets="q_proj,lm_head")
    named = dict(backbone.language_model.named_modules())
    assert is_ours(named["model.layers.0.self_attn.q_proj"])
    assert not is_ours(named["lm_head"])
