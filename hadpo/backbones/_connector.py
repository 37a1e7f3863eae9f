"""A connector on its own: what a projection finetune trains, read and written as the authors do.

MiniGPT-4 trains its last linear layer (`llama_proj`) and nothing else, LRV V1 and the humour
finetune do the same; LLaVA's first stage trains `mm_projector`. A family's `CONNECTOR_KEYS` says
which weights these are.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from hadpo.backbones import _bare, _checkpoint
from hadpo.backbones._base import Backbone
from hadpo.backbones._hub import locate
from hadpo.records import BadInput, replacing

PART = "file of a finetuned connector, to take the place of the base's; not needed otherwise"


def parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The connector's trainable weights by the authors' keys; empty where a family has none."""
    found = {}
    for name, parameter in backbone.named_parameters():
        for key, target in backbone.CONNECTOR_KEYS.items():
            if original := _checkpoint.translate_back(name, key, target):
                found[original] = parameter
    return found


def save(backbone: Backbone, folder: Path) -> Path:
    """Write the connector as the authors' trainers do, in its own numbers; the file's path."""
    weights = {key: p.detach().cpu().clone() for key, p in parameters(backbone).items()}
    path = folder / backbone.CONNECTOR_FILE
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        torch.save({"model": weights} if path.suffix == ".pth" else weights, part)
    return path


def replace(backbone: Backbone, files: Mapping[str, str | Path]) -> None:
    """Put the connector of the part `connector` in the place of the base's, if it was given.

    Raises:
        BadInput: lists keys that are missing, unexpected, or of another shape.
    """
    if "connector" not in files:
        return
    path = _bare.find(locate(files["connector"], what="connector"), what="connector")
    backbone.files["connector"] = path
    mine = parameters(backbone)
    found = dict(_checkpoint.read_tensors(path))
    problems = [f"missing {key!r}" for key in mine if key not in found]
    problems += [f"unexpected {key!r}" for key in found if key not in mine]
    problems += [
        f"{key!r} has shape {list(value.shape)}, the model needs {list(mine[key].shape)}"
        for key, value in found.items()
        if key in mine and value.shape != mine[key].shape
    ]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems[:8])
        raise BadInput(f"{path}: {len(problems)} keys do not fit {backbone.name}:{lines}")
    for key, value in found.items():
        mine[key].data.copy_(value)
