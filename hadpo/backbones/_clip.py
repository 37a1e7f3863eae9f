"""CLIP's image encoder, from transformers, up to the layer whose states LLaVA and mPLUG-Owl use."""

from collections.abc import Mapping
from typing import Any

from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

_SETTINGS = {
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
}

KEYS = {  # CLIP folder, or the tower inside transformers' LLaVA folder -> ours
    "vision_model.{}": "{}",
    "vision_tower.vision_model.{}": "{}",
    "vision_tower.{}": "{}",
    "model.vision_tower.vision_model.{}": "{}",
    "model.vision_tower.{}": "{}",
}
_IGNORED = {
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


class ClipTower(nn.Module):
    """An empty encoder on the meta device, without the layers behind the states that are used.

    Args:
        config: `vision_config` of a CLIP folder; what it leaves out is as in ViT-B/32.
        select_layer: which hidden state is taken, as in the authors' config: -2 is the one before
            the last layer.
    """

    def __init__(self, config: Mapping[str, Any], select_layer: int) -> None:
        super().__init__()
        clip: Any = CLIPVisionConfig(**{k: v for k, v in config.items() if k in _SETTINGS})
        depth = clip.num_hidden_layers
        clip.num_hidden_layers = depth + 1 + select_layer if select_layer < 0 else select_layer
        clip._attn_implementation = "sdpa"
        with init_empty_weights(include_buffers=False):
            model = CLIPVisionModel(clip)
        model = getattr(model, "vision_model", model)  # older transformers 5 wrap it once more
        self.embeddings = model.embeddings
        self.pre_layrnorm = model.pre_layrnorm  # the authors' spelling
        self.encoder = model.encoder
        self.width = clip.hidden_size
        self.image_size = clip.image_size  # pixels of a side
        self.num_patches = (self.image_size // clip.patch_size) ** 2

    def forward(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images positions features"]:
        """States of the selected layer, the CLS token first."""
        states = self.pre_layrnorm(self.embeddings(pixels))
        return self.encoder(inputs_embeds=states).last_hidden_state


def ignored(tower: ClipTower) -> dict[str, str]:
    """Keys of a CLIP file that a tower from `build` does not need -> why."""
    depth = len(tower.encoder.layers)
    reason = "behind the layer whose states are used"
    unused = {}
    for start in KEYS:
        unused[start.replace("{}", "post_layernorm.{}")] = reason
        for layer in range(depth, depth + MOST_LAYERS):
            unused[start.replace("{}", f"encoder.layers.{layer}.{{}}")] = reason
    return unused | _IGNORED


MOST_LAYERS = 48  # of any CLIP encoder
