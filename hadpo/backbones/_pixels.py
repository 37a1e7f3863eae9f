"""Images to pixels: any mode to RGB, pad, bicubic resize, centre crop, normalise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from hadpo.backbones import _checkpoint
from hadpo.records import BadInput

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, clip.py: _transform
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as a person sees it: turned as its EXIF data says, in RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits per pixel; `convert` would clip them at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    return image.convert("RGB")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Steps from an image to the pixels of a square vision encoder."""

    image_size: int  # pixels of a side
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    pad: bool = False  # to a square of the mean colour, before resizing
    squash: bool = False  # to a square whatever the sides were; else the short side counts

    @staticmethod
    def read(
        folder: Path, *, image_size: int, pad: bool = False, squash: bool = False
    ) -> Preprocessing:
        """As `preprocessor_config.json` of the vision folder says; CLIP's numbers without one.

        Raises:
            BadInput: the file asks for another size than the encoder has.
        """
        path = folder / "preprocessor_config.json"
        config = _checkpoint.read_json(path) if path.is_file() else {}
        crop = config.get("crop_size", image_size)
        size = crop.get("height") if isinstance(crop, Mapping) else crop
        if size != image_size:
            raise BadInput(f"{path}: crop_size {size}, but the vision encoder takes {image_size}")
        return Preprocessing(
            image_size=image_size,
            mean=tuple(config.get("image_mean", CLIP_MEAN)),
            std=tuple(config.get("image_std", CLIP_STD)),
            pad=pad,
            squash=squash,
        )

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 side side"]:
        """Pixels in float32 on the CPU."""
        image = to_rgb(image)
        if self.pad:
            image = self._padded(image)
        image = self._resized(image)
        left = (image.width - self.image_size) // 2
        top = (image.height - self.image_size) // 2
        image = image.crop((left, top, left + self.image_size, top + self.image_size))
        values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        return (values - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[
            :, None, None
        ]

    def _padded(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        colour = tuple(int(255 * m) for m in self.mean)  # (122, 116, 104) for CLIP
        square = Image.new("RGB", (side, side), colour)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def _resized(self, image: Image.Image) -> Image.Image:
        short = min(image.size)
        width, height = (int(self.image_size * side / short) for side in image.size)
        if self.squash:
            width = height = self.image_size
        return image.resize((width, height), Image.Resampling.BICUBIC)
