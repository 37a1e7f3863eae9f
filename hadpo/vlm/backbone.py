"""The seam between the method and a model: image -> encoder -> connector -> image tokens -> LLaMA.

The trainer, the adapter and generation know `Backbone` only. A family of models is one file of
`hadpo/backbones/`: a subclass, `VARIANTS`, `PARTS`, and `from_original`, which reads the authors'
files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from hadpo.cost import ModelSizes
from hadpo.images import read_image
from hadpo.records import BadInput, replacing
from hadpo.vlm import checkpoint, decoder, export
from hadpo.vlm.attention import Attention, Parts
from hadpo.vlm.decoder import KVState, Packed, State
from hadpo.vlm.prompt import IMAGE, LlamaTokenizer, Prompts

CONNECTOR_PART = (  # what a family's `PARTS` says of a connector that a recipe may do without
    "file of a finetuned connector, to take the place of the base's; not needed otherwise"
)
LLAMA_13B: dict[str, Any] = {"width": 5120, "inner": 13824, "layers": 40}  # defaults: LLaMA-7B's


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a family declares of each model that it can load; `VARIANTS` names them."""

    prompts: Prompts
    source: str  # where the published files are
    sizes: ModelSizes
    end: str = "</s>"  # what follows every answer
    unused_parts: tuple[str, ...] = ()  # of the family's `PARTS`, those that this model lacks


