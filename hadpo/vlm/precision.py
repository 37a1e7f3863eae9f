"""In which numbers a model is held: the rule for a device, and why it says so. Needs no torch."""

from dataclasses import dataclass

from hadpo.cost import BITS
from hadpo.records import BadInput

_AMPERE = (8, 0)  # the first with tensor cores for bfloat16 (A100)
_TURING = (7, 5)  # the first that LLM.int8() runs on; V100 is 7.0


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Numbers of the weights (`dtype`), of the language model's linear layers, and the reason."""

    dtype: str
    quantization: str
    why: str


def choose_precision(
    dtype: str, quantization: str, capability: tuple[int, int] | None
) -> Precision:
    """What the settings come to on one device.

    Args:
        dtype: "auto", "float32", "bfloat16" or "float16".
        quantization: "none", "nf4", "fp4" or "int8"; of the language model's linear layers.
        capability: of the GPU, for example (7, 0); None for a CPU.

    Raises:
        BadInput: the device cannot do it; says what it can.
    """
    where = (
        "a CPU" if capability is None else f"a GPU of capability {'.'.join(map(str, capability))}"
    )
    is_early = capability is not None and capability < _AMPERE
    if dtype == "auto":
        chosen = "float32" if capability is None else "float16" if is_early else "bfloat16"
        why = {
            "float32": "exact, and as fast as 16 bits there",
            "float16": "no bfloat16 before 8.0 (A100)",
            "bfloat16": "the range of float32 at half the memory",
        }[chosen]
        why = f"auto: {chosen} on {where}: {why}"
    elif dtype == "bfloat16" and is_early:
        raise BadInput(
            f"dtype: found 'bfloat16', but {where} has no bfloat16 (8.0, an A100, is the first "
            "that has); use float16, or the recipe's -v100 twin"
        )
    else:
        chosen, why = dtype, f"{dtype}: as set"
    if quantization == "int8" and capability is not None and capability < _TURING:
        raise BadInput(
            f"quantization: found 'int8', but {where} has no int8 tensor cores (7.5 is the first "
            "that has); use nf4"
        )
    if quantization != "none":
        why += f"; {quantization}: {BITS[quantization]:.3g} bits a weight of the language model"
    return Precision(dtype=chosen, quantization=quantization, why=why)
