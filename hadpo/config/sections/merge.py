"""Section `merge`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config.sections.ranges import STRICT, AtLeastOne


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MergeConfig:
    """Adapter into weights, and the proof that both say the same."""

    merged_dtype: Literal["float32", "bfloat16", "float16"] = "float16"  # of the files on disk
    check_pairs: AtLeastOne = 3  # pairs on which merged and adapter must agree
    save_transformers: bool = True  # LLaVA only: also a folder for transformers, beside merged/
    adapter_folder: str = ""  # a published adapter; empty: the one of the train stage
    adapter_projector: Literal["adapter", "base"] = (
        "adapter"  # LLaVA's published ones bring their own
    )
