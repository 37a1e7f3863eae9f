"""Prints by how many bytes a process grows at the peak of one training step on mini."""

import gc
import json
import re
import sys
from pathlib import Path

import torch
from PIL import Image

from hadpo import adapter, backbones, batch, config, trainer
from hadpo.records import Pair

torch.set_num_threads(1)
count, is_recomputed, picture = int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3]
folder = config.PACKAGE / "mini" / "weights" / "llava"
files = {"language_model": folder / "llava-v1.5-mini", "vision": folder / "clip-vit-mini"}
Image.new("RGB", (96, 96), (90, 120, 30)).save(picture)
text = "There is a red circle to the left of the small blue square. " * 8
pairs = [
    Pair(
        pair_id=str(k),
        image_id="0",
        image=picture,
        instruction="Describe this image in detail.",
        chosen=f"{text}{k}",
        rejected=f"{k} {text}",
        kind="description",
        source="test",
    )
    for k in range(count)
]
backbone = backbones.load("llava/mini", files, dtype="float32", device="cpu")
examples = [batch.tokenize(backbone, pair, max_length=512) for pair in pairs]
positions = sum(batch.aligned(batch.row_length([example])) for example in examples)


def train(some):
    settings = config.TrainConfig(
        steps=1,
        batch_pairs=len(some),
        micro_batch_pairs=len(some),
        lora_rank=4,
        max_length=512,
        activation_checkpointing=is_recomputed,
    )
    list(trainer.steps(backbone, some, settings))
    adapter.detach(backbone)


def memory(what):
    """VmRSS: resident now; VmHWM: at the peak since `clear_refs` was written. In bytes."""
    line = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return int(line[1]) * 1024


train(pairs[:2])  # code and buffers that any step needs
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
train(pairs)
sys.stdout.write(json.dumps({"growth": memory("VmHWM") - before, "positions": positions}) + "\n")
