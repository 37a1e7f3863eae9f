"""FSDP2: each process keeps a shard of every decoder layer, and gathers a layer when it is used.

Only the decoder layers are sharded, which hold almost all weights and all of LoRA; embeddings,
output layer and vision encoder are whole in every process, so that they can be used at any time.

A checkpoint holds whole tensors, the optimizer's by number as torch's optimizers have them, so that
a run may go on with another `parallel`. (`torch.distributed.checkpoint.state_dict` names the
optimizer's by parameter, which no other way of training reads.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hadpo.adapter import cast_each_time
from hadpo.config import TrainConfig
from hadpo.records import BadInput
from hadpo.vlm.backbone import Backbone


def accelerator(device: torch.device) -> Accelerator:
    """What the processes of a training exchange numbers through; the model is placed by us."""
    return Accelerator(cpu=device.type == "cpu", device_placement=False, mixed_precision="no")


def is_on() -> bool:
    """Whether the processes were started with FSDP; accelerate sets the variable."""
    return _is_set("ACCELERATE_USE_FSDP")


def check(backbone: Backbone, settings: TrainConfig, objective: str) -> None:
    """Refuse settings that processes started with FSDP or DeepSpeed cannot honour.

    Raises:
        BadInput: names the setting to change.
    """
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise BadInput(
            "DeepSpeed: the trainer does not drive it; parallel: zero2 and zero3 (or an accelerate "
            "config with fsdp_version: 2) shard the same things through FSDP2"
        )
    if not is_on():
        return
    if os.environ.get("FSDP_VERSION", "2") != "2":
        raise BadInput("fsdp_version: found 1, expected 2; see hadpo/recipes/accelerate/fsdp2.yaml")
    if objective == "dpo" and settings.reference == "adapter_off":
        raise BadInput(
            "reference: found adapter_off, which FSDP breaks (switching the adapter off changes "
            "which of the sharded weights learn); set reference: cache"
        )
    if "connector" in settings.trained:
        raise BadInput(f"trained: found {settings.trained}, but FSDP shards the adapter only")
    if backbone.dtype == torch.float16:
        raise BadInput("dtype: found float16, whose gradient scaler FSDP breaks; set bfloat16")


def shard(backbone: Backbone) -> None:
    """Shard the weights of the decoder layers, adapter included, if FSDP is on."""
    if not is_on():
        return
    mesh = init_device_mesh(backbone.device.type, (torch.distributed.get_world_size(),))
    cast_each_time(backbone.language_model)
    is_freed = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"
    for layer in backbone.decoder_layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=is_freed)
    model: Any = getattr(backbone.language_model, "model", None)
    if getattr(model, "layers", None) is backbone.decoder_layers:
        # With one root above them, a layer is gathered while the one before it computes. Words are
        # embedded outside of its forward pass, so their table stays whole.
        fully_shard(model, mesh=mesh, ignored_params=set(model.embed_tokens.parameters()))


@contextmanager
def syncing(
    backbone: Backbone, policy: nn.Module, processes: Accelerator, is_last: bool
) -> Iterator[None]:
    """Before the last micro-batch, gradients are summed up in each process, not exchanged yet."""
    layers = [m for m in backbone.language_model.modules() if isinstance(m, FSDPModule)]
    for layer in layers:
        layer.set_requires_gradient_sync(is_last)
    with nullcontext() if is_last or layers else processes.no_sync(policy):
        yield


def whole(value: Any) -> Any:
    """The same values with whole tensors for shards; every process must ask for them."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    return value


def shard_like(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, sharded as those of `like` are."""
    return {key: _shard(value, like.get(key)) for key, value in weights.items()}


def shard_state(optimizer: torch.optim.Optimizer) -> None:
    """Shard an optimizer's state, loaded whole, as its parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = _shard(value, parameter)


def gather_trained(backbone: Backbone) -> None:
    """Make the trained weights whole, to be saved; the backbone cannot be trained on after it."""
    for module in backbone.language_model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor) and parameter.requires_grad:
                module.register_parameter(name, nn.Parameter(parameter.full_tensor()))


def _shard(value: Tensor, like: Tensor | None) -> Tensor:
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"
