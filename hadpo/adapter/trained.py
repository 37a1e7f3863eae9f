"""What a training changes, as one thing: the adapter, the connector, or both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from hadpo.adapter import connector, files, lora
from hadpo.config import TrainConfig
from hadpo.vlm.backbone import Backbone, save_connector


def parts(settings: TrainConfig) -> tuple[str, ...]:
    """Of "adapter" and "connector", those that the settings train."""
    return tuple(settings.trained.split("+"))


def begin(backbone: Backbone, settings: TrainConfig) -> list[nn.Parameter]:
    """Open what the settings train, where it is not open yet; the trainable parameters.

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
    if "connector" in parts(settings) and not connector.is_open(backbone):
        connector.open_connector(backbone)
    lora.check_scope(backbone, also=connector.parameters(backbone))
    return [p for p in backbone.parameters() if p.requires_grad]


def state(backbone: Backbone) -> dict[str, Tensor]:
    """All weights that learn, by their original keys; the tensors are the live ones."""
    return connector.state(backbone) | lora.state(backbone)


def restore(backbone: Backbone, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights of `state` into what is open.

    Raises:
        BadInput: lists keys that are missing, unexpected, mis-shaped or empty.
    """
    mine = connector.state(backbone)
    for key, value in mine.items():
        if key in weights and weights[key].shape == value.shape:
            value.copy_(weights[key])
    rest = {k: v for k, v in weights.items() if k not in mine or v.shape != mine[k].shape}
    lora.restore(backbone, rest, where=where)


def end(backbone: Backbone) -> None:
    """Take the training back: the base is as it was, bit for bit."""
    connector.close(backbone)
    lora.detach(backbone)


def save(backbone: Backbone, folder: Path) -> None:
    """Write what was trained: `adapter/` as peft has it, `connector/` as the authors have it."""
    if connector.is_open(backbone):
        save_connector(backbone, folder / "connector")
    if lora.is_attached(backbone):
        files.save(backbone, folder / "adapter")


def is_saved(folder: Path, settings: TrainConfig) -> bool:
    """Whether `save` has written all parts that the settings train."""
    marks = {
        "adapter": (folder / "adapter" / "adapter_config.json").is_file(),
        "connector": any(p.suffix != ".part" for p in (folder / "connector").glob("*")),
    }
    return all(marks[part] for part in parts(settings))
