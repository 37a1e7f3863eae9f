"""Prints by how many bytes a process grows at its peak while it loads a LLaVA in shards."""

import gc
import json
import re
import sys
from pathlib import Path

import torch

from hadpo import backbones

torch.set_num_threads(1)
folder, tiny, vision, quantization = sys.argv[1:5]


def memory(what):
    """VmRSS: resident now; VmHWM: at the peak since `clear_refs` was written. In bytes."""
    line = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return int(line[1]) * 1024


def load(place):
    files = {"language_model": Path(place), "vision": Path(vision)}
    return backbones.load(
        "llava/mini", files, dtype="float32", device="cpu", quantization=quantization
    )


load(tiny)  # code that any load needs
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
backbone = load(folder)
model = sum(p.numel() * p.element_size() for p in backbone.parameters())
sys.stdout.write(json.dumps({"growth": memory("VmHWM") - before, "model": model}) + "\n")
