"""LoRA on the language model: attach, switch off, save, load, merge; `lora` alone imports peft."""

from hadpo.adapter.describe import describe
from hadpo.adapter.dump import from_dump
from hadpo.adapter.files import load, save
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
from hadpo.adapter.proof import folder_of, merge_run, pairs_to_check

__all__ = [
    "attach",
    "check_scope",
    "describe",
    "detach",
    "disabled",
    "folder_of",
    "from_dump",
    "is_attached",
    "load",
    "merge",
    "merge_run",
    "pairs_to_check",
    "restore",
    "save",
    "state",
]
