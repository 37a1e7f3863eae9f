"""What a training changes, as one thing: the adapter, the connector, or both.

The connector is opened and taken back here; how it lies on disk, the backbone knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hadpo.adapter import files, lora
from hadpo.config import TrainConfig
from hadpo.records import BadInput
from hadpo.vlm import checkpoint
from hadpo.vlm.backbone import Backbone

_OPENED = "opened_connector"  # attribute: the weights as they were, and the hooks on their layers


def parts(settings: TrainConfig) -> tuple[str, ...]:
    """Of "adapter" and "connector", those that the settings train."""
    return tuple(settings.trained.split("+"))


def begin(backbone: Backbone, settings: TrainConfig) -> list[nn.Parameter]:
    """Open what the settings train, unless it is open; the trainable parameters.

    Raises:
        BadInput: the backbone lacks such a part.
        ValueError: something else would be trained, too.
    """
    if "adapter" in parts(settings) and not lora.is_attached(backbone):
        lora.attach(
            backbone,
            rank=settings.lora_rank,
            alpha=settings.lora_alpha,
            targets=settings.lora_targets,
            dropout=settings.lora_dropout,
            seed=settings.train_seed,
        )
    if "connector" in parts(settings) and not hasattr(backbone, _OPENED):
        open_connector(backbone)
    lora.check_scope(backbone, also=_opened(backbone).values())
    return [p for p in backbone.parameters() if p.requires_grad]


def _opened(backbone: Backbone) -> dict[str, nn.Parameter]:
    return backbone.connector_parameters() if hasattr(backbone, _OPENED) else {}


def open_connector(backbone: Backbone) -> list[nn.Parameter]:
    """Make the connector trainable, in float32 at least, whatever the frozen weights are.

    Its layers then cast what comes in to their own dtype; the image tokens are cast back when they
    meet the words.

    Raises:
        BadInput: the family has no connector that is trained on its own.
        ValueError: it is open already.
    """
    parameters = backbone.connector_parameters()
    if not parameters:
        raise BadInput(
            f"trained: {backbone.name} has no connector that can be trained; set trained: adapter"
        )
    if hasattr(backbone, _OPENED):
        raise ValueError(f"the connector of {backbone.name} is open already")
    exact = torch.promote_types(backbone.dtype, torch.float32)
    base = {key: parameter.data for key, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.data = parameter.data.to(exact, copy=True)
        parameter.requires_grad_(True)
    own = set(parameters.values())
    layers = [m for m in backbone.modules() if own & set(m._parameters.values())]
    hooks = [layer.register_forward_pre_hook(_cast) for layer in layers]
    vars(backbone)[_OPENED] = base, hooks
    return list(parameters.values())


def close_connector(backbone: Backbone) -> None:
    """Take the training back: the base's weights, bit for bit, frozen."""
    base, hooks = vars(backbone).pop(_OPENED, ({}, []))
    for hook in hooks:
        hook.remove()
    for key, parameter in backbone.connector_parameters().items() if base else ():
        parameter.data = base[key]
        parameter.requires_grad_(False)
        parameter.grad = None


def _cast(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Floating inputs in the dtype of the layer's weights."""
    dtype = next(p.dtype for p in layer._parameters.values() if p is not None)
    return tuple(
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in given
    )


def state(backbone: Backbone) -> dict[str, Tensor]:
    """All weights that learn, by their original keys; the tensors are the live ones."""
    opened = {key: parameter.data for key, parameter in _opened(backbone).items()}
    return opened | lora.state(backbone)


def restore(backbone: Backbone, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights of `state` into what is open; BadInput if their keys do not fit."""
    checkpoint.copy_weights(weights, state(backbone), where=where, model=backbone.name)


def end(backbone: Backbone) -> None:
    """Take the training back: the base is as it was, bit for bit."""
    close_connector(backbone)
    lora.detach(backbone)


def save(backbone: Backbone, folder: Path) -> None:
    """Write what was trained: `adapter/` as peft has it, `connector/` as the authors have it."""
    if hasattr(backbone, _OPENED):
        backbone.save_connector(folder / "connector")
    if lora.is_attached(backbone):
        files.save(backbone, folder / "adapter")


def is_saved(folder: Path, settings: TrainConfig) -> bool:
    """Whether `save` has written all parts that the settings train."""
    marks = {
        "adapter": (folder / "adapter" / "adapter_config.json").is_file(),
        "connector": any(p.suffix != ".part" for p in (folder / "connector").glob("*")),
    }
    return all(marks[part] for part in parts(settings))
