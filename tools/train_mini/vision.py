"""Pretrain the mini CLIP tower: every patch learns what stands in its cell.

The losses read `hidden_states[-2]`, the layer that LLaVA takes its features from. Labels are dense
(category, colour, place and setting of the cell around a patch), because one caption per picture is
far too little signal for a tower of this size. After this stage the tower stays frozen.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from hadpo.mini.draw import draw
from hadpo.mini.world import CATEGORIES, COLOURS, IMAGE_SIZE_PIXELS, PLACES, SETTINGS, Scene

log = logging.getLogger(__name__)

PATCH_SIZE_PIXELS = 16
GRID = IMAGE_SIZE_PIXELS // PATCH_SIZE_PIXELS
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
HEADS = {
    "category": len(CATEGORIES) + 1,
    "colour": len(COLOURS) + 1,
    "place": len(PLACES),
    "setting": len(SETTINGS),
}


def tower() -> CLIPVisionModel:
    """The untrained vision tower."""
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=IMAGE_SIZE_PIXELS,
            patch_size=PATCH_SIZE_PIXELS,
            projection_dim=128,
        )
    )


def pictures(scenes: Sequence[Scene]) -> Tensor:
    """Pictures of scenes as bytes: scenes, 3, height, width."""
    return torch.from_numpy(np.stack([np.asarray(draw(scene)) for scene in scenes])).permute(
        0, 3, 1, 2
    )


def normalise(images: Tensor) -> Tensor:
    """Bytes to the pixels that CLIP expects."""
    mean = torch.tensor(IMAGE_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGE_STD).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


def patch_labels(scene: Scene) -> np.ndarray:
    """Class of each patch under each head: heads, patches. The last class of two means empty."""
    categories, colours = list(CATEGORIES), list(COLOURS)
    labels = np.zeros((len(HEADS), GRID, GRID), dtype=np.int64)
    labels[0], labels[1] = len(categories), len(colours)
    labels[3] = list(SETTINGS).index(scene.setting)
    per_cell = GRID // 3
    for index, place in enumerate(PLACES):
        row, column = divmod(index, 3)
        cell = (slice(row * per_cell, (row + 1) * per_cell),
                slice(column * per_cell, (column + 1) * per_cell))  # fmt: skip
        labels[(2, *cell)] = index
        if thing := scene.at(place):
            labels[(0, *cell)] = categories.index(thing.category)
            labels[(1, *cell)] = colours.index(thing.colour)
    return labels.reshape(len(HEADS), -1)


def features(model: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """Features of each patch, without CLS: images, patches, width."""
    return model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


def all_features(model: CLIPVisionModel, images: Tensor) -> Tensor:
    """Features of many pictures, in half precision to save memory."""
    with torch.no_grad():
        return torch.cat([features(model, normalise(part)).half() for part in images.split(250)])


def train_tower(
    images: Tensor, labels: Tensor, *, steps: int, batch_size: int, learning_rate: float, seed: int
) -> CLIPVisionModel:
    """Train the CLIP tower from nothing on labelled patches."""
    torch.manual_seed(seed)
    model = tower()

    def states(pixels: Tensor) -> list[tuple[Tensor, float]]:
        hidden = model(pixel_values=pixels, output_hidden_states=True).hidden_states
        # The last layer is trained too, lightly, so that no part of the tower stays random.
        return [(hidden[-2], 1.0), (hidden[-1], 0.1)]

    fit(model, states, images, labels, steps=steps, batch_size=batch_size, rate=learning_rate)
    return model


def fit(
    model: nn.Module,
    states: Callable[[Tensor], list[tuple[Tensor, float]]],
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int,
    rate: float,
) -> None:
    """Train a tower in place, with heads that are thrown away.

    Args:
        model: what is trained.
        states: pixels to states of all positions, CLS first, and how much each counts.
        images: bytes, scenes first.
        labels: scenes, heads, patches.
        steps: updates.
        batch_size: pictures of an update.
        rate: the largest learning rate.
    """
    heads = nn.ModuleDict({name: nn.Linear(128, size) for name, size in HEADS.items()})
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    for step in range(steps):
        rows = torch.randint(len(images), (batch_size,))
        pixels = normalise(images[rows]) * (1 + 0.05 * torch.randn(batch_size, 1, 1, 1))
        pixels = pixels + 0.05 * torch.randn_like(pixels)
        found = states(pixels)
        losses = [
            F.cross_entropy(head(state[:, 1:]).flatten(0, 1), labels[rows, index].flatten()) * share
            for index, head in enumerate(heads.values())
            for state, share in found
        ]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step == 0:
            log.info("vision step %d loss %.3f", step + 1, loss.item())
            for index, (name, head) in enumerate(heads.items()):
                hits = head(found[0][0][:, 1:]).argmax(-1) == labels[rows, index]
                log.info("  %s accuracy %.3f", name, hits.float().mean().item())
