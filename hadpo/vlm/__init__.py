"""What vision-language models are made of: the seam `Backbone`, and the parts that families share.

A family of models is one file in `hadpo/backbones/`, made of these parts; nothing here knows one.
The names below are imported when they are first used, so that `import hadpo.vlm` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hadpo.vlm.backbone import LLAMA_13B, Backbone, ModelSizes, Variant
    from hadpo.vlm.prompt import Prompts, PromptTemplate

__all__ = ["LLAMA_13B", "Backbone", "ModelSizes", "PromptTemplate", "Prompts", "Variant"]
_HOMES = {
    **dict.fromkeys(("Backbone", "LLAMA_13B", "ModelSizes", "Variant"), "backbone"),
    **dict.fromkeys(("PromptTemplate", "Prompts"), "prompt"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
