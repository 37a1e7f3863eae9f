"""Adapters on disk, in the originals' layout: peft on a bare LlamaForCausalLM.

Published adapters load here, and ours load in peft.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from hadpo import plugins
from hadpo.adapter import lora
from hadpo.records import BadInput, replacing, write_json
from hadpo.vlm import checkpoint, export, fields
from hadpo.vlm.backbone import Backbone

log = logging.getLogger(__name__)

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_STATE = re.compile(r"(training_args|optimizer|scheduler|rng_state.*|scaler)\.\w+")  # of a trainer
_PREFIX = "base_model.model."  # what peft puts before all names
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_BODIES = {  # what stands for a bare LLaMA's "model." -> and for its "lm_head"
    "model.": "lm_head",
    "model.language_model.": "lm_head",  # in a whole model of transformers 5
    "language_model.model.": "language_model.lm_head",  # and before
}


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
    write_json(folder / "adapter_config.json", config)


def load(
    backbone: Backbone, folder: Path, *, projector: Literal["adapter", "base"] = "adapter"
) -> None:
    """Attach the adapter of a folder: ours, or one that HA-DPO published.

    Weights beside the LoRA (LLaVA's `non_lora_trainables.bin`: HA-DPO trained the projector by
    accident, llava_arch.py re-enables it) replace the backbone's own, unless `projector` says that
    the base keeps its own. Which layers change, and by how much, is as peft reads the config.

    Raises:
        BadInput: a file is missing or broken, or its keys do not fit; empty tensors are named.
    """
    config, weights = read_weights(folder)
    where = folder / "adapter_config.json"
    _check_family(backbone, config, where)
    weights, names = _by_own_name(weights, lora.linear(backbone))
    try:
        modules = lora.modules_of(config, names)
    except (ValueError, TypeError, re.error) as error:
        raise BadInput(f"{where}: target_modules and what goes with it: {error}") from error
    if not modules:
        found = fields.shown(config["target_modules"])
        raise BadInput(f"{where}: target_modules: found {found}, which name no layer of the model")
    for path in _beside(folder):
        if projector == "adapter":
            _load_extra(backbone, path)
        else:
            log.warning("%s is left out: the base keeps its projector", path)
    lora.attach_to(backbone, modules, dropout=config.get("lora_dropout", 0.0))
    lora.restore(backbone, weights, where=str(folder))


def load_by_peft(backbone: Backbone, folder: Path) -> None:
    """Attach the adapter of a folder as peft reads it; without what lies beside the LoRA."""
    _, weights = read_weights(folder)
    found = {_KEY.fullmatch(key): value for key, value in weights.items()}
    named = {f"{m[1]}.lora_{m[2]}.weight": value for m, value in found.items() if m}
    lora.attach_by_peft(backbone, folder, named)


def save_for_transformers(backbone: Backbone, folder: Path, *, model: Path) -> None:
    """Write the adapter by the names in transformers' class of the whole `model`, a folder.

    Its targets are an expression: a list of last names would change the vision tower, too.
    """
    body, head = export.language_model_names(model)
    settings = lora.settings(backbone)
    names = settings["target_modules"]
    inner = [
        re.escape(n.removeprefix("model.")) if "." in n else rf"layers\..*\.{n}" for n in names
    ]
    inner = [name for name in inner if not name.endswith("lm_head")]
    settings["target_modules"] = "|".join(
        [rf"(.*\.)?language_model\.(model\.)?({'|'.join(inner)})"] * bool(inner)
        + [r"(.*\.)?lm_head"] * ("lm_head" in names)
    )
    for field in ("rank_pattern", "alpha_pattern"):
        if field in settings:
            pairs = settings[field].items()
            settings[field] = {key.removeprefix(r"model\."): value for key, value in pairs}
    bare = {key.removeprefix(_PREFIX): value for key, value in lora.state(backbone).items()}
    weights = {
        _PREFIX
        + (
            body + key.removeprefix("model.")
            if key.startswith("model.")
            else head + key.removeprefix("lm_head")
        ): value
        for key, value in bare.items()
    }
    write(folder, weights, settings, base=backbone.name)


def _beside(folder: Path) -> list[Path]:
    """Weights beside the LoRA, under whatever name they were saved."""
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in checkpoint.SUFFIXES
        and path.name not in _WEIGHTS
        and not _STATE.fullmatch(path.name)
    ]
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise BadInput(f"{folder}: several files of weights beside the LoRA ({names}); keep one")
    return paths


def _by_own_name(
    weights: Mapping[str, Tensor], linear: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by the names of a bare LLaMA, and how their writer called its linear layers."""
    found = {key: _KEY.fullmatch(key) for key in weights}
    modules = {match[1] for match in found.values() if match}
    styles = [
        {body + name.removeprefix("model.") if "." in name else head: name for name in linear}
        for body, head in _BODIES.items()
    ]
    names = max(styles, key=lambda style: len(modules & set(style)))
    renamed: dict[str, Tensor] = {}
    for key, match in found.items():
        own = key
        if match and match[1] in names:
            own = f"{_PREFIX}{names[match[1]]}.lora_{match[2]}.weight"
        if own in renamed:
            raise BadInput(f"{key!r}: the file has the same weights under two names; keep one")
        renamed[own] = weights[key]
    return renamed, names


def read_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked config and the tensors of an adapter folder, by the names in the file.

    Raises:
        BadInput: a file is missing or broken, or it is not plain LoRA.
    """
    path = folder / "adapter_config.json"
    config = checkpoint.read_json(path)
    where = f"{path}: not a plain LoRA adapter"
    fields.check(config, "adapter", where=where, defaults=lora.defaults())
    files = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if files:
        for other in files[1:]:
            log.warning("%s is read, as peft does; left out: %s", files[0], other.name)
        return config, dict(checkpoint.read_tensors(files[0]))
    raise BadInput(f"{folder}: no {' or '.join(_WEIGHTS)}; an adapter folder has one of them")


def _check_family(backbone: Backbone, config: Mapping[str, Any], path: Path) -> None:
    """Refuse an adapter whose base is of another family: its weights might fit all the same.

    The last part of the base's path says it, word by word; or it is a name of this kit.
    """
    base = str(config.get("base_model_name_or_path") or "")
    own, *_ = backbone.name.split("/")
    parts = base.lower().rstrip("/").split("/")
    words = re.split(r"[-_. ]", parts[-1]) + parts[:1] * (len(parts) == 2)
    names = {"".join(words[i : i + n]) for i in range(len(words)) for n in (1, 2, 3)}
    families = plugins.available("hadpo.backbones")
    named = [family for family in families if family.replace("_", "") in names]
    named = [family for family in named if len(family) > len("hf")]  # that ends any hub id
    if named and own.replace("_", "") not in names:
        raise BadInput(
            f"{path}: an adapter of {base!r}, a {named[0]}; the backbone is {backbone.name}: "
            "name the adapter of this one, or the other backbone; if that name misleads, change "
            "base_model_name_or_path there"
        )


def _load_extra(backbone: Backbone, path: Path) -> None:
    """Weights that were trained beside the LoRA."""
    weights = dict(checkpoint.read_tensors(path))
    start = _PREFIX if all(key.startswith(_PREFIX) for key in weights) else ""
    own = backbone.connector_parameters().items()
    into = {start + key: parameter.data for key, parameter in own}
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
    targets = config["target_modules"]
    norms = [value.float().norm().item() for key, value in weights.items() if "lora_B" in key]
    return {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "scale": config["lora_alpha"] / config["r"],
        "targets": ", ".join(sorted(targets)) if isinstance(targets, list) else targets,
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
