"""The families of vision-language models, one file each; what they are made of is `hadpo.vlm`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hadpo import plugins
from hadpo.records import BadInput
from hadpo.vlm.precision import Precision, check_kernels, choose_precision

if TYPE_CHECKING:
    from hadpo.config import Recipe
    from hadpo.cost import ModelSizes
    from hadpo.vlm.backbone import Backbone, Variant
    from hadpo.vlm.prompt import Prompts


def load(
    name: str,
    files: Mapping[str, str | Path],
    *,
    dtype: str = "auto",
    device: str = "auto",
    quantization: str = "none",
    template: Mapping[str, Any] | None = None,
    exif: str = "upright",
    kernels: str = "plain",
) -> Backbone:
    """The backbone `name`, frozen and in evaluation mode, from the authors' own files.

    Args:
        name: family/variant, for example "llava/1.5-7b".
        files: part -> folder or file, or a hub id (owner/name); the family's `PARTS` names them.
        dtype: "float32", "bfloat16", "float16", or "auto": what the device does well.
        device: "cpu", "cuda", or "auto": cuda if there is one.
        quantization: "none", "nf4", "fp4" or "int8": of the language model's linear layers.
        template: arguments of the model's own chat template.
        exif: "upright", or "as_stored": how picture files are read.
        kernels: "plain", or "fused": liger-kernel's in the language model.

    Raises:
        BadInput: unknown name or part, missing or broken files, or a dtype, quantization or
            kernels that the device cannot do.
    """
    module, _ = _declared(name)
    for part in files:
        if part not in module.PARTS:
            raise BadInput(
                f"backbone {name!r}: unknown part {part!r} in files; "
                + plugins.choices(part, module.PARTS)
            )
    from hadpo.vlm import checkpoint, precision  # torch, which a list of prompts does not need

    place = precision.choose_device(device)
    if kernels not in ("plain", "fused"):
        raise BadInput(f"kernels: found {kernels!r}, expected plain or fused")
    if kernels == "fused":
        check_kernels(precision.capability(place))
    backbone: Backbone = module.from_original(
        files,
        variant=name.partition("/")[2],
        dtype=precision.choose_dtype(dtype, place, quantization),
        device=place,
        quantization=quantization,
    )
    if template:
        backbone.set_template(template)
    backbone.exif = exif
    if kernels == "fused":
        from hadpo.vlm.kernels import fuse

        fuse(backbone.language_model)
        backbone.kernels = kernels
    overridden(backbone.files)  # refuses what is no setting of generation
    if "connector" in files and "connector" in module.OPTIONAL_PARTS:  # it replaces the base's
        backbone.load_connector(checkpoint.locate(files["connector"], what="connector"))
    return backbone.to(place).eval()


def load_for(recipe: Recipe, files: Mapping[str, str | Path]) -> Backbone:
    """The recipe's backbone from `files`, as its section `model` says; see `files_of`."""
    assert recipe.model is not None  # `files_of` refused a recipe without one
    model = recipe.model
    if not model.backbone:
        raise BadInput(
            f"recipe {recipe.name} has no model of this machine, a server answers for it "
            f"({model.server_models}); set model.backbone and model.files for what needs weights"
        )
    return load(
        model.backbone,
        files,
        dtype=model.dtype,
        device=model.device,
        quantization=model.quantization,
        template=model.template,
        exif=model.exif,
        kernels=model.kernels,
    )


def files_of(recipe: Recipe, resolve: Callable[[str], str | Path]) -> dict[str, str | Path]:
    """Where the parts of the recipe's model lie; `resolve` fills in the variables of a path.

    Raises:
        BadInput: the recipe has no model.
    """
    if recipe.model is None:
        raise BadInput(f"recipe {recipe.name} has no model; this stage needs one")
    return {part: resolve(place) for part, place in recipe.model.files.items()}


def overridden(files: Mapping[str, str | Path]) -> dict[str, Any]:
    """What the parts' `generation_config.json` say, which the decoding of a stage overrides.

    Raises:
        BadInput: such a file has a field that is no setting of generation.
    """
    from hadpo.vlm import checkpoint, fields

    places = [checkpoint.locate(place, what=part) for part, place in files.items()]
    return {key: value for place in places for key, value in fields.overridden(place).items()}


def prompts(name: str) -> Prompts:
    """The two prompts of backbone `name`, without its files; BadInput for an unknown name."""
    return _declared(name)[1].prompts


def sizes(name: str) -> ModelSizes:
    """The published sizes of backbone `name`, without its files; BadInput for an unknown name."""
    return _declared(name)[1].sizes


def _declared(name: str) -> tuple[ModuleType, Variant]:
    """The module of a family, and what it declares of a variant."""
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
    return module, module.VARIANTS[variant]
