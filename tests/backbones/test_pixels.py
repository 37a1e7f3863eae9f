"""Images to pixels: any mode, EXIF, padding, and the originals' resize."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from hadpo.images import to_rgb
from hadpo.records import BadInput
from hadpo.vlm.vision import CLIP_MEAN, CLIP_STD, Preprocessing


def as_uint8(pixels):
    """Undo the normalisation."""
    values = pixels * torch.tensor(CLIP_STD)[:, None, None] + torch.tensor(CLIP_MEAN)[:, None, None]
    return (values * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (28, 28), (1, 50)])
def test_pads_with_the_mean_colour_and_floor_offset(size):
    step = Preprocessing(image_size=max(size), pad=True)
    found = as_uint8(step(Image.new("RGB", size, (255, 0, 0))))
    expected = np.empty((max(size), max(size), 3), np.uint8)
    expected[:] = (122, 116, 104)
    left, top = (max(size) - size[0]) // 2, (max(size) - size[1]) // 2
    expected[top : top + size[1], left : left + size[0]] = (255, 0, 0)
    assert np.abs(found.astype(int) - expected).max() == 0


@pytest.mark.parametrize("size", [(80, 60), (51, 90), (33, 33)])
def test_equals_clips_own_processor(size):
    """The slow processor that the originals ran resizes with Pillow; transformers still has it."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(values)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    expected = torch.as_tensor(np.asarray(processor(image)["pixel_values"][0]))
    found = Preprocessing(image_size=28)(image)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_any_mode_becomes_rgb(mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 20), 128 * 256, np.uint16))
    elif mode == "PA":
        image = Image.new("LA", (20, 20), 128).convert("PA")
    else:
        image = Image.new("RGB", (20, 20), (128, 128, 128)).convert(mode)
    pixels = Preprocessing(image_size=14, pad=True)(image)
    assert pixels.shape == (3, 14, 14) and pixels.dtype == torch.float32
    assert abs(as_uint8(pixels).mean() - 128) <= 4  # dithered modes are grey on average


def test_exif_orientation_is_honoured():
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    image.getexif()[0x0112] = 6  # turn by 90 degrees
    assert to_rgb(image).size == (10, 30)


def test_config_of_another_size_is_an_error(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"crop_size": {"height": 224}}')
    with pytest.raises(BadInput, match="crop_size 224, but the vision encoder takes 336"):
        Preprocessing.read(tmp_path, image_size=336, pad=True)
