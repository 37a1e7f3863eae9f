"""A class of transformers at published sizes, without weights, to be counted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from hadpo.backbones.hf import HubModel
from hadpo.vlm.decoder import Packed
from hadpo.vlm.hub import Chat
from hadpo.vlm.reading import Reading
from hadpo.vlm.rows import Rows, packed

if TYPE_CHECKING:
    from tools.speed.models import Geometry

_SECTIONS = {"qwen2_5_vl": [16, 24, 24], "qwen3_vl": [24, 20, 20]}  # of positions on three axes


class HubOnMeta(HubModel):
    """Its decoder reads rows as `hadpo.backbones.hf` packs them.

    Prompts come as if read: embeddings, positions, masks and the features that early layers add.
    Tower and processor are left out; they run before, without a gradient, and of what they make
    only these stay.
    """

    num_image_tokens: int = 0  # pyright: ignore[reportIncompatibleMethodOverride]

    def set_template(self, arguments: Any) -> None:
        """None: prompts are token ids already."""

    @torch.no_grad()
    def inputs(self, layout: Packed, pixels: Any) -> Rows:
        """As `HubModel.inputs`; an image stands first in its prompt."""
        readings = []
        for pair in range(len(layout.questions)):
            own = [span for span in layout.spans if span.pair == pair and span.first >= 0]
            length = max(span.first + span.end - span.start for span in own)
            readings.append(self._made(length))
        return packed(layout, readings, self.embedding, self.kinds, {})

    def _made(self, length: int) -> Reading:
        width, image = self.text_config.hidden_size, self.num_image_tokens
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        vision = self.language_model.config.vision_config
        layers = len(getattr(vision, "deepstack_visual_indexes", ()))
        features = torch.empty(layers, image, width, dtype=self.dtype, device="meta")
        return Reading(
            embeds=torch.empty(length, width, dtype=self.dtype, device="meta"),
            positions=torch.arange(length).expand(self.axes, -1),
            masks=dict.fromkeys(self.kinds, seen),
            visual=torch.arange(length) < image if layers else None,
            deepstack=tuple(features),
        )


def empty(geometry: Geometry) -> HubOnMeta:
    """The class `geometry.kind` on the meta device; vision at the class's own sizes."""
    config: Any = AutoConfig.for_model(geometry.kind)
    text = config.get_text_config()
    text.update(
        {
            "hidden_size": geometry.width,
            "intermediate_size": geometry.mlp_width,
            "num_hidden_layers": geometry.depth,
            "num_attention_heads": geometry.heads,
            "num_key_value_heads": geometry.few_heads,
            "head_dim": geometry.head_width,
            "vocab_size": geometry.vocab,
        }
    )
    if types := sorted({*(getattr(text, "layer_types", None) or ())}):
        text.layer_types = [types[k % len(types)] for k in range(geometry.depth)]
    if sections := _SECTIONS.get(geometry.kind):
        text.rope_parameters["mrope_section"] = sections
    config.tie_word_embeddings = text.tie_word_embeddings = geometry.is_tied
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    made = HubOnMeta(f"hf/{geometry.name}", model, Chat.__new__(Chat), Path())
    made.num_image_tokens = geometry.image_tokens
    made.axes = 3 if geometry.kind in _SECTIONS else 1
    return made
