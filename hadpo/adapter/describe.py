"""What an adapter on disk is, without loading a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hadpo.adapter.files import read_weights
from hadpo.vlm import checkpoint


def describe(folder: Path) -> dict[str, Any]:
    """Rank, scale, targets, LoRA modules, weights and size of the adapter in `folder`.

    Raises:
        BadInput: no adapter there, or one that is not plain LoRA.
    """
    config, weights = read_weights(folder)
    count = sum(value.numel() for value in weights.values())
    norms = [value.float().norm().item() for key, value in weights.items() if "lora_B" in key]
    return {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "scale": config["lora_alpha"] / config["r"],
        "targets": ", ".join(sorted(config["target_modules"])),
        "LoRA modules": len(norms),
        "weights": count,
        "largest norm of B": round(max(norms, default=0.0), 4),
        "config": json.dumps(config, sort_keys=True),
    }


def describe_learned(places: Mapping[str, Path]) -> dict[str, Any]:
    """What is to be merged: the adapter, the connector, or both; see `learned`.

    Raises:
        BadInput: what is there cannot be read.
    """
    found = describe(places["adapter"]) if "adapter" in places else {}
    for path in sorted(places["connector"].glob("*")) if "connector" in places else ():
        weights = dict(checkpoint.read_tensors(path))
        found |= {
            "connector": path.name,
            "connector weights": sum(value.numel() for value in weights.values()),
            "connector keys": ", ".join(weights),
        }
    return found
