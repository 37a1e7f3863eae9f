"""One file per family of vision-language models; `_` files are shared parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hadpo import plugins
from hadpo.records import BadInput

if TYPE_CHECKING:
    from hadpo.backbones._base import Backbone


def load(
    name: str,
    files: Mapping[str, str | Path],
    *,
    dtype: str = "auto",
    device: str = "auto",
) -> Backbone:
    """The backbone `name`, frozen and in evaluation mode, from the authors' own files.

    Args:
        name: family/variant, for example "llava/1.5-7b".
        files: part -> folder or file, or a hub id (owner/name); the family's `PARTS` names them.
        dtype: "float32", "bfloat16", "float16", or "auto": what the device does well.
        device: "cpu", "cuda", or "auto": cuda where there is one.

    Raises:
        BadInput: unknown name or part, missing or broken files.
    """
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
    for part in files:
        if part not in module.PARTS:
            raise BadInput(
                f"backbone {name!r}: unknown part {part!r} in files; "
                + plugins.choices(part, module.PARTS)
            )
    return module.from_original(files, variant=variant, dtype=dtype, device=device)
