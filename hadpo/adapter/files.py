"""Adapters on disk, in the originals' layout: peft on a bare LlamaForCausalLM.

Published adapters load here, and ours load in peft.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from hadpo import plugins
from hadpo.adapter import lora
from hadpo.records import BadInput, replacing, write_text
from hadpo.vlm import checkpoint
from hadpo.vlm.backbone import Backbone

log = logging.getLogger(__name__)

_UNSUPPORTED = {"use_dora": False, "use_rslora": False, "bias": "none", "modules_to_save": None}
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def save(backbone: Backbone, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`; the config last."""
    write(folder, lora.state(backbone), lora.settings(backbone), base=backbone.name)


def write(
    folder: Path, weights: Mapping[str, Tensor], settings: Mapping[str, Any], *, base: str
) -> None:
    """Write an adapter's weights by their original keys, and its config, the config last."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        **settings,
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").unlink(missing_ok=True)  # an adapter with one is whole
    plain = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    with replacing(folder / _WEIGHTS[0]) as part:
        save_file(plain, part, metadata={"format": "pt"})
    write_text(folder / "adapter_config.json", json.dumps(config, indent=1))


def load(
    backbone: Backbone, folder: Path, *, projector: Literal["adapter", "base"] = "adapter"
) -> None:
    """Attach the adapter of a folder: ours, or one that HA-DPO published.

    Weights beside the LoRA (LLaVA's `non_lora_trainables.bin`) replace the backbone's own, unless
    `projector` says that the base keeps its own.

    Raises:
        BadInput: a file is missing or broken, or its keys do not fit; empty tensors are named.
    """
    config, weights = read_weights(folder)
    _check_family(backbone, config, folder / "adapter_config.json")
    extra = folder / "non_lora_trainables.bin"
    if extra.is_file() and projector == "adapter":
        _load_extra(backbone, extra)
    elif extra.is_file():
        log.warning("%s is left out: the base keeps its projector", extra)
    lora.attach(
        backbone,
        rank=config["r"],
        alpha=config["lora_alpha"],
        targets=",".join(config["target_modules"]),
        dropout=config.get("lora_dropout", 0.0),
    )
    lora.restore(backbone, weights, where=str(folder))


def read_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked config and the tensors of an adapter folder, by the names in the file.

    Raises:
        BadInput: a file is missing or broken, or it is not plain LoRA.
    """
    path = folder / "adapter_config.json"
    config = checkpoint.read_json(path)
    _check_config(config, path)
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return config, dict(checkpoint.read_tensors(folder / name))
    raise BadInput(f"{folder}: no {' or '.join(_WEIGHTS)}; an adapter folder has one of them")


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    problems = [f"no {key}" for key in ("r", "lora_alpha", "target_modules") if key not in config]
    if config.get("peft_type", "LORA") != "LORA":
        problems.append(f"peft_type: found {config['peft_type']!r}, expected 'LORA'")
    if not isinstance(config.get("target_modules", []), list):
        problems.append(f"target_modules: expected a list, found {config['target_modules']!r}")
    problems += [
        f"{key}: found {config[key]!r}, expected {value!r}"
        for key, value in _UNSUPPORTED.items()
        if (config.get(key) or value) != value
    ]
    if problems:
        raise BadInput(f"{path}: not a plain LoRA adapter: {'; '.join(problems)}")


def _check_family(backbone: Backbone, config: Mapping[str, Any], path: Path) -> None:
    """Refuse an adapter whose base is of another family: its weights might fit all the same."""
    base = str(config.get("base_model_name_or_path") or "")
    own, *_ = backbone.name.split("/")
    for family in plugins.available("hadpo.backbones"):
        if family != own and family.replace("_", "") in re.sub(r"[-_]", "", base.lower()):
            raise BadInput(
                f"{path}: an adapter of {base!r}, a {family}; the backbone is {backbone.name}: "
                "name the adapter of this one, or the other backbone"
            )


def _load_extra(backbone: Backbone, path: Path) -> None:
    """Weights that were trained beside the LoRA."""
    weights = dict(checkpoint.read_tensors(path))
    own = {name: parameter.data for name, parameter in backbone.named_parameters()}
    into = checkpoint.by_original_key(own, backbone.EXTRA_ADAPTER_KEYS)
    try:
        checkpoint.copy_weights(weights, into, where=str(path), model=backbone.name)
    except BadInput as error:
        raise BadInput(
            f"{error}\ndownload it again, or set adapter_projector: base to keep the projector of "
            "the base, which the manifest then records"
        ) from error


def describe(folder: Path) -> dict[str, Any]:
    """What the adapter in `folder` is, without a model: rank, scale, targets, weights, config.

    Raises:
        BadInput: no adapter there, or one that is not plain LoRA.
    """
    config, weights = read_weights(folder)
    norms = [value.float().norm().item() for key, value in weights.items() if "lora_B" in key]
    return {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "scale": config["lora_alpha"] / config["r"],
        "targets": ", ".join(sorted(config["target_modules"])),
        "LoRA modules": len(norms),
        "weights": sum(value.numel() for value in weights.values()),
        "largest norm of B": round(max(norms, default=0.0), 4),
        "config": json.dumps(config, sort_keys=True),
    }


def describe_learned(places: Mapping[str, Path]) -> dict[str, Any]:
    """What is to be merged, as `learned` lists it: the adapter, the connector, or both.

    Raises:
        BadInput: a file cannot be read.
    """
    facts = describe(places["adapter"]) if "adapter" in places else {}
    for path in sorted(places["connector"].glob("*")) if "connector" in places else ():
        weights = dict(checkpoint.read_tensors(path))
        facts |= {
            "connector": path.name,
            "connector weights": sum(value.numel() for value in weights.values()),
            "connector keys": ", ".join(weights),
        }
    return facts
