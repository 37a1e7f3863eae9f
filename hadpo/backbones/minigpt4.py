"""MiniGPT-4: EVA ViT-g -> (Q-Former, with Vicuna-v0 only) -> one linear layer -> LLaMA.

Source of prompts, keys and preprocessing: Vision-CAIR/MiniGPT-4, minigpt4.py, minigpt_base.py,
conversation.py, blip_processors.py. HA-DPO trains and evaluates the Llama-2 variant; LRV V1 and
Oxford HIC are the Vicuna-v0 variant with another linear layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Unpack

import torch
from accelerate import init_empty_weights
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hadpo.records import BadInput
from hadpo.vlm import checkpoint, decoder
from hadpo.vlm.backbone import LLAMA_13B, ModelSizes, Variant
from hadpo.vlm.checkpoint import Files, Placement
from hadpo.vlm.decoder import LlamaFolder
from hadpo.vlm.prompt import Prompts, PromptTemplate
from hadpo.vlm.qformer import EvaBackbone, QFormer, QFormerSizes, qformer_ignored, qformer_keys
from hadpo.vlm.vision import EvaSizes, compare_eva, fill_eva

# Prompts, byte by byte: conversation.py and minigpt4.py.
# The first <Img>...</Img> are words; the picture comes in the second. Blanks at the ends count.
_SYSTEM = (
    "<s>Give the following image: <Img>ImageContent</Img>. You will be able to see the image once "
    "I provide it to you. Please answer my questions."
)
_IMAGE_PART = "<Img><image></Img> "
_PICTURE = _IMAGE_PART + "{instruction}"
_LLAMA2_TRAIN = PromptTemplate(f"<s>[INST] {_PICTURE} [/INST] ")
LLAMA2 = Prompts(
    train=_LLAMA2_TRAIN,
    evaluate=PromptTemplate(f"{_SYSTEM}<s>[INST] {_PICTURE} [/INST] "),  # yes, a second <s>
    again=PromptTemplate("<s>[INST] {instruction} [/INST] "),  # and no </s> before it
    image_part=_IMAGE_PART,
)
LLAMA2_HADPO = replace(  # pope_eval.py and shr_eval.py strip the prompt
    LLAMA2, evaluate=PromptTemplate(f"{_SYSTEM}<s>[INST] {_PICTURE} [/INST]")
)
_VICUNA0_TRAIN = PromptTemplate(f"<s>###Human: {_PICTURE} ###Assistant: ")
VICUNA0 = Prompts(
    train=_VICUNA0_TRAIN,
    evaluate=PromptTemplate(f"{_SYSTEM}###Human: {_PICTURE}###Assistant: "),
    again=PromptTemplate("###Human: {instruction}###Assistant: "),
    image_part=_IMAGE_PART,
)
VICUNA0_LRV = replace(  # the older conversation.py of LRV and HIC has no blank at the end
    VICUNA0, evaluate=PromptTemplate(f"{_SYSTEM}###Human: {_PICTURE}###Assistant:")
)


_LLAMA2 = Variant(
    prompts=LLAMA2,
    unused_parts=("qformer",),
    source="meta-llama/Llama-2-7b-chat-hf and pretrained_minigpt4_llama2_7b.pth",
    sizes=ModelSizes(others=1_010_000_000, connector=23_072_768, image_tokens=64),
)
_VICUNA0 = Variant(
    prompts=VICUNA0,
    end="###",
    source="Vicuna-v0-7B and prerained_minigpt4_7b.pth",
    sizes=ModelSizes(others=1_010_000_000, connector=3_149_824, image_tokens=32),
)
VARIANTS = {
    "llama2": _LLAMA2,
    "llama2-hadpo": replace(
        _LLAMA2,
        prompts=LLAMA2_HADPO,
        source="as llama2, with the prompt of HA-DPO's evaluation",
    ),
    "vicuna0": _VICUNA0,
    "vicuna0-13b": Variant(
        prompts=VICUNA0,
        end="###",
        source="Vicuna-v0-13B and pretrained_minigpt4.pth",
        sizes=ModelSizes(others=1_010_000_000, connector=3_937_280, image_tokens=32, **LLAMA_13B),
    ),
    "vicuna0-lrv": replace(
        _VICUNA0,
        prompts=VICUNA0_LRV,
        source="as vicuna0, with LRV's or HIC's .pth and the prompt of their demos",
    ),
}
PARTS = {
    "language_model": "folder of Llama-2-7b-chat or Vicuna-v0 (merged weights)",
    "vision": "eva_vit_g.pth of LAVIS",
    "qformer": "blip2_pretrained_flant5xxl.pth of LAVIS; with Vicuna-v0 only",
    "connector": "MiniGPT-4's own .pth, which holds llama_proj",
}
OPTIONAL_PARTS = ("qformer",)  # a recipe may do without
_NEIGHBOURS = 4  # patches that one image token holds, without a Q-Former

IGNORED = {  # MiniGPT-4 saves what it trained, and all buffers
    "llama_model.{}inv_freq": "rotary tables are computed in float32",
    "Qformer.bert.embeddings.position_ids": "positions are counted, not stored",
}
_BLIP2_IGNORED = {
    "t5_proj.{}": "BLIP-2's own connector to T5",
    "visual_encoder.{}": "read as the part vision",
}


class Joined(nn.Module):
    """Llama-2's connector: neighbouring patches side by side, then one linear layer."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        with init_empty_weights():
            self.projection = nn.Linear(_NEIGHBOURS * features, width)

    def forward(
        self, features: Float[Tensor, "images positions features"]
    ) -> Float[Tensor, "images tokens width"]:
        """Four patches that follow one another in reading order make one image token."""
        patches = features[:, 1:]  # without CLS
        return self.projection(patches.unflatten(1, (-1, _NEIGHBOURS)).flatten(2))


