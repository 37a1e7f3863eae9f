"""EVA's features, a Q-Former and a LLaMA: what MiniGPT-4 and InstructBLIP have in common.

Learned queries look at an image, and InstructBLIP's at the instruction too, as BERT's word pieces.
Both Q-Formers are transformers' own. Source: salesforce/LAVIS, blip2.py, blip2_vicuna_instruct.py.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
)

from hadpo.records import BadInput
from hadpo.vlm import decoder
from hadpo.vlm.backbone import Backbone, Variant
from hadpo.vlm.decoder import LlamaFolder
from hadpo.vlm.vision import EvaSizes, EvaTower

_BERT_EPS = 1e-12
_MOST_PIECES = 128  # of a text, marks included: max_txt_len of blip2_vicuna_instruct.py
_EXTRA = "[DEC]"  # Blip2Base.init_tokenizer adds it; no instruction uses it
_TEXT_HALF = ("intermediate", "output")  # of a layer: what the words go through


class EvaBackbone(Backbone):
    """A backbone that looks through EVA and speaks through a plain LLaMA folder.

    Raises:
        BadInput: the LLaMA is that of another variant.
    """

    vision: EvaTower

    def __init__(self, name: str, declared: Variant, llama: LlamaFolder, *, eva: EvaSizes) -> None:
        super().__init__(name, declared, llama.model, llama.config)
        decoder.check_width(llama.model, declared.sizes.width, folder=llama.path, name=name)
        self.tokenizer = llama.tokenizer
        self.vision = EvaTower(eva)

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 side side"]:
        """Squeeze to a square and normalise."""
        return self.vision.preprocess(image)

    def features(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images positions features"]:
        """States of all positions behind `ln_vision`, CLS first."""
        return self.vision.ln_vision(self.vision(pixels))


class WordPieces:
    """Text to ids: [CLS], the last word pieces that fit, [SEP].

    Raises:
        BadInput: no such file, or one without BERT's marks.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "vocab.txt"
        if not self.path.is_file():
            raise BadInput(f"{folder}: no vocab.txt; copy it from bert-base-uncased")
        lines = set(self.path.read_text(encoding="utf-8").splitlines())
        missing = [mark for mark in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if mark not in lines]
        if missing:
            raise BadInput(f"{self.path}: no {', '.join(missing)}; BERT's vocab.txt has them")
        self._tokenizer = BertTokenizer.from_pretrained(folder, do_lower_case=True)
        self._tokenizer.add_special_tokens({"bos_token": _EXTRA})

    @property
    def vocab_size(self) -> int:
        """Number of pieces, [DEC] included: rows of the Q-Former's table of words."""
        return len(self._tokenizer)

    def save(self, folder: Path) -> None:
        """Write them as transformers reads them, and as this class does."""
        self._tokenizer.truncation_side = "left"
        self._tokenizer.save_pretrained(folder)
        shutil.copyfile(self.path, folder / self.path.name)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; of a long one, its end."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        start, end = self._tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        return [start, *ids[-(_MOST_PIECES - 2) :], end]


@dataclass(frozen=True, kw_only=True)
class QFormerSizes:
    """Sizes of the published Q-Formers: BERT-base with 32 queries."""

    queries: int = 32
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    cross_every: int = 2  # layers 0, 2, 4, ... look at the image
    vocab_size: int = 30523  # BERT's and [DEC]
    positions: int = 512


