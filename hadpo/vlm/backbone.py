"""A vision-language model: encoder -> connector -> image tokens -> LLaMA fed by embeddings."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from hadpo.cost import ModelSizes
from hadpo.records import BadInput, replacing
from hadpo.vlm import checkpoint, decoder, precision
from hadpo.vlm.attention import Attention, Parts
from hadpo.vlm.checkpoint import locate
from hadpo.vlm.decoder import KVState
from hadpo.vlm.prompt import IMAGE, LlamaTokenizer, Prompts

LLAMA_13B = {"width": 5120, "inner": 13824, "layers": 40}  # the defaults are LLaMA-7B's


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a family declares of each model that it can load; `VARIANTS` names them."""

    prompts: Prompts
    source: str  # where the published files are
    sizes: ModelSizes
    end: str = "</s>"  # what follows every answer
    unused_parts: tuple[str, ...] = ()  # of the family's `PARTS`, those that this model lacks


class Backbone(nn.Module, ABC):
    """What every family shares: all that comes after the image tokens.

    A family gives `preprocess`, `features`, `connect` and `save_original`, and reads its authors'
    files. Everything is frozen and in evaluation mode; only an adapter adds trainable weights.
    """

    PARTS: ClassVar[Mapping[str, str]]  # named files that the family reads -> what each is
    image_tokens_depend_on_instruction: ClassVar[bool] = False
    EXTRA_ADAPTER_KEYS: ClassVar[
        Mapping[str, str]
    ] = {}  # weights beside the LoRA of published files
    # Authors' keys -> ours, of the weights that are trained where the connector is.
    CONNECTOR_KEYS: ClassVar[Mapping[str, str]] = {}
    CONNECTOR_FILE: ClassVar[str] = "connector.pth"

    name: str  # family/variant
    PROMPTS: Prompts
    files: dict[str, Path]  # where the parts came from
    tokenizer: LlamaTokenizer
    language_model: LlamaForCausalLM
    vision: Any  # an nn.Module; each family has its own
    connector: nn.Module
    num_image_tokens: int
    attention: Attention = "dense"  # how the language model reads packed rows

    @property
    def variant(self) -> str:
        """The part of the name after the family."""
        return self.name.partition("/")[2]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In which numbers the frozen weights are."""
        return self.embedding.weight.dtype

    @property
    def sizes(self) -> ModelSizes:
        """Sizes of the model as it is loaded, for estimates."""
        llama = self.language_model.config
        return ModelSizes(
            width=llama.hidden_size,
            inner=llama.intermediate_size,
            layers=llama.num_hidden_layers,
            vocab=len(self.lm_head_weight),
            others=sum(
                p.numel() for part in (self.vision, self.connector) for p in part.parameters()
            ),
            image_tokens=self.num_image_tokens,
        )

    @property
    def is_quantised(self) -> bool:
        """Whether the language model's linear layers hold 4 or 8 bits a weight."""
        return checkpoint.is_quantised(self.language_model)

    @property
    def embedding(self) -> nn.Embedding:
        """The table of token embeddings."""
        return self.language_model.model.embed_tokens

    @property
    def lm_head_weight(self) -> Float[Tensor, "vocab width"]:
        """The rows of the output layer that take part in the softmax."""
        return self._head_weight

    @property
    def _head_weight(self) -> Float[Tensor, "rows width"]:
        """The output layer and its adapter as one weight, with a gradient where one is attached."""
        head: Any = self.language_model.lm_head
        weight = head.weight  # of the frozen layer, also where an adapter lies over it
        if not getattr(head, "disable_adapters", True):
            for name in head.lora_A:
                weight = weight + head.get_delta_weight(name).to(weight.dtype)
        return weight

    @property
    def text_files(self) -> list[Path]:
        """The files that say how texts become ids."""
        return [self.tokenizer.path]

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 side side"]:
        """Pixels as the vision encoder wants them, on the CPU in float32; any mode of image."""

    @abstractmethod
    def features(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images patches features"]:
        """What the vision encoder sees in each image."""

    @abstractmethod
    def connect(
        self, features: Float[Tensor, "images patches features"], instructions: Sequence[str]
    ) -> Float[Tensor, "images tokens width"]:
        """Features to image tokens; instructions (one per image) matter to some families only."""

    @abstractmethod
    def save_original(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write the part `language_model` in the authors' layout, which `from_original` reads."""

    def save_transformers(self, folder: Path, *, dtype: torch.dtype) -> bool:
        """Write the whole model in transformers' layout too; False where a family has none."""
        return False

    def files_with(self, language_model: Path) -> dict[str, Path]:
        """Files to load a saved language model with: the other parts stay where they are."""
        return {**self.files, "language_model": language_model}

    def image_tokens(
        self,
        pixels: Float[Tensor, "images 3 side side"],
        instructions: Sequence[str] = (),
        *,
        image_of: Sequence[int] | None = None,
    ) -> Float[Tensor, "rows tokens width"]:
        """Image tokens of each row; an image that many rows share is encoded once.

        The vision encoder is never trained; a gradient reaches the connector where it is.

        Args:
            pixels: distinct images.
            instructions: one per row, for a family whose image tokens depend on them.
            image_of: which image each row shows; None: one row per image.
        """
        with torch.no_grad():
            features = self.features(pixels.to(device=self.device, dtype=self.dtype))
        rows = range(len(pixels)) if image_of is None else image_of
        index = torch.tensor(list(rows), device=self.device)
        if self.image_tokens_depend_on_instruction:
            return self.connect(features[index], instructions)
        return self.connect(features, ())[index]

    def prompt_ids(self, instruction: str, *, prompt: Literal["train", "evaluate"]) -> list[int]:
        """Ids of the whole prompt, with one `IMAGE` where the image tokens go."""
        return getattr(self.PROMPTS, prompt).tokenize(instruction, self.tokenizer)

    def response_ids(self, text: str) -> list[int]:
        """Ids of an answer as it follows a prompt, and the end marker."""
        return [*self.tokenizer.encode(text), self.end_id]

    @property
    def end_id(self) -> int:
        """Id of the end marker: the last of every response, and where generation stops."""
        return self.tokenizer.eos

    @property
    def end_ids(self) -> list[int]:
        """The end marker as it stands behind a response; of some families it is a text."""
        return [self.end_id]

    def ends(self, ids: Int[Tensor, "*rows length"]) -> Bool[Tensor, "*rows"]:
        """Whether generated ids, the newest last, end with the end marker."""
        return ids[..., -1] == self.end_id

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without control tokens."""
        return self.tokenizer.decode(ids)

    @property
    def is_text_final(self) -> bool:
        """Whether text that is decoded from the first ids stays as it is when more ids follow."""
        return True

    def expand(self, ids: Sequence[int]) -> list[int]:
        """The same ids with `IMAGE` once per image token: one id per position."""
        if list(ids).count(IMAGE) != 1:
            raise BadInput(f"a prompt needs exactly one image, found {list(ids).count(IMAGE)}")
        at = list(ids).index(IMAGE)
        return [*ids[:at], *[IMAGE] * self.num_image_tokens, *ids[at + 1 :]]

    def embed(
        self,
        ids: Int[Tensor, "rows length"],
        image_tokens: Float[Tensor, "rows tokens width"] | None = None,
    ) -> Float[Tensor, "rows length width"]:
        """Embeddings of expanded ids; positions that hold `IMAGE` get the row's image tokens."""
        embeds = self.embedding(ids.clamp(min=0))
        if image_tokens is None:
            return embeds
        return embeds.masked_scatter((ids == IMAGE)[..., None], image_tokens.to(embeds.dtype))

    def hidden_states(
        self,
        embeds: Float[Tensor, "rows length width"],
        mask: Bool[Tensor, "rows 1 length length"],
        positions: Int[Tensor, "rows length"],
        parts: Sequence[Parts] | None = None,
    ) -> Float[Tensor, "rows length width"]:
        """States after the final norm; row t of the mask is True where position t may look.

        `parts` say the same of each row; they are what `attention: segments` goes by.
        """
        if self.attention == "dense":
            parts = None
        return decoder.llama_forward(self.language_model, embeds, mask, positions, parts=parts)

    def recompute_activations(self, is_on: bool) -> None:
        """In train mode, keep only each layer's input and compute the rest again in backward."""
        verb, arguments = ("enable", ({"use_reentrant": False},)) if is_on else ("disable", ())
        for word in ("activation", "gradient"):  # transformers 5.2x renamed the methods
            method = getattr(self.language_model, f"{word}_checkpointing_{verb}", None)
            if method is not None:
                method(*arguments)
                return

    @torch.no_grad()
    def prefill(
        self,
        ids: Sequence[Sequence[int]],
        image_tokens: Float[Tensor, "rows tokens width"] | None = None,
    ) -> KVState:
        """Read the start of each row (expanded ids), for `extend` to go on from."""
        return self._read(None, ids, image_tokens)[1]

    @torch.no_grad()
    def extend(
        self, state: KVState, ids: Sequence[Sequence[int]] | Int[Tensor, "rows length"]
    ) -> tuple[Float[Tensor, "rows vocab"], KVState]:
        """Read more tokens of each row, at least one; lengths may differ.

        Returns:
            float32 logits of each row's next token, and the grown state; the old one stays valid.
        """
        hidden, grown = self._read(state, ids, None)
        return (hidden @ self.lm_head_weight.T).float(), grown

    def _read(
        self,
        state: KVState | None,
        ids: Sequence[Sequence[int]] | Tensor,
        image_tokens: Tensor | None,
    ) -> tuple[Tensor, KVState]:
        if isinstance(ids, Tensor):
            table = ids.to(self.device)
            counts = torch.full((len(ids),), ids.shape[1], device=self.device)
        else:
            table = right_padded(ids).to(self.device)
            counts = torch.tensor([len(row) for row in ids], device=self.device)
        return decoder.grow_cache(
            self.language_model, state, self.embed(table, image_tokens), counts
        )


def right_padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows length"]:
    """Rows of ids as one table, filled up with 0 on the right."""
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])


