"""Images to features: pixels as an encoder wants them, and the two encoders that families share.

`Preprocessing` makes pixels; `ClipTower` is LLaVA's encoder, `EvaTower` MiniGPT-4's and
InstructBLIP's. Both are built of transformers' own layers, on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel, CLIPVisionConfig, CLIPVisionModel

from hadpo.images import to_rgb
from hadpo.records import BadInput
from hadpo.vlm import checkpoint, fields

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, clip.py: _transform
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_CLIP_SETTINGS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size", "hidden_act", "layer_norm_eps"),
)

CLIP_KEYS = {  # CLIP folder, or the tower inside transformers' LLaVA folder -> ours
    "vision_model.{}": "{}",
    "vision_tower.vision_model.{}": "{}",
    "vision_tower.{}": "{}",
    "model.vision_tower.vision_model.{}": "{}",
    "model.vision_tower.{}": "{}",
}
_MOST_CLIP_LAYERS = 48  # of any CLIP encoder
_CLIP_IGNORED = {
    "text_model.{}": "the text half of CLIP",
    "text_projection.weight": "the text half of CLIP",
    "visual_projection.weight": "CLIP's own head",
    "logit_scale": "CLIP's own head",
    "{}position_ids": "positions are counted, not stored",
    "language_model.{}": "read as the part language_model",
    "model.language_model.{}": "read as the part language_model",
    "lm_head.weight": "read as the part language_model",
    "multi_modal_projector.{}": "read as the part language_model",
    "model.multi_modal_projector.{}": "read as the part language_model",
}

_EVA_BLOCK_EPS = 1e-6  # eva_vit.py: partial(nn.LayerNorm, eps=1e-6)
_EVA_LN_VISION_EPS = 1e-5  # blip2.py: a plain nn.LayerNorm

_EVA_LAYER = {  # authors' name -> ours, within a block
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
EVA_KEYS = {  # eva_vit_g.pth -> ours
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.{}": "embeddings.patch_embedding.{}",
    "blocks.{}.attn.qkv.weight": "encoder.layers.{}.self_attn.qkv.weight",
    "blocks.{}.attn.q_bias": "encoder.layers.{}.self_attn.q_bias",
    "blocks.{}.attn.v_bias": "encoder.layers.{}.self_attn.v_bias",
    **checkpoint.layer_keys("blocks.{}.", "encoder.layers.{}.", _EVA_LAYER),
}
_EVA_IGNORED = {
    "norm.{}": "EVA's own last norm, which the originals never build",
    "fc_norm.{}": "EVA's own last norm, which the originals never build",
    "head.{}": "EVA's classifier",
    "mask_token": "of EVA's pretraining",
}
_MOST_EVA_BLOCKS = 64  # of any EVA file


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
            BadInput: the file asks for another size than the encoder has, or for other steps.
        """
        path = folder / "preprocessor_config.json"
        config = checkpoint.read_json(path) if path.is_file() else {}
        fields.check(config, "pixels", where=path)
        for field in ("crop_size", "size", "resolution"):
            found = config.get(field, image_size)
            sizes = set(found.values()) if isinstance(found, Mapping) else {found}
            if sizes != {image_size}:
                found = "x".join(map(str, sorted(sizes)))
                raise BadInput(
                    f"{path}: {field} {found}, but the vision encoder takes {image_size}"
                )
        crops = config.get("do_center_crop", True) and "height" not in str(config.get("size"))
        if not (pad or squash or crops):
            raise BadInput(
                f"{path}: do_center_crop, size: found steps that squash the image; expected those "
                "of CLIP, which keep its sides' ratio"
            )
        return Preprocessing(
            image_size=image_size,
            mean=tuple(config.get("image_mean", CLIP_MEAN)),
            std=tuple(config.get("image_std", CLIP_STD)),
            pad=pad,
            squash=squash,
        )

    def as_config(self, kind: str) -> dict[str, Any]:
        """The same steps as transformers' `preprocessor_config.json` of an image processor."""
        square = {"height": self.image_size, "width": self.image_size}
        steps = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize")
        return {
            "image_processor_type": kind,
            **dict.fromkeys(steps, True),
            "do_center_crop": not self.squash,
            "do_pad": self.pad,
            "size": square if self.squash else {"shortest_edge": self.image_size},
            "crop_size": square,
            "resample": int(Image.Resampling.BICUBIC),
            "rescale_factor": 1 / 255,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 side side"]:
        """Pixels in float32 on the CPU."""
        image = to_rgb(image)
        if self.pad:
            side = max(image.size)
            colour = tuple(int(255 * m) for m in self.mean)  # (122, 116, 104) for CLIP
            square = Image.new("RGB", (side, side), colour)
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        short = min(image.size)
        width, height = (int(self.image_size * side / short) for side in image.size)
        if self.squash:
            width = height = self.image_size
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left = (image.width - self.image_size) // 2
        top = (image.height - self.image_size) // 2
        image = image.crop((left, top, left + self.image_size, top + self.image_size))
        values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return (values - mean) / std


class ClipTower(nn.Module):
    """An empty encoder on the meta device, without the layers behind the states that are used.

    Args:
        config: `vision_config` of a CLIP folder; what it leaves out is as in ViT-B/32.
        select_layer: which hidden state is taken, as in the authors' config: -2 is the one before
            the last layer.
        where: the file that `config` stands in, for messages.
        chooser: the file that says `select_layer`.

    Raises:
        BadInput: no such layer, or sizes that do not fit together.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        select_layer: int,
        *,
        where: str = "vision_config",
        chooser: str = "config.json",
    ) -> None:
        super().__init__()
        try:
            clip: Any = CLIPVisionConfig(**{k: v for k, v in config.items() if k in _CLIP_SETTINGS})
        except StrictDataclassError as error:  # hidden_size is no multiple of num_attention_heads
            raise BadInput(f"{where}: {str(error).splitlines()[-1].strip()}") from error
        depth = clip.num_hidden_layers
        used = depth + 1 + select_layer if select_layer < 0 else select_layer
        if not 0 <= used <= depth:
            raise BadInput(
                f"{chooser}: mm_vision_select_layer or vision_feature_layer {select_layer}, but "
                f"the tower has {depth} layers"
            )
        if clip.hidden_size % clip.num_attention_heads or clip.patch_size > clip.image_size:
            raise BadInput(
                f"{where}: hidden_size {clip.hidden_size} with {clip.num_attention_heads} heads, "
                f"patch_size {clip.patch_size} of image_size {clip.image_size}: they do not fit"
            )
        clip.num_hidden_layers = used
        clip._attn_implementation = "sdpa"
        with init_empty_weights(include_buffers=False):
            model = CLIPVisionModel(clip)
        model = getattr(model, "vision_model", model)  # older transformers 5 wrap it once more
        self.embeddings = model.embeddings
        self.pre_layrnorm = model.pre_layrnorm  # the authors' spelling
        self.encoder = model.encoder
        self.width = clip.hidden_size
        self.image_size, self.patch_size = clip.image_size, clip.patch_size  # pixels of a side
        self.num_patches = (self.image_size // self.patch_size) ** 2

    def forward(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images positions features"]:
        """States of the selected layer, the CLS token first."""
        states = self.pre_layrnorm(self.embeddings(pixels))
        return self.encoder(inputs_embeds=states).last_hidden_state


def clip_ignored(tower: ClipTower) -> dict[str, str]:
    """Keys of a CLIP file that a tower from `build` does not need -> why."""
    depth = len(tower.encoder.layers)
    reason = "behind the layer whose states are used"
    unused = {}
    for start in CLIP_KEYS:
        unused[start.replace("{}", "post_layernorm.{}")] = reason
        for layer in range(depth, depth + _MOST_CLIP_LAYERS):
            unused[start.replace("{}", f"encoder.layers.{layer}.{{}}")] = reason
    return unused | _CLIP_IGNORED


@dataclass(frozen=True, kw_only=True)
class EvaSizes:
    """Sizes of EVA ViT-g as LAVIS and MiniGPT-4 build it."""

    image_size: int = 224  # pixels of a side
    patch_size: int = 14  # pixels of a side
    width: int = 1408
    depth: int = 39  # the file has 40 blocks; the originals leave the last one out
    heads: int = 16
    mlp_width: int = 6144  # int(1408 * 4.3637)


class EvaTower(nn.Module):
    """An empty encoder and the norm behind it, on the meta device."""

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        config: Any = Blip2VisionConfig(
            hidden_size=sizes.width,
            intermediate_size=sizes.mlp_width,
            num_hidden_layers=sizes.depth,
            num_attention_heads=sizes.heads,
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            hidden_act="gelu",
            layer_norm_eps=_EVA_BLOCK_EPS,
            qkv_bias=True,
        )
        config._attn_implementation = "sdpa"
        with init_empty_weights(include_buffers=False):
            model = Blip2VisionModel(config)
            self.ln_vision = nn.LayerNorm(sizes.width, eps=_EVA_LN_VISION_EPS)
        self.embeddings: Any = model.embeddings
        self.encoder: Any = model.encoder
        self.sizes = sizes
        self.num_patches = (sizes.image_size // sizes.patch_size) ** 2
        # To a square, whatever the shape (blip_processors.py: BlipImageEvalProcessor).
        self.preprocess = Preprocessing(image_size=sizes.image_size, squash=True)

    def forward(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images positions features"]:
        """States of the last block before `ln_vision`, the CLS token first."""
        return self.encoder(inputs_embeds=self.embeddings(pixels)).last_hidden_state

    def reset_norm(self, **to: Unpack[checkpoint.Placement]) -> None:
        """`ln_vision` as PyTorch starts it: it normalises, and neither scales nor shifts."""
        self.ln_vision.weight = checkpoint.frozen(torch.ones(self.sizes.width, **to))
        self.ln_vision.bias = checkpoint.frozen(torch.zeros(self.sizes.width, **to))


def fill_eva(tower: EvaTower, path: Path, **to: Unpack[checkpoint.Placement]) -> None:
    """Fill all but `ln_vision` from eva_vit_g.pth.

    A position table of another grid is interpolated (bicubic), as LAVIS does it.

    Raises:
        BadInput: keys or shapes that do not fit.
    """

    def resized(table: Tensor) -> Tensor:
        expected = tower.embeddings.position_embedding.shape
        is_other = table.shape != expected and _is_square(table, tower.sizes.width)
        return resize_positions(table.float(), expected[1] - 1) if is_other else table

    attentions = [layer.self_attn for layer in tower.encoder.layers]
    for attention in attentions:
        _split_biases(attention)
    checkpoint.fill(
        nn.ModuleDict({"embeddings": tower.embeddings, "encoder": tower.encoder}),
        checkpoint.weight_files(path, what="vision"),
        keys=EVA_KEYS,
        ignored=eva_ignored(tower),
        changes={"embeddings.position_embedding": resized},
        **to,
    )
    for attention in attentions:
        query, value = attention.q_bias, attention.v_bias
        attention.qkv.bias = checkpoint.frozen(torch.cat([query, torch.zeros_like(query), value]))
        del attention.q_bias, attention.v_bias


def compare_eva(path: Path, sources: Sequence[Path]) -> None:
    """Refuse a checkpoint that holds another tower than eva_vit_g.pth; LAVIS would read its own."""
    (file,) = checkpoint.weight_files(path, what="vision")
    own = dict(checkpoint.read_tensors(file))
    checkpoint.compare_part(
        sources, own, keys={"visual_encoder.{}": "{}"}, part="vision", named=file
    )


def eva_ignored(tower: EvaTower) -> dict[str, str]:
    """Keys of an EVA file that the tower does not need -> why."""
    reason = "a block that the originals leave out"
    beyond = range(tower.sizes.depth, _MOST_EVA_BLOCKS)
    return {f"blocks.{block}.{{}}": reason for block in beyond} | _EVA_IGNORED


def resize_positions(
    table: Float[Tensor, "1 positions width"], patches: int
) -> Float[Tensor, "1 resized width"]:
    """A position table for another number of patches; the CLS token's row stays as it is."""
    side, wanted = round((table.shape[1] - 1) ** 0.5), round(patches**0.5)
    grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(
        grid, size=(wanted, wanted), mode="bicubic", align_corners=False
    )
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _is_square(table: Tensor, width: int) -> bool:
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != width or table.shape[1] < 2:
        return False
    return round((table.shape[1] - 1) ** 0.5) ** 2 == table.shape[1] - 1


def _split_biases(attention: Any) -> None:
    """EVA's file has biases for query and value only; transformers keeps one of three parts."""
    attention.qkv.bias = None
    for name in ("q_bias", "v_bias"):
        empty = torch.empty(attention.qkv.in_features, device="meta")
        setattr(attention, name, nn.Parameter(empty))