class Backbone(nn.Module, ABC):
    """A frozen vision-language model in evaluation mode; only an adapter adds trainable weights.

    A family gives `preprocess`, `features` and `connect`. All that comes after the image tokens is
    the same for all and stands here: prompts to ids, ids and image tokens to embeddings, embeddings
    to hidden states, in one pass or token by token with a `KVState`.
    `name` is family/variant; `config` is the authors' `config.json`, for `save_original`.
    """

    PARTS: ClassVar[Mapping[str, str]]  # named files that the family reads -> what each is
    # Keys in files of the part `language_model` -> ours. Default: plain LLaMA keys.
    KEYS: ClassVar[Mapping[str, str]] = {
        key: f"language_model.{name}" for key, name in decoder.LLAMA_KEYS.items()
    }
    HUB_KEYS: ClassVar[Mapping[str, str]] = {}  # of transformers' folder -> ours, if there is one
    # Other files to copy when saving.
    FOLDER_FILES: ClassVar[Sequence[str]] = ("*token*", "generation_config.json")
    # Authors' keys -> ours, of the weights that are trained if the connector is; and their file.
    CONNECTOR_KEYS: ClassVar[Mapping[str, str]] = {}
    CONNECTOR_FILE: ClassVar[str] = "connector.pth"
    image_tokens_depend_on_instruction: ClassVar[bool] = False
    row_kind: str = "packed"  # how the answers of a pair are read, for a plan
    lora_scope: str = ""  # where LoRA may lie, below `language_model`; "": anywhere
    logit_scale: float = 1.0  # of what the head gives
    logit_softcap: float = 0.0  # c of c tanh(logits / c); 0: none

    files: dict[str, Path]  # where the parts came from
    tokenizer: LlamaTokenizer
    vision: Any  # an nn.Module; each family has its own
    connector: nn.Module
    num_image_tokens: int
    attention: Attention = "dense"  # how the language model reads packed rows
    exif: str = "upright"  # how picture files are read; "as_stored": not turned as EXIF says
    kernels: str = "plain"  # of the language model; "fused": as `vlm.kernels` has them

    def __init__(
        self,
        name: str,
        declared: Variant,
        language_model: nn.Module,
        config: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.name = name
        self.declared = declared
        self.PROMPTS = declared.prompts
        self.language_model: Any = language_model  # a LLaMA, or a whole model of transformers
        self.original_config = dict(config)

    # What a family implements.

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

    # Images and rows, for a family whose pixels are one tensor and whose prompts are causal.

    def stack(self, images: Sequence[Any]) -> Any:
        """Pixels, or features, of several images as one value; iterating gives them back."""
        return torch.stack([*images])

    def read_pixels(self, paths: Sequence[str]) -> Any:
        """Pixels of picture files, on the CPU, as `stack` gives them; BadInput as `read_image`."""
        return self.stack([self.preprocess(read_image(path, exif=self.exif)) for path in paths])

    def prefix(
        self,
        instruction: str,
        image: str | Path | Image.Image,
        *,
        prompt: Literal["train", "evaluate"],
    ) -> list[int]:
        """Ids of the whole prompt about an image, with `IMAGE` at each of its positions."""
        return self.expand(self.prompt_ids(instruction, prompt=prompt))

    def check_rows(self, attention: str, pairs_per_row: int) -> None:
        """Refuse a layout of packed rows that this model cannot read.

        Raises:
            BadInput: names the setting.
        """
        if pairs_per_row > 1 and self.image_tokens_depend_on_instruction:
            raise BadInput(
                f"pairs_per_row: found {pairs_per_row}, but the image tokens of "
                f"{self.name} depend on the instruction, so pairs of one image have nothing to "
                "share; set pairs_per_row to 1"
            )

    def inputs(self, layout: Packed, pixels: Any) -> Any:
        """What the decoder reads of packed rows; `states` takes it, and nobody looks inside."""
        tokens = self.image_tokens(
            pixels, layout.instructions, image_of=layout.image_of, index=layout.image_index
        )
        return self.embed(layout.ids, tokens)

    def states(self, layout: Packed, inputs: Any) -> Float[Tensor, "tokens width"]:
        """The state that predicts each answer token of packed rows, in their order."""
        hidden = self.hidden_states(inputs, layout.mask, layout.positions, layout.parts)
        return hidden.flatten(0, 1)[layout.sources]

    def reader(
        self,
        ids: Sequence[Sequence[int]],
        instructions: Sequence[str],
        pixels: Any,
        image_of: Sequence[int],
    ) -> Callable[[Sequence[int]], tuple[Float[Tensor, "rows vocab"], KVState]]:
        """Prompts about images, to be read some rows at a time; what they share is read once.

        Args:
            ids: of `prefix`, one list per row.
            instructions: one per row.
            pixels: of distinct images, as `stack` gives them; None: these questions have none.
            image_of: which image each row shows; every image has a row.

        Returns:
            Rows -> float32 logits of each row's first new token, and what was read.
        """
        # Everything up to the last image token is the same for all questions about an image.
        starts = [
            len(row) - row[::-1].index(IMAGE) if IMAGE in row else len(row) - 1 for row in ids
        ]
        shared: KVState | None = None
        if pixels is not None and not self.image_tokens_depend_on_instruction:
            first = [list(image_of).index(index) for index in range(len(pixels))]
            shared = self.prefill(
                [ids[row][: starts[row]] for row in first], self.image_tokens(pixels)
            )

        def read(some: Sequence[int]) -> tuple[Tensor, KVState]:
            if shared is not None:
                state = shared.branch([image_of[row] for row in some])
            else:
                tokens = None
                if pixels is not None:
                    texts = [instructions[row] for row in some]
                    shown = [image_of[row] for row in some]
                    tokens = self.image_tokens(pixels, texts, image_of=shown)
                own = self.prefill([ids[row][: starts[row]] for row in some], tokens)
                state = own.branch(range(len(some)))  # beams share it
            return self.extend(state, [ids[row][starts[row] :] for row in some])

        return read

    def read_alone(
        self, ids: Sequence[int], instruction: str, pixels: Any
    ) -> tuple[Float[Tensor, "rows vocab"], KVState]:
        """Read one conversation; as `reader` gives, of one row with all its images."""
        asked = [instruction] if self.image_tokens_depend_on_instruction else []
        tokens = self.image_tokens(pixels, asked)
        state = self.prefill([ids[:-1]], tokens.reshape(1, -1, tokens.shape[-1]))
        return self.extend(state, [ids[-1:]])

    # What the model is.

    @property
    def decoder(self) -> Any:
        """The layers that read embeddings, and the norm behind them."""
        return self.language_model.get_decoder()

    @property
    def decoder_layers(self) -> Any:
        """The decoder's layers, in order."""
        return self.decoder.layers

    @property
    def max_positions(self) -> int:
        """Positions that a row may have."""
        return self.text_config.max_position_embeddings

    @property
    def text_config(self) -> Any:
        """Transformers' config of the language model."""
        return self.language_model.config.get_text_config()

    def set_template(self, arguments: Mapping[str, Any]) -> None:
        """Render prompts with arguments of the model's own chat template.

        Raises:
            BadInput: the family has prompts of its authors, and no such template.
        """
        raise BadInput(
            f"model.template: found {dict(arguments)}, but {self.name} has its authors' prompts"
        )

    @property
    def facts(self) -> dict[str, str]:
        """What kept numbers depend on beside weights, texts and pixels."""
        return {}

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
        """Of the frozen weights."""
        return self.embedding.weight.dtype

    @property
    def sizes(self) -> ModelSizes:
        """Sizes of the model as it is loaded, for estimates of memory and time."""
        text, head = self.text_config, self.language_model.get_output_embeddings()
        heads = text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // heads
        inside = {id(p) for module in (self.decoder, head) for p in module.parameters()}
        return ModelSizes(
            width=text.hidden_size,
            inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            layers=text.num_hidden_layers,
            query_width=heads * size,
            key_width=(getattr(text, "num_key_value_heads", None) or heads) * size,
            vocab=len(self.lm_head_weight),
            is_tied=head.weight is self.embedding.weight,
            others=sum(p.numel() for p in self.parameters() if id(p) not in inside),
            image_tokens=self.num_image_tokens,
        )

    @property
    def is_quantised(self) -> bool:
        """Whether the language model's linear layers hold 4 or 8 bits a weight."""
        return checkpoint.is_quantised(self.language_model)

    @property
    def embedding(self) -> Any:
        """The layer of token embeddings; Gemma's multiplies by more than its weight."""
        return self.language_model.get_input_embeddings()

    @property
    def lm_head_weight(self) -> Float[Tensor, "vocab width"]:
        """The rows of the output layer that take part in the softmax, a LoRA on it included.

        A gradient flows into that LoRA, so the head is one matrix for whoever scores tokens.
        """
        head: Any = self.language_model.get_output_embeddings()
        weight = head.weight  # of the frozen layer, even if an adapter lies over it
        if not getattr(head, "disable_adapters", True):
            for name in head.lora_A:
                weight = weight + head.get_delta_weight(name).to(weight.dtype)
        return weight

    @property
    def text_files(self) -> list[Path]:
        """The files that say how texts become ids."""
        return [self.tokenizer.path]

    # From an image and an instruction to ids and embeddings.

    def image_tokens(
        self,
        pixels: Float[Tensor, "images 3 side side"],
        instructions: Sequence[str] = (),
        *,
        image_of: Sequence[int] | None = None,
        index: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, "rows tokens width"]:
        """Image tokens of each row; an image that many rows share is encoded once.

        The vision encoder is never trained; a gradient reaches the connector if that is.

        Args:
            pixels: distinct images.
            instructions: one per row, for a family whose image tokens depend on them.
            image_of: which image each row shows; None: one row per image.
            index: the same as a tensor of the device, if it is there already.
        """
        with torch.no_grad():
            features = self.features(pixels.to(device=self.device, dtype=self.dtype))
        own = self.image_tokens_depend_on_instruction
        if image_of is None or [*image_of] == [*range(len(pixels))]:  # no index to be moved
            return self.connect(features, instructions if own else ())
        if index is None:
            index = torch.tensor([*image_of], device=self.device)
        if own:
            return self.connect(features[index], instructions)
        return self.connect(features, ())[index]

    def prompt_ids(self, instruction: str, *, prompt: Literal["train", "evaluate"]) -> list[int]:
        """Ids of the whole prompt, with one `IMAGE` where the image tokens go."""
        return getattr(self.PROMPTS, prompt).tokenize(instruction, self.tokenizer)

    def text_ids(self, instruction: str, *, prompt: Literal["train", "evaluate"]) -> list[int]:
        """Ids of the prompt of a question without an image.

        Raises:
            BadInput: the family answers questions about images only.
        """
        part = self.PROMPTS.image_part
        if not part:
            raise BadInput(f"{self.name} answers questions about images only: {instruction!r}")
        template = getattr(self.PROMPTS, prompt)
        text = template.text.replace(part, "")
        return replace(template, text=text).tokenize(instruction, self.tokenizer)

    def expand(self, ids: Sequence[int]) -> list[int]:
        """The same ids with `IMAGE` once per image token: one id per position.

        Raises:
            BadInput: `IMAGE` is not there exactly once.
        """
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

    # Answers as ids, and where they end.

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

    # The language model: all positions at once, or more and more of them.

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
        """In train mode, keep only each layer's input and compute the rest again in backward.

        Raises:
            BadInput: the decoder cannot.
        """
        verb, arguments = ("enable", ({"use_reentrant": False},)) if is_on else ("disable", ())
        if is_on and not getattr(self.decoder, "supports_gradient_checkpointing", False):
            raise BadInput(
                f"activation_checkpointing: found true, but {type(self.decoder).__name__} does "
                "not offer it; set it to false"
            )
        for word in ("activation", "gradient"):  # transformers 5.2x renamed the methods
            method = getattr(self.decoder, f"{word}_checkpointing_{verb}", None)
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
        self, state: State, ids: Sequence[Sequence[int]] | Int[Tensor, "rows length"]
    ) -> tuple[Float[Tensor, "read vocab"], Any]:
        """Read more tokens of each row, at least one; rows may get different numbers of them.

        With `Slots` (beam search, see decoder.py): one token per beam.

        Returns:
            float32 logits of each row's next token (with `Slots`, of each beam's, row by row), and
            the grown state: a given `KVState` stays valid, `Slots` grow in place.
        """
        hidden, grown = self._read(state, ids, None)
        return self.logits(hidden).float(), grown

    def logits(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocab"]:
        """What the head makes of states."""
        logits = hidden @ self.lm_head_weight.T
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        cap = self.logit_softcap
        return cap * (logits / cap).tanh() if cap else logits

    def _read(
        self,
        state: State | None,
        ids: Sequence[Sequence[int]] | Tensor,
        image_tokens: Tensor | None,
    ) -> tuple[Tensor, Any]:
        if isinstance(ids, Tensor):
            table = ids.to(self.device)
            counts = torch.full((len(ids),), ids.shape[1], device=self.device)
        else:
            table = right_padded(ids).to(self.device)
            counts = torch.tensor([len(row) for row in ids], device=self.device)
        return self._grow(state, self.embed(table, image_tokens), counts)

    def _grow(self, state: State | None, embeds: Tensor, counts: Tensor) -> tuple[Tensor, Any]:
        """Read `counts` of the embeddings of each row; the state of its last one."""
        return decoder.grow_cache(self.language_model, state, embeds, counts)

    # Weights on disk.

    def save_original(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write the part `language_model` in the authors' layout, which `from_original` reads.

        Rows of the vocabulary that were added to the config's are left out.
        """
        weights = checkpoint.by_original_key(self.state_dict(), self.KEYS)
        rows = self.language_model.config.vocab_size
        for key, value in weights.items():
            if key.endswith(("embed_tokens.weight", "lm_head.weight")):
                weights[key] = value[:rows]
        source = self.tokenizer.path.parent
        beside = [path for pattern in self.FOLDER_FILES for path in source.glob(pattern)]
        export.write_folder(
            folder, weights, config=self.original_config, beside=beside, dtype=dtype
        )

    def files_with(self, language_model: Path) -> dict[str, Path]:
        """Files to load a saved language model with: the other parts stay where they are."""
        return {**self.files, "language_model": language_model}

    def save_transformers(self, folder: Path, *, dtype: torch.dtype) -> bool:
        """Write the whole model in transformers' layout too; False if a family has none."""
        return False

    def connector_parameters(self) -> dict[str, nn.Parameter]:
        """What a projection finetune trains, by the authors' keys; empty if a family has none."""
        return checkpoint.by_original_key(dict(self.named_parameters()), self.CONNECTOR_KEYS)

    def save_connector(self, folder: Path) -> Path:
        """Write these as the authors' trainers do, in the dtype that they have; the file's path."""
        weights = {k: p.detach().cpu().clone() for k, p in self.connector_parameters().items()}
        path = folder / self.CONNECTOR_FILE
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            torch.save({"model": weights} if path.suffix == ".pth" else weights, part)
        return path

    def load_connector(self, place: Path) -> None:
        """Put the connector of a file, or of the only file of a folder, in the place of the base's.

        Raises:
            BadInput: lists keys that are missing, unexpected, or of another shape.
        """
        path = checkpoint.find_weights(place, what="connector")
        self.files["connector"] = path
        weights = dict(checkpoint.read_tensors(path))
        into = {key: parameter.data for key, parameter in self.connector_parameters().items()}
        checkpoint.copy_weights(weights, into, where=str(path), model=self.name)


def right_padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows length"]:
    """Rows of ids as one table, filled up with 0 on the right."""
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
