"""What is trained: LoRA on the language model, and the connector; peft is imported here alone."""

from hadpo.vlm import checkpoint  # noqa: F401 - before peft: it silences bitsandbytes

# isort: split
from hadpo.adapter import trained
from hadpo.adapter.dump import from_dump
from hadpo.adapter.files import describe, describe_learned, load, save
from hadpo.adapter.lora import (
    attach,
    check_scope,
    detach,
    disabled,
    is_attached,
    merge,
    restore,
    state,
)
from hadpo.adapter.low_rank import cast_each_time
from hadpo.adapter.proof import learned, merge_run, pairs_to_check

__all__ = [
    "attach",
    "cast_each_time",
    "check_scope",
    "describe",
    "describe_learned",
    "detach",
    "disabled",
    "from_dump",
    "is_attached",
    "learned",
    "load",
    "merge",
    "merge_run",
    "pairs_to_check",
    "restore",
    "save",
    "state",
    "trained",
]
