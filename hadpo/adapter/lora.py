"""LoRA in the language model: attach, switch off, take out; `low_rank` computes it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from hadpo import config, plugins
from hadpo.adapter import low_rank
from hadpo.records import BadInput
from hadpo.vlm import checkpoint
from hadpo.vlm.backbone import Backbone

_PREFIX = "base_model.model."  # what peft puts before the names of a bare model
_NAME = "default"
_PLACES = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def attach(
    backbone: Backbone,
    *,
    rank: int,
    alpha: float,
    targets: str,
    dropout: float = 0.0,
    seed: int = 0,
) -> list[nn.Parameter]:
    """Add LoRA to the linear layers `targets` of the language model, and nowhere else.

    B starts at zero, so the policy starts as the reference. A is drawn on the CPU from `seed`, the
    same on every device. Adapter weights are float32 at least, whatever the frozen weights are.

    Args:
        backbone: without an adapter.
        rank: r.
        alpha: the adapter is scaled by alpha / r.
        targets: last parts of module names, separated by commas: "q_proj,k_proj,v_proj".
        dropout: on the adapter's input; chosen and rejected share the mask on their prefix.
        seed: of A.

    Raises:
        BadInput: a target that the language model does not have.
        ValueError: there is an adapter already.
    """
    names = _target_names(backbone, targets)
    modules = {name: (rank, alpha) for name in linear(backbone) if name.split(".")[-1] in names}
    return attach_to(backbone, modules, dropout=dropout, seed=seed)


def attach_to(
    backbone: Backbone,
    modules: Mapping[str, tuple[int, float]],
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> list[nn.Parameter]:
    """As `attach`, to named layers below the language model, each with its own r and alpha."""
    if is_attached(backbone):
        raise ValueError(
            f"{backbone.name} has an adapter already; merge it, or load the base again"
        )
    if "lm_head" in modules and dropout:
        raise BadInput(
            f"lora_dropout: found {dropout}, but the adapter of lm_head is added to its weight, so "
            "no input is there to drop; set lora_dropout to 0, or take lm_head out of lora_targets"
        )
    pairs = list(modules.values())
    rank, alpha = max(pairs, key=pairs.count)
    scale: Any = alpha  # peft's annotation says int, its arithmetic takes any number
    config = LoraConfig(
        r=rank,
        lora_alpha=scale,
        # An expression: a list of 20 names and more peft shortens, to names that towers have, too.
        target_modules="|".join(map(re.escape, modules)),
        rank_pattern={re.escape(name): r for name, (r, _) in modules.items() if r != rank},
        alpha_pattern={re.escape(name): a for name, (_, a) in modules.items() if a != alpha},
        lora_dropout=dropout,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):  # peft draws numbers that are overwritten below
        inject_adapter_in_model(config, backbone.language_model, adapter_name=_NAME)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in _parameters(backbone).items():
        start = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        exact = torch.promote_types(backbone.dtype, torch.float32)
        parameter.data = start.to(device=backbone.device, dtype=exact)
    low_rank.install(backbone.language_model)
    # New layers start in training mode; in a backbone that evaluates, their dropout must be off.
    backbone.language_model.train(backbone.language_model.training)
    check_scope(backbone)
    return list(_parameters(backbone).values())


def linear(backbone: Backbone) -> list[str]:
    """Names of the linear layers below the language model: what an adapter may change."""
    return [
        name.removesuffix(".base_layer")  # of a layer that has LoRA
        for name, module in backbone.language_model.named_modules()
        if isinstance(module, nn.Linear)
        and ".lora_" not in name
        and name.startswith(backbone.lora_scope)
    ]


def defaults() -> dict[str, Any]:
    """Their own value, in peft, of each field of an adapter's config."""
    return LoraConfig().to_dict()


def modules_of(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, tuple[int, float]]:
    """Which layers peft would change, and with which r and alpha, by peft's own matching.

    `names` are the linear layers by the names in the model that the adapter was made on -> ours.
    """
    places: dict[str, Any] = {field: config.get(field) for field in _PLACES}
    parsed = LoraConfig(**places)
    if parsed.target_modules == "all-linear":
        wanted = [name for name in names if not name.endswith("lm_head")]
    else:
        wanted = [name for name in names if check_target_module_exists(parsed, name)]
    ranks, alphas = config.get("rank_pattern", {}), config.get("alpha_pattern", {})
    return {
        names[name]: (
            ranks.get(get_pattern_key(list(ranks), name), config["r"]),
            alphas.get(get_pattern_key(list(alphas), name), config["lora_alpha"]),
        )
        for name in wanted
    }


