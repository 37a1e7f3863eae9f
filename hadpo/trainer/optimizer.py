"""The optimizers: AdamW in torch, or of bitsandbytes with its state paged out or in 8 bit."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hadpo.config import TrainConfig
from hadpo.records import BadInput

_BITSANDBYTES = {"paged_adamw_32bit": "PagedAdamW32bit", "adamw_8bit": "AdamW8bit"}


def build(
    parameters: Sequence[nn.Parameter], settings: TrainConfig, *, device: str
) -> torch.optim.Optimizer:
    """The optimizer of the settings.

    Raises:
        BadInput: bitsandbytes is not installed, or the device is no GPU.
    """
    values: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},  # biases and norms
    ]
    groups = [group for group in groups if group["params"]]
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
