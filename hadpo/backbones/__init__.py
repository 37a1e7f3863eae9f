"""One file per family of vision-language models; `_` files are shared parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hadpo import plugins
from hadpo.records import BadInput
from hadpo.vlm.precision import Precision, choose_precision

if TYPE_CHECKING:
    from hadpo.config import Recipe
    from hadpo.cost import ModelSizes
    from hadpo.vlm.backbone import Backbone
    from hadpo.vlm.prompt import Prompts

__all__ = [
    "Precision",
    "choose_precision",
    "files_of",
    "load",
    "load_for",
    "prompts",
    "sizes",
]


def load(
    name: str,
    files: Mapping[str, str | Path],
    *,
    dtype: str = "auto",
    device: str = "auto",
    quantization: str = "none",
) -> Backbone:
    """The backbone `name`, frozen and in evaluation mode, from the authors' own files.

    Args:
        name: family/variant, for example "llava/1.5-7b".
        files: part -> folder or file, or a hub id (owner/name); the family's `PARTS` names them.
        dtype: "float32", "bfloat16", "float16", or "auto": what the device does well.
        device: "cpu", "cuda", or "auto": cuda where there is one.
        quantization: "none", "nf4", "fp4" or "int8": of the language model's linear layers.

    Raises:
        BadInput: unknown name or part, missing or broken files.
    """
    module, variant = _find(name)
    for part in files:
        if part not in module.PARTS:
            raise BadInput(
                f"backbone {name!r}: unknown part {part!r} in files; "
                + plugins.choices(part, module.PARTS)
            )
    return module.from_original(
        files, variant=variant, dtype=dtype, device=device, quantization=quantization
    )


def prompts(name: str) -> Prompts:
    """The two prompts of backbone `name`; nothing is loaded for them."""
    module, variant = _find(name)
    return module.VARIANTS[variant].prompts


def sizes(name: str) -> ModelSizes:
    """The sizes that backbone `name` was published with; nothing is loaded for them.

    Raises:
        BadInput: unknown name.
    """
    module, variant = _find(name)
    return module.VARIANTS[variant].sizes


def _find(name: str) -> tuple[Any, str]:
    """The module of a family, and the variant of it that `name` says."""
    family, _, variant = name.partition("/")
    try:
        module = plugins.load(__name__, family)
    except ValueError as error:
        raise BadInput(f"backbone {name!r}: {error}") from error
    if variant not in module.VARIANTS:
        raise BadInput(
            f"backbone {name!r}: no variant {variant!r} of {family}; "
            + plugins.choices(variant, module.VARIANTS)
        )
    return module, variant


def files_of(recipe: Recipe, resolve: Callable[[str], str | Path]) -> dict[str, str | Path]:
    """Where the parts of the recipe's model lie; `resolve` fills in the variables of a path.

    Raises:
        BadInput: the recipe has no model.
    """
    if recipe.model is None:
        raise BadInput(f"recipe {recipe.name} has no model; this stage needs one")
    return {part: resolve(place) for part, place in recipe.model.files.items()}


def load_for(recipe: Recipe, files: Mapping[str, str | Path]) -> Backbone:
    """The recipe's backbone from `files`, as its section `model` says; see `files_of`."""
    assert recipe.model is not None  # `files_of` refused a recipe without one
    model = recipe.model
    return load(
        model.backbone,
        files,
        dtype=model.dtype,
        device=model.device,
        quantization=model.quantization,
    )
