"""How many questions fit side by side into a budget of memory."""

import logging
import os

import torch

from hadpo import cost
from hadpo.generation.decoding import Decoding
from hadpo.vlm.backbone import Backbone

log = logging.getLogger(__name__)

MOST = 128  # more rows than this make no device busier
_SHARE = 0.8  # of what is free; the rest is for fragments and for what others do


def batch_that_fits(backbone: Backbone, decoding: Decoding, budget_gib: float = 0.0) -> int:
    """Questions at a time, at least 1.

    Counted is `cost.question_memory`, as if every question had an image of its own. It is an
    estimate: if memory runs out all the same, `generate` halves it.

    Args:
        backbone: on its device.
        decoding: beams and length.
        budget_gib: what generation may use beside the weights; 0: 80 % of what is free.
    """
    budget = budget_gib * 2**30 or _SHARE * _free_bytes(backbone.device)
    count = max(1, min(MOST, int(budget // bytes_of_a_question(backbone, decoding))))
    log.info("%d questions at a time (%.1f GiB for them)", count, budget / 2**30)
    return count


def bytes_of_a_question(backbone: Backbone, decoding: Decoding) -> int:
    """What a question with its own image takes at most while it is answered."""
    return cost.question_memory(
        backbone.sizes,
        number_bytes=backbone.dtype.itemsize,
        beams=decoding.beams,
        max_new_tokens=decoding.max_new_tokens,
    )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # no such question to this system
        return 4 * 2**30