def choose_device(device: str) -> torch.device:
    """The device of a setting; BadInput where this machine has none of that kind."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(
            f"device: found {device!r}, but torch sees no CUDA device here; use auto or cpu"
        )
    if device == "cuda":  # of several processes on one machine, each has its own
        return torch.device(device, int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device, quantization: str = "none") -> torch.dtype:
    """The numbers of the settings on a device; BadInput where it cannot do them."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return getattr(torch, precision.choose_precision(dtype, quantization, capability).dtype)


# A connector on its own: what a projection finetune trains, read and written as the authors do.

CONNECTOR_PART = (
    "file of a finetuned connector, to take the place of the base's; not needed otherwise"
)


def connector_parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The connector's trainable weights by the authors' keys; empty where a family has none."""
    found = {}
    for name, parameter in backbone.named_parameters():
        for key, target in backbone.CONNECTOR_KEYS.items():
            if original := checkpoint.translate_back(name, key, target):
                found[original] = parameter
    return found


def save_connector(backbone: Backbone, folder: Path) -> Path:
    """Write the connector as the authors' trainers do, in its own numbers; the file's path."""
    weights = {key: p.detach().cpu().clone() for key, p in connector_parameters(backbone).items()}
    path = folder / backbone.CONNECTOR_FILE
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        torch.save({"model": weights} if path.suffix == ".pth" else weights, part)
    return path


def replace_connector(backbone: Backbone, files: Mapping[str, str | Path]) -> None:
    """Put the connector of the part `connector` in the place of the base's, if it was given.

    Raises:
        BadInput: lists keys that are missing, unexpected, or of another shape.
    """
    if "connector" not in files:
        return
    path = checkpoint.find_weights(locate(files["connector"], what="connector"), what="connector")
    backbone.files["connector"] = path
    mine = connector_parameters(backbone)
    found = dict(checkpoint.read_tensors(path))
    problems = [f"missing {key!r}" for key in mine if key not in found]
    problems += [f"unexpected {key!r}" for key in found if key not in mine]
    problems += [
        f"{key!r} has shape {list(value.shape)}, the model needs {list(mine[key].shape)}"
        for key, value in found.items()
        if key in mine and value.shape != mine[key].shape
    ]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems[:8])
        raise BadInput(f"{path}: {len(problems)} keys do not fit {backbone.name}:{lines}")
    for key, value in found.items():
        mine[key].data.copy_(value)
