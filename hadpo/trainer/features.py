"""What the vision encoder saw in each image, kept on disk from one visit to the next.

The encoder is frozen, so an image gives the same features in every epoch and every run. Each image
is encoded alone, so that kept features and new ones are the same, bit for bit, whatever images meet
in a micro-batch. A file is named by the pixels it was made from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor

from hadpo.config import TrainConfig
from hadpo.records import BadInput, replacing, write_text
from hadpo.trainer import provenance
from hadpo.vlm.backbone import Backbone

_WHAT = "the image features"
_log = logging.getLogger(__name__)


class FeatureCache:
    """Stands for `backbone.features`; counts what it found, computed, and had no room to keep."""

    def __init__(self, backbone: Backbone, folder: Path, budget_bytes: float) -> None:
        """`folder` is read and filled up to `budget_bytes`.

        Raises:
            BadInput: it holds features of other weights, preprocessing or numbers.
        """
        self._features = backbone.features
        self._folder, self._budget = folder, budget_bytes
        self.found = self.computed = self.not_kept = 0
        made_from = provenance.made_from(backbone)
        made_from = {k: made_from[k] for k in ("dtype", "base weights")}
        manifest = folder / "manifest.json"
        if manifest.is_file():
            kept = json.loads(manifest.read_text(encoding="utf-8"))
            provenance.refuse_other(folder, _WHAT, kept, made_from)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(manifest, json.dumps(made_from))
        self._bytes = _size(folder)

    def __call__(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images patches features"]:
        """Features of each image: read where they are there, else computed and kept."""
        return torch.stack([self._of(image) for image in pixels])

    def _of(self, image: Float[Tensor, "3 side side"]) -> Float[Tensor, "patches features"]:
        path = self._folder / f"{provenance.digest(provenance.content_of(image))}.safetensors"
        if path.is_file():
            self.found += 1
            return load_file(path)["features"].to(image.device)
        self.computed += 1
        features = self._features(image[None])[0]
        content = save({"features": features.cpu().contiguous()})
        if self._bytes + len(content) > self._budget:
            self.not_kept += 1
            return features
        with replacing(path, is_shared=True) as part:
            part.write_bytes(content)
        self._bytes += len(content)
        return features


@contextmanager
def kept(
    backbone: Backbone, folder: Path | None, settings: TrainConfig
) -> Iterator[FeatureCache | None]:
    """Within it, the backbone's features are kept below `folder`, if the settings ask for it."""
    if not settings.vision_cache_gb:
        yield None
        return
    if folder is None:
        raise BadInput("vision_cache_gb needs a folder to keep the image features in")
    cache = FeatureCache(backbone, folder / "features", settings.vision_cache_gb * 1e9)
    backbone.features = cache  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield cache
    finally:
        del backbone.features
        _log.info(
            "image features: %d read, %d computed, %d of them not kept (vision_cache_gb: %g)",
            *(cache.found, cache.computed, cache.not_kept, settings.vision_cache_gb),
        )


def describe(folder: Path, settings: TrainConfig) -> str:
    """For a plan: how many images are kept already, and how much room there is."""
    if not settings.vision_cache_gb:
        return "none"
    place = folder / "features"
    count = len(list(place.glob("*.safetensors")))
    return f"{count} images, {_size(place) / 1e9:.3g} of {settings.vision_cache_gb:g} GB"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
