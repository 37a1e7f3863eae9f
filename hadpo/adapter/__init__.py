"""What is trained: LoRA on the language model, and the connector; peft is imported here alone."""

from hadpo.vlm import checkpoint  # before peft: it silences bitsandbytes

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