def attach_by_peft(backbone: Backbone, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Attach an adapter as peft itself reads its config: a second path, for a proof.

    Raises:
        BadInput: peft leaves weights out.
    """
    llama, whole = backbone.language_model, nn.Module()
    first = next(iter(weights))
    if backbone.lora_scope:  # these names are the whole model's own
        whole = llama
    elif first.startswith("language_model."):
        whole.language_model = llama
    elif first.startswith("model.language_model."):
        whole.model, whole.lm_head = nn.Module(), llama.lm_head
        whole.model.language_model = llama.model
    else:
        whole = llama
    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), whole, adapter_name=_NAME)
    found = set_peft_model_state_dict(whole, dict(weights), adapter_name=_NAME)
    if found.unexpected_keys:
        raise BadInput(f"{folder}: peft leaves out {', '.join(found.unexpected_keys[:5])}")
    llama.train(llama.training)


@torch.no_grad()
def probe(
    backbone: Backbone, names: Iterable[str], *, adapted: bool = True
) -> dict[str, Float[Tensor, " out"]]:
    """What linear layers make of a random input, in float64; with LoRA if `adapted`."""
    found = {}
    for name in names:
        layer: Any = backbone.language_model.get_submodule(name)
        weight = layer.weight.double()
        if adapted and isinstance(layer, LoraLayer):
            adapter: Any = layer
            weight = weight + adapter.get_delta_weight(_NAME).double()
        start = torch.Generator().manual_seed(0)
        given = torch.randn(weight.shape[1], generator=start, dtype=weight.dtype)
        found[name] = weight @ given.to(weight.device)
    return found


def adapted_layers(backbone: Backbone) -> list[str]:
    """Names of the layers that have LoRA, below the language model."""
    named = backbone.language_model.named_modules()
    return [name for name, module in named if isinstance(module, LoraLayer)]


def is_attached(backbone: Backbone) -> bool:
    """Whether the language model has an adapter."""
    return any(isinstance(module, LoraLayer) for module in backbone.language_model.modules())


def check_scope(backbone: Backbone, also: Iterable[nn.Parameter] = ()) -> None:
    """Refuse a backbone in which anything but the language model's LoRA, or `also`, would learn."""
    allowed = {id(parameter) for parameter in (*_parameters(backbone).values(), *also)}
    strange = [
        name for name, p in backbone.named_parameters() if p.requires_grad and id(p) not in allowed
    ]
    if strange:
        raise ValueError(f"only the language model's LoRA may be trained; also open: {strange[:5]}")


def state(backbone: Backbone) -> dict[str, Tensor]:
    """The adapter's weights by their original keys; the tensors are the live ones."""
    return {
        # Not `.data`: who writes to these is seen by those who keep copies (low_rank).
        _PREFIX + name.replace(f".{_NAME}.", "."): p.detach()
        for name, p in _parameters(backbone).items()
    }


def restore(backbone: Backbone, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights of `state` into an attached adapter; BadInput if their keys do not fit."""
    checkpoint.copy_weights(weights, state(backbone), where=where, model=backbone.name)


@contextmanager
def disabled(backbone: Backbone) -> Iterator[None]:
    """Within it, the same module is the reference: the adapter is off."""
    layers = [m for m in backbone.language_model.modules() if isinstance(m, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def settings(backbone: Backbone) -> dict[str, Any]:
    """Rank, alpha, dropout and targets of the attached adapter, as peft's config names them."""
    layers: dict[str, Any] = {
        name: module
        for name, module in backbone.language_model.named_modules()
        if isinstance(module, LoraLayer)
    }
    first = next(iter(layers.values()))
    dropout = first.lora_dropout[_NAME]
    config = {
        "r": first.r[_NAME],
        "lora_alpha": first.lora_alpha[_NAME],
        "lora_dropout": dropout.p if isinstance(dropout, nn.Dropout) else 0.0,
    }
    names = {name.rpartition(".")[2] for name in layers}
    all_of_them = {name for name in linear(backbone) if name.rpartition(".")[2] in names}
    config["target_modules"] = sorted(names if all_of_them == set(layers) else layers)
    if backbone.lora_scope and all_of_them == set(layers):  # towers have layers of these names, too
        ends = "|".join(sorted(names))
        config["target_modules"] = rf".*{re.escape(backbone.lora_scope)}.*\.({ends})"
    for field, key in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        values = {name: getattr(layer, field)[_NAME] for name, layer in layers.items()}
        others = {re.escape(name): v for name, v in values.items() if v != config[field]}
        config |= {key: others} if others else {}
    return config


def merge(backbone: Backbone) -> None:
    """Make the adapter part of the weights: W + (alpha / r) B A, summed in float32, then cast.

    Raises:
        ValueError: the weights are quantised: the sum belongs into the base as it was published.
    """
    if backbone.is_quantised:
        raise ValueError(
            f"{backbone.name} is quantised; load it with quantization='none', the adapter on top, "
            "and merge that"
        )
    _take_out(backbone, keep=True)


def detach(backbone: Backbone) -> None:
    """Drop the adapter; the base is as it was before `attach`, bit for bit."""
    _take_out(backbone, keep=False)


@torch.no_grad()
def _take_out(backbone: Backbone, *, keep: bool) -> None:
    for name, module in list(backbone.language_model.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        layer: Any = module
        base = layer.get_base_layer()
        if keep:
            delta = layer.scaling[_NAME] * (layer.lora_B[_NAME].weight @ layer.lora_A[_NAME].weight)
            base.weight.data = (base.weight.to(delta.dtype) + delta).to(base.weight.dtype)
        parent, _, last = name.rpartition(".")
        setattr(backbone.language_model.get_submodule(parent), last, base)
    backbone.requires_grad_(False)
    if hasattr(backbone.language_model, "peft_config"):
        del backbone.language_model.peft_config


def _parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """LoRA parameters by their names below the language model."""
    named = backbone.language_model.named_parameters()
    return {name: p for name, p in named if ".lora_A." in name or ".lora_B." in name}


def _target_names(backbone: Backbone, targets: str) -> list[str]:
    known = {name.rpartition(".")[2] for name in linear(backbone)}
    names = config.names(targets)
    if not names:
        raise BadInput(f"lora_targets is empty; known: {', '.join(sorted(known))}")
    for name in names:
        if name not in known:
            raise BadInput(f"lora_targets: no layer {name!r}; {plugins.choices(name, known)}")
    return names