class MiniGPT4(EvaBackbone):
    """MiniGPT-4 of any size; `from_original` fills it."""

    connector: nn.Module  # Joined or QFormer
    PARTS: ClassVar = PARTS
    CONNECTOR_KEYS: ClassVar = {"llama_proj.{}": "connector.projection.{}"}

    def __init__(
        self, name: str, llama: LlamaFolder, *, eva: EvaSizes, qformer: QFormerSizes | None
    ) -> None:
        super().__init__(name, VARIANTS[name.partition("/")[2]], llama, eva=eva)
        width = llama.model.config.hidden_size
        if qformer is None:
            self.connector = Joined(eva.width, width)
            self.num_image_tokens = self.vision.num_patches // _NEIGHBOURS
        else:
            self.connector = QFormer(qformer, features=eva.width, width=width, reads_text=False)
            self.num_image_tokens = qformer.queries

    def connect(
        self, features: Float[Tensor, "images positions features"], instructions: Sequence[str]
    ) -> Float[Tensor, "images tokens width"]:
        """Image tokens; they do not depend on the instruction."""
        return self.connector(features)

    def response_ids(self, text: str) -> list[int]:
        """Ids of an answer and its end marker; `###` is a text, tokenised with the answer."""
        if not self.is_text_final:
            return self.tokenizer.encode(text + self.declared.end)
        return super().response_ids(text)

    @property
    def end_ids(self) -> list[int]:
        """Ids of the end marker, as they follow a sentence."""
        if not self.is_text_final:
            return self._spellings[0]
        return super().end_ids

    def ends(self, ids: Int[Tensor, "*rows length"]) -> Bool[Tensor, "*rows"]:
        """Whether generated ids end with a spelling of the end marker, or with </s>."""
        over = super().ends(ids)
        for spelling in () if self.is_text_final else self._spellings:
            if ids.shape[-1] >= len(spelling):
                wanted = torch.tensor(spelling, device=ids.device)
                over = over | (ids[..., -len(spelling) :] == wanted).all(-1)
        return over

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the end marker; of a model that goes on to play both roles, its last turn."""
        text = super().decode(ids)
        if not self.is_text_final:
            text = text.partition(self.declared.end)[0].rpartition("Assistant:")[2]
        return text

    @property
    def is_text_final(self) -> bool:
        """Not if the end marker is a text: a later turn takes the place of the first."""
        return self.declared.end == "</s>"

    @cached_property
    def _spellings(self) -> list[list[int]]:
        """Ids of the end marker behind a sentence, and at the start of a text."""
        end = self.declared.end
        before = self.tokenizer.encode("it.")
        return [self.tokenizer.encode("it." + end)[len(before) :], self.tokenizer.encode(end)]


def from_original(
    files: Files, *, variant: str, quantization: str = "none", **to: Unpack[Placement]
) -> MiniGPT4:
    """MiniGPT-4 from the authors' files.

    Raises:
        BadInput: a part is missing, or its files are broken or do not fit.
    """
    name = f"minigpt4/{variant}"
    unused = VARIANTS[variant].unused_parts
    paths = checkpoint.locate_parts(name, files, {p: PARTS[p] for p in PARTS if p not in unused})
    if unused and "qformer" in files:
        raise BadInput(f"{name} has no Q-Former: {files['qformer']} is of the Vicuna-v0 variants")
    folder = paths["language_model"]
    for part in paths.keys() - {"language_model"}:
        paths[part] = checkpoint.find_weights(paths[part], what=part)
    backbone = MiniGPT4(
        name,
        LlamaFolder.open(folder),
        eva=checkpoint.read_sizes(paths["vision"], EvaSizes),
        qformer=None if unused else checkpoint.read_sizes(paths["qformer"], QFormerSizes),
    )
    backbone.files = paths
    checkpoint.quantise(backbone.language_model, quantization, dtype=to["dtype"])
    decoder.fill_llama(backbone.language_model, folder, **to)
    fill_eva(backbone.vision, paths["vision"], **to)
    modules = {"connector": backbone.connector}
    if unused:
        # BLIP-2's file, which would give ln_vision, is read by the original with a Q-Former only.
        backbone.vision.reset_norm(**to)
    else:
        modules["ln_vision"] = backbone.vision.ln_vision
    checkpoint.fill(
        nn.ModuleDict(modules),
        [paths[part] for part in ("qformer", "connector") if part in paths],
        keys=keys(backbone.connector),
        ignored=ignored(backbone.connector),
        **to,
    )
    compare_eva(
        paths["vision"], [paths[part] for part in ("qformer", "connector") if part in paths]
    )
    return backbone


def keys(connector: nn.Module) -> dict[str, str]:
    """Keys of BLIP-2's and MiniGPT-4's files -> ours."""
    if isinstance(connector, QFormer):
        return qformer_keys(connector.sizes, reads_text=False, projection="llama_proj")
    return dict(MiniGPT4.CONNECTOR_KEYS)


def ignored(connector: nn.Module) -> dict[str, str]:
    """Keys of BLIP-2's and MiniGPT-4's files that are left out -> why."""
    if isinstance(connector, QFormer):
        return IGNORED | _BLIP2_IGNORED | qformer_ignored(connector.sizes, reads_text=False)
    return IGNORED
