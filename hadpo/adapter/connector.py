"""The connector as something to train: opened, watched, taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hadpo.records import BadInput
from hadpo.vlm.backbone import Backbone, connector_parameters


@dataclass
class _Opened:
    """What closing needs: the weights as they were, and the hooks on the layers."""

    base: dict[str, Tensor]
    hooks: list[Any]


_OPENED: WeakKeyDictionary[nn.Module, _Opened] = WeakKeyDictionary()


def open_connector(backbone: Backbone) -> list[nn.Parameter]:
    """Make the connector trainable, in float32 at least, whatever the frozen weights are.

    Its layers then cast what comes in to their own numbers; the image tokens are cast back where
    they meet the words.

    Raises:
        BadInput: the family has no connector that is trained on its own.
    """
    parameters = connector_parameters(backbone)
    if not parameters:
        raise BadInput(
            f"trained: {backbone.name} has no connector that can be trained; set trained: adapter"
        )
    if is_open(backbone):
        raise ValueError(f"the connector of {backbone.name} is open already")
    exact = torch.promote_types(backbone.dtype, torch.float32)
    base = {key: parameter.data for key, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.data = parameter.data.to(exact, copy=True)
        parameter.requires_grad_(True)
    own = set(parameters.values())
    layers = [m for m in backbone.modules() if own & set(m._parameters.values())]
    hooks = [layer.register_forward_pre_hook(_cast) for layer in layers]
    _OPENED[backbone] = _Opened(base, hooks)
    return list(parameters.values())


def is_open(backbone: Backbone) -> bool:
    """Whether the connector is trainable."""
    return backbone in _OPENED


def parameters(backbone: Backbone) -> list[nn.Parameter]:
    """The weights that an open connector trains; none of a closed one."""
    return list(connector_parameters(backbone).values()) if is_open(backbone) else []


def state(backbone: Backbone) -> dict[str, Tensor]:
    """Weights of an open connector by the authors' keys; the tensors are the live ones."""
    if not is_open(backbone):
        return {}
    return {key: parameter.data for key, parameter in connector_parameters(backbone).items()}


def close(backbone: Backbone) -> None:
    """Take the training back: the base's weights, bit for bit, frozen."""
    opened = _OPENED.pop(backbone, None)
    if opened is None:
        return
    for hook in opened.hooks:
        hook.remove()
    for key, parameter in connector_parameters(backbone).items():
        parameter.data = opened.base[key]
        parameter.requires_grad_(False)
        parameter.grad = None


def _cast(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Floating inputs in the numbers of the layer's weights."""
    dtype = next(p.dtype for p in layer._parameters.values() if p is not None)
    return tuple(
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in given
    )