class QFormer(nn.Module):
    """Queries, the transformer, and the projection to the language model; on the meta device.

    `features` and `width` are the widths of encoder and language model.
    """

    def __init__(self, sizes: QFormerSizes, *, features: int, width: int, reads_text: bool) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "vocab_size": sizes.vocab_size,
            "hidden_size": sizes.width,
            "num_hidden_layers": sizes.depth,
            "num_attention_heads": sizes.heads,
            "intermediate_size": sizes.mlp_width,
            "hidden_act": "gelu",
            "layer_norm_eps": _BERT_EPS,
            "max_position_embeddings": sizes.positions,
            "cross_attention_frequency": sizes.cross_every,
            "encoder_hidden_size": features,
            "hidden_dropout_prob": 0.0,  # frozen: it never drops anything
            "attention_probs_dropout_prob": 0.0,
        }
        with init_empty_weights(include_buffers=False):
            self.query_tokens = nn.Parameter(torch.empty(1, sizes.queries, sizes.width))
            if reads_text:
                config: Any = InstructBlipQFormerConfig(**settings)
                config._attn_implementation = "sdpa"
                self.transformer: Any = InstructBlipQFormerModel(config)
            else:
                config = Blip2QFormerConfig(**settings, use_qformer_text_input=False)
                config._attn_implementation = "sdpa"
                self.transformer = Blip2QFormerModel(config)
            self.projection = nn.Linear(sizes.width, width)
        self.sizes = sizes
        self.reads_text = reads_text

    def forward(
        self,
        features: Float[Tensor, "rows positions features"],
        text: Int[Tensor, "rows words"] | None = None,
        is_text: Bool[Tensor, "rows words"] | None = None,
    ) -> Float[Tensor, "rows queries width"]:
        """Image tokens: what the queries found, projected."""
        return self.projection(self.states(features, text, is_text)[:, : self.sizes.queries])

    def states(
        self,
        features: Float[Tensor, "rows positions features"],
        text: Int[Tensor, "rows words"] | None = None,
        is_text: Bool[Tensor, "rows words"] | None = None,
    ) -> Float[Tensor, "rows states hidden"]:
        """States of the last layer, the queries first, then the text.

        `text` are BERT ids, right-padded, for a Q-Former that reads text.
        """
        queries = self.query_tokens.expand(len(features), -1, -1)
        arguments: dict[str, Any] = {"query_embeds": queries, "encoder_hidden_states": features}
        if self.reads_text:
            if text is None or is_text is None:
                raise ValueError("this Q-Former reads a text; give `text` and `is_text`")
            seen = is_text.new_ones(len(features), self.sizes.queries)
            mask = torch.cat([seen, is_text], dim=1)[:, None, None]  # of 2 axes it is waited for
            arguments |= {"input_ids": text, "attention_mask": mask}
        return self.transformer(**arguments).last_hidden_state


def qformer_keys(sizes: QFormerSizes, *, reads_text: bool, projection: str) -> dict[str, str]:
    """Keys of the originals' files -> ours: the Q-Former, its projection, the norm before it."""
    source, target = "Qformer.bert.", "connector.transformer."
    inner = "embeddings." if reads_text else ""
    table = {
        "ln_vision.{}": "ln_vision.{}",
        f"{projection}.{{}}": "connector.projection.{}",
        "query_tokens": "connector.query_tokens",
        f"{source}embeddings.LayerNorm.{{}}": f"{target}{inner}layernorm.{{}}",
    }
    if reads_text:
        for name in ("word_embeddings", "position_embeddings"):
            table[f"{source}embeddings.{name}.{{}}"] = f"{target}embeddings.{name}.{{}}"
    for i in range(sizes.depth):
        layer = f"encoder.layer.{i}."
        for name in ("attention", "crossattention"):
            original = f"{source}{layer}{name}."
            table[f"{original}self.{{}}"] = f"{target}{layer}{name}.attention.{{}}"
            table[f"{original}output.{{}}"] = f"{target}{layer}{name}.output.{{}}"
        for name in ("intermediate_query", "output_query", *(_TEXT_HALF if reads_text else ())):
            table[f"{source}{layer}{name}.{{}}"] = f"{target}{layer}{name}.{{}}"
    return table


def qformer_ignored(sizes: QFormerSizes, *, reads_text: bool) -> dict[str, str]:
    """Keys of the originals' files that `QFormer` does not need -> why."""
    source = "Qformer.bert."
    table = {
        f"{source}embeddings.position_ids": "positions are counted, not stored",
        "Qformer.cls.{}": "BERT's word prediction, used in pretraining only",
    }
    if not reads_text:
        unread = [f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position")]
        unread += [f"encoder.layer.{i}.{n}.{{}}" for i in range(sizes.depth) for n in _TEXT_HALF]
        table |= {source + key: "the text half, which the originals delete" for key in unread}
    return table
