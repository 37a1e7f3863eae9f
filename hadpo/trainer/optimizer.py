"""The optimizers: AdamW in torch, or of bitsandbytes with its state paged out or in 8 bit."""

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hadpo.config import TrainConfig
from hadpo.records import BadInput

_BITSANDBYTES = {"paged_adamw_32bit": "PagedAdamW32bit", "adamw_8bit": "AdamW8bit"}


def groups(
    named: Iterable[tuple[str, nn.Parameter]], settings: TrainConfig
) -> list[dict[str, Any]]:
    """What is trained, by how it learns: biases and norms do not decay, LoRA's B has its own rate.

    B starts at zero and grows slower than A in wide models; LoRA+ (https://arxiv.org/abs/2402.12354)
    gives it a higher rate. `rate_ratio` of a group multiplies the schedule's rate.
    """
    found: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            is_b, decays = ".lora_B." in name, parameter.ndim > 1
            group = {
                "params": [],
                "rate_ratio": settings.lora_b_rate_ratio if is_b else 1.0,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            found.setdefault((is_b, decays), group)["params"].append(parameter)
    return list(found.values())


def build(
    groups: Sequence[dict[str, Any]], settings: TrainConfig, *, device: str
) -> torch.optim.Optimizer:
    """The optimizer of the settings, on `groups` of parameters.

    Raises:
        BadInput: bitsandbytes is not installed, or the device is no GPU.
    """
    values: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, **values)
    found = f"optimizer: found {settings.optimizer}"
    if device != "cuda":
        raise BadInput(
            f"{found}, which needs a CUDA device, but the model is on {device}; "
            "set optimizer to adamw"
        )
    try:
        # Imported here: only who asks for it needs the package, and its import probes the driver.
        bitsandbytes: Any = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise BadInput(
            f"{found}, which needs bitsandbytes; install it with pip install 'hadpo[qlora]', "
            "or set optimizer to adamw"
        ) from error
    return getattr(bitsandbytes.optim, _BITSANDBYTES[settings.optimizer])(groups, **values)
