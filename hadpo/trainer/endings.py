"""How a training ends before its time: one message that says what is saved and what to change."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from hadpo.runs import BadEnvironment

_NO_SPACE = os.strerror(errno.ENOSPC)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def out_of_memory(
    step: int, pair_ids: Sequence[str], place: str, micro_batch: int
) -> BadEnvironment:
    """The error to raise where an update did not fit into memory."""
    less = f"-p micro_batch_pairs={micro_batch // 2} (now {micro_batch}) or " * (micro_batch > 1)
    return BadEnvironment(
        f"update {step}: out of memory on the pairs {', '.join(pair_ids)}; {place}; the same "
        f"command with {less}-p activation_checkpointing=true goes on from there"
    )


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Within it, a full disk is one clear message; `folder` is where the run writes.

    Raises:
        BadEnvironment: no space is left.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_disk_full(error):
            raise
        free = shutil.disk_usage(folder).free
        raise BadEnvironment(
            f"the disk of {folder} is full ({free / 1e6:.1f} MB free); what was saved before is "
            "whole, and the same command goes on from the newest checkpoint: make room, or move "
            "the runs to a larger disk and set HADPO_RUNS"
        ) from error


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it followed from, says that no space is left."""
    while error is not None:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or (isinstance(error, SafetensorError) and _NO_SPACE in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
