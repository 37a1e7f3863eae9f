"""Section `model`."""

from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config.sections.ranges import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """Which backbone, from which files, in which numbers, on which device."""

    backbone: str  # family/variant, for example llava/1.5-7b
    files: dict[str, str] = field(default_factory=dict)  # part of the backbone -> path
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: fits the device
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"  # of the LM; needs bitsandbytes
