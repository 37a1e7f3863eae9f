"""Any `AutoModelForImageTextToText` of transformers: the class's own code, read once a pair.

The class makes embeddings, positions and masks of a prompt (`hadpo.vlm.reading`); the packed rows
are laid out here. Chat template and processor are the folder's. Prepared after spec/any_vlm.md,
where every step is measured for ten classes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import torch
import transformers
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import DynamicCache

from hadpo.images import read_size
from hadpo.records import BadInput
from hadpo.vlm import attention, checkpoint, decoder, hub
from hadpo.vlm.backbone import Backbone, ModelSizes, Variant
from hadpo.vlm.checkpoint import Files, Placement
from hadpo.vlm.decoder import FULL, SLIDING, KVState, Packed, Span, State
from hadpo.vlm.hub import SIZE, Chat
from hadpo.vlm.prompt import IMAGE, Prompts, PromptTemplate
from hadpo.vlm.reading import Reading, read, see
from hadpo.vlm.rows import Pictures, Rows, apart, packed

log = logging.getLogger(__name__)

_OWN = PromptTemplate("<image>{instruction}")  # stands for the folder's template till it is read
VARIANTS = {
    "auto": Variant(
        prompts=Prompts(train=_OWN, evaluate=_OWN),
        source="any folder or hub id of transformers",
        sizes=ModelSizes(others=600_000_000, image_tokens=1024),
    )
}
PARTS = {"language_model": "folder or hub id of an image-text-to-text model of transformers"}
OPTIONAL_PARTS = ()

_PROBE = Image.new("RGB", (64, 48), "grey")
_KEPT_ROWS = 4096  # prompts whose ids are remembered
_CLOSE = {4: 1e-4, 2: 3e-2}  # bytes of a number -> logits that are equal, as share of their spread


@dataclass(frozen=True)
class Copies:
    """What rows have read, of a decoder whose layers carry states: a cache of each, copied."""

    rows: tuple[tuple[Any, int], ...]  # cache, next position; beams side by side
    beams: int = 1

    def slots(self, beams: int = 1) -> Copies:
        """The same rows, to be gone on with in `beams` ways each."""
        return Copies(tuple(row for row in self.rows for _ in range(beams)), beams)

    def follow(self, parents: Int[Tensor, "rows beams"]) -> Copies:
        """Each beam goes on from what another one of its row has read."""
        flat = torch.arange(len(parents))[:, None] * self.beams + parents.cpu()
        return Copies(tuple(self.rows[k] for k in flat.flatten().tolist()), self.beams)

    def select(self, rows: Sequence[int]) -> Copies:
        """The given rows, in that order."""
        beams = range(self.beams)
        return Copies(
            tuple(self.rows[row * self.beams + k] for row in rows for k in beams), len(beams)
        )


class HubModel(Backbone):
    """A whole model of transformers, its processor, and what is to be known of its decoder."""

    PARTS: ClassVar = PARTS

    def __init__(self, name: str, model: Any, chat: Chat, folder: Path) -> None:
        super().__init__(name, VARIANTS["auto"], model, {})
        self.chat, self.tokenizer = chat, chat  # pyright: ignore[reportAttributeAccessIssue]
        self.files = {"language_model": folder}
        self.connector = self.vision = nn.Identity()  # the class's own code does their work
        self.set_template({})
        paths = {id(module): path for path, module in model.named_modules()}
        self.lora_scope = f"{paths[id(self.decoder)]}.layers."
        config = self.text_config
        types = getattr(config, "layer_types", None) or [
            SLIDING if getattr(config, "sliding_window", None) else FULL
        ]
        self.kinds = {k: config.sliding_window if k == SLIDING else 0 for k in {*types}}
        carried = sorted({*types} - {FULL, SLIDING})
        self.is_hybrid = bool(carried)
        if carried:
            self.row_kind = (
                f"two rows a pair: layers of kind {', '.join(carried)} carry a state from token "
                "to token"
            )
            self.kinds = {FULL: 0}
        self.logit_softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
        self.logit_scale = float(getattr(config, "logit_scale", None) or 1.0)
        self.logit_scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        has_softcap = bool(getattr(config, "attn_logit_softcapping", None))
        self._implement("eager" if has_softcap else "sdpa")
        self._row = lru_cache(maxsize=_KEPT_ROWS)(self._row_of)

    def probe(self) -> None:
        """Read one prompt, to learn what this model's prompts are like; compare its logits.

        Raises:
            BadInput: the class computes its logits in another way than this file does.
        """
        pixels = self.preprocess(_PROBE)
        features = self.features([pixels])
        reading = self._read_prompt("Is it grey?", pixels, features[0])
        cut = self._cut(self.prefix("Is it grey?", _PROBE, prompt="train"))
        self.axes = len(reading.positions)
        self.shares_image = not self.is_hybrid and not reading.sees_beyond(cut)
        row = self.whole_row("Is it grey?", pixels)
        expected = self.language_model(**row, use_cache=False).logits[0, -1].float()
        if hasattr(self.language_model.model, "rope_deltas"):
            self.language_model.model.rope_deltas = None
        last = self._run_rows(self._apart([reading]))[0, reading.embeds.shape[0] - 1]
        found, cap = self.logits(last).float(), self.logit_softcap
        limit = _CLOSE[min(4, self.dtype.itemsize)]
        error = (found - expected).abs().max() / expected.std()
        if cap and not error < limit:  # PaliGemma of transformers 5.17 forgets its config's cap
            error = (found - cap * (expected / cap).tanh()).abs().max() / expected.std()
            if error < limit:
                log.warning(
                    "%s of transformers %s leaves out the final_logit_softcapping of its config; "
                    "here it is applied, as by later versions",
                    *(type(self.language_model).__name__, transformers.__version__),
                )
        if not self.is_quantised and not error < limit:
            raise BadInput(
                f"{type(self.language_model).__name__}: its logits are not its output layer over "
                f"its decoder (they differ by {error:.1e} of their spread); this backbone cannot "
                "read it"
            )
        is_plain = self.kinds == {FULL: 0} and reading.is_causal and not self.is_hybrid
        self.has_kernel = is_plain and self.implementation == "sdpa"
        if self.has_kernel:
            self._implement(attention.NAME)

    def _implement(self, name: str) -> None:
        """Choose the decoder's attention; the tower keeps its own."""
        self.implementation = name
        self.decoder.config._attn_implementation = name  # pyright: ignore

    # What the model is.

    @property
    def num_image_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of a picture of 640 x 480; each size of picture has its own number."""
        return self.prefix("", Image.new("RGB", (640, 480), "grey"), prompt="train").count(IMAGE)

    @property
    def text_files(self) -> list[Path]:
        """The files that say how texts become ids."""
        return hub.text_files(self.files["language_model"])

    @property
    def facts(self) -> dict[str, str]:
        """Transformers' version, which the form of features depends on, and template arguments."""
        return {"transformers": transformers.__version__, "template": repr(self.chat.arguments)}

    def set_template(self, arguments: Mapping[str, Any]) -> None:
        """Render prompts with these arguments of the chat template (enable_thinking: false)."""
        self.chat.set_arguments(arguments)
        self.stop_ids = self.chat.stop_ids
        template = PromptTemplate(self.chat.text("{instruction}"))
        self.PROMPTS = Prompts(train=template, evaluate=template)

    def check_rows(self, attention: str, pairs_per_row: int) -> None:
        """Refuse parts where layers have windows, softcaps or prompts that see themselves."""
        name = type(self.language_model).__name__
        if attention == "segments" and not self.has_kernel:
            raise BadInput(
                f"attention: found segments, but {name} has windows, softcaps, states or prompts "
                "that see themselves in both directions; set dense"
            )
        if pairs_per_row > 1 and not self.shares_image:
            why = self.row_kind if self.is_hybrid else "its prompts see themselves both ways"
            raise BadInput(
                f"pairs_per_row: found {pairs_per_row}, but pairs of {name} cannot share a row "
                f"({why}); set pairs_per_row to 1"
            )

    # Images and prompts.

    def preprocess(self, image: Image.Image) -> dict[str, Tensor]:  # pyright: ignore
        """What the processor makes of an image, by the names it gives, and the image's size."""
        made = self.chat.process(self.chat.text(""), image)
        pixels = {key: value for key, value in made.items() if key not in hub.TEXT}
        return {**pixels, SIZE: torch.tensor([image.height, image.width])}

    def stack(self, images: Sequence[Any]) -> list[Any]:
        """Images of different sizes are no one tensor: a list."""
        return [*images]

    def features(self, pixels: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:  # pyright: ignore
        """What tower and connector make of each image, by its place in the class's output."""
        inner = self.language_model.model
        return [see(inner, self.whole_row("", image)) if image else {} for image in pixels]

    def image_tokens(self, pixels: Any, *_: Any, **__: Any) -> Any:
        """As `features`: the class puts them among the words itself."""
        return self.features(pixels)

    def connect(self, features: Any, instructions: Sequence[str]) -> Any:
        """Nothing: the connector is in `features`."""
        return features

    def prompt_ids(self, instruction: str, *, prompt: Literal["train", "evaluate"]) -> list[int]:
        """Ids about a small grey picture; `prefix` has those of a picture's own size."""
        return self.prefix(instruction, _PROBE, prompt=prompt)

    def expand(self, ids: Sequence[int]) -> list[int]:
        """The same: the processor has written every position."""
        return [*ids]

    def prefix(
        self,
        instruction: str,
        image: str | Path | Image.Image,
        *,
        prompt: Literal["train", "evaluate"],
    ) -> list[int]:
        """Ids of the prompt about an image of that size; its pixels are not read."""
        is_open = isinstance(image, Image.Image)
        width, height = image.size if is_open else read_size(image, exif=self.exif)
        ids = self._row(instruction, height, width)["input_ids"][0]
        return torch.where(ids == self.chat.image_id, IMAGE, ids).tolist()

    def text_ids(self, instruction: str, *, prompt: Literal["train", "evaluate"]) -> list[int]:
        """Ids of the prompt of a question without an image; BadInput if the model needs one."""
        return self._row(instruction, 0, 0)["input_ids"][0].tolist()

    def _row_of(self, instruction: str, height: int, width: int) -> dict[str, Tensor]:
        """The text's part of a processor's row; what it depends on of an image is its size."""
        image = Image.new("RGB", (width, height), "grey") if height else None
        text = self.chat.text(instruction, has_image=image is not None)
        made = self.chat.process(text, image)
        return {key: value for key, value in made.items() if key in hub.TEXT}

    def whole_row(self, instruction: str, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A processor's row of prompt and image, on the device; floats in the model's dtype."""
        height, width = pixels[SIZE].tolist() if pixels else (0, 0)
        row = {**self._row(instruction, height, width), **pixels}
        row.pop(SIZE, None)
        return {
            key: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for key, value in row.items()
        }

    def _read_prompt(
        self, instruction: str, pixels: Mapping[str, Tensor], features: Mapping[str, Tensor]
    ) -> Reading:
        row = self.whole_row(instruction, pixels)
        model = self.language_model
        return read(model.model, self.decoder, row, kinds=self.kinds, features=features)

    def _cut(self, ids: Sequence[int]) -> int:
        """Behind the last position of the image."""
        return len(ids) - [*ids][::-1].index(IMAGE)

    # Packed rows.

    @torch.no_grad()
    def inputs(self, layout: Packed, pixels: Any) -> Rows:
        """Prompts as the class reads them, answers behind them; hybrids get two rows a pair."""
        features = self.features(pixels)
        image_of = {span.pair: layout.image_of[span.row] for span in layout.spans}
        readings = [
            self._read_prompt(question, pixels[image_of[pair]], features[image_of[pair]])
            for pair, question in enumerate(layout.questions)
        ]
        if self.is_hybrid:
            answers = [
                (span.pair, layout.ids[span.row, span.start : span.end])
                for span in layout.spans
                if span.first < 0
            ]
            return self._apart(readings, answers)
        extras = {"parts": layout.parts} if self.attention == "segments" else {}
        return packed(layout, readings, self.embedding, self.kinds, extras)

    def _apart(
        self, readings: Sequence[Reading], answers: Sequence[tuple[int, Tensor]] = ()
    ) -> Rows:
        return apart(readings, answers, self.embedding, self.kinds, is_hybrid=self.is_hybrid)

    def states(self, layout: Packed, inputs: Rows) -> Float[Tensor, "tokens width"]:
        """One pass of the decoder: the only place that a gradient runs through."""
        return self._run_rows(inputs).flatten(0, 1)[inputs.sources]

    def _run_rows(self, rows: Rows) -> Tensor:
        return self._run(rows.embeds, rows.masks, rows.positions, **rows.extras)

    def _run(
        self, embeds: Tensor, masks: Mapping[str, Tensor], positions: Tensor, **extras: Any
    ) -> Tensor:
        if self.implementation == "eager":  # a mask that is added; True would count as 1
            least = torch.finfo(embeds.dtype).min
            zero = torch.zeros((), dtype=embeds.dtype, device=embeds.device)
            masks = {kind: torch.where(mask, zero, least) for kind, mask in masks.items()}
        cache = extras.pop("past_key_values", None)
        output = self.decoder(
            inputs_embeds=embeds,
            attention_mask=dict(masks) if len(masks) > 1 else next(iter(masks.values())),
            position_ids=positions[0] if len(positions) == 1 else positions,
            past_key_values=cache,
            use_cache=cache is not None,
            **extras,
        )
        return output.last_hidden_state

    # Answers: what was read before, and more of it.

    def reader(
        self,
        ids: Sequence[Sequence[int]],
        instructions: Sequence[str],
        pixels: Any,
        image_of: Sequence[int],
    ) -> Callable[[Sequence[int]], tuple[Float[Tensor, "rows vocab"], Any]]:
        """As `Backbone.reader`; prompts that see themselves both ways are read whole."""
        shares_image = self.shares_image and pixels is not None
        pixels = [{}] if pixels is None else pixels
        features = self.features(pixels)
        readings = [
            self._read_prompt(text, pixels[image], features[image])
            for text, image in zip(instructions, image_of, strict=True)
        ]
        cuts = [self._cut(row) if shares_image else 0 for row in ids]
        shared: KVState | None = None
        if shares_image:
            first = [list(image_of).index(image) for image in range(len(pixels))]
            pieces = [(readings[row], 0, cuts[row]) for row in first]
            shared = self._read_pieces(None, pieces)[1]

        @torch.no_grad()
        def go(some: Sequence[int]) -> tuple[Tensor, Any]:
            if self.is_hybrid:
                read = [self._read_alone(readings[row]) for row in some]
                logits, states = zip(*read, strict=True)
                return torch.cat(logits), Copies(states)
            state = None
            if shared is not None:
                rows = [image_of[row] for row in some]
                state = shared.branch(rows) if self.has_kernel else shared.select(rows)
            pieces = [(readings[row], cuts[row], len(ids[row])) for row in some]
            hidden, state = self._read_pieces(state, pieces)
            return self.logits(hidden).float(), state

        return go

    def read_alone(self, ids: Sequence[int], instruction: str, pixels: Any) -> tuple[Any, Any]:
        """As `reader` gives, of one row."""
        return self.reader([ids], [instruction], pixels, [0])([0])

    @torch.no_grad()
    def _read_pieces(
        self, state: KVState | None, pieces: Sequence[tuple[Reading, int, int]]
    ) -> tuple[Tensor, KVState]:
        """Read positions [start, end) of each reading behind what was read before."""
        counts = torch.tensor([end - start for _, start, end in pieces], device=self.device)
        length = int(counts.max())
        width = pieces[0][0].embeds.shape[1]
        embeds = pieces[0][0].embeds.new_zeros(len(pieces), length, width)
        positions = counts.new_zeros(self.axes, len(pieces), length)
        real = torch.arange(length, device=self.device) < counts[:, None]
        masks = {kind: decoder.causal_mask(real) for kind in self.kinds}
        pictures = Pictures(real)
        for row, (reading, start, end) in enumerate(pieces):
            at, part = slice(0, end - start), slice(start, end)
            embeds[row, at] = reading.embeds[part]
            positions[:, row, at] = reading.positions[:, part]
            for kind, mask in masks.items():
                mask[row, 0, at, at] = reading.masks[kind][part, part]
            pictures.add(reading, Span(row=row, start=0, end=end - start, pair=row), part)
        following = counts.new_tensor([reading.next_position for reading, _, _ in pieces])
        extras = pictures.extras()
        placed = {"masks": masks, "positions": positions, "next_positions": following}
        return self._grown(state, embeds, counts, extras, **placed)

    def _grow(self, state: State | None, embeds: Tensor, counts: Tensor) -> tuple[Tensor, Any]:
        return self._grown(state, embeds, counts, {})

    def _grown(
        self,
        state: State | None,
        embeds: Tensor,
        counts: Tensor,
        extras: Mapping[str, Any],
        **placed: Any,
    ) -> tuple[Tensor, Any]:
        shared = {} if state is None or state.prefix is None else {"prefix": state.prefix}

        def run(masks: Mapping[str, Tensor], positions: Tensor, cache: DynamicCache) -> Tensor:
            if positions.ndim == 2:
                positions = positions.expand(self.axes, -1, -1)
            return self._run(embeds, masks, positions, past_key_values=cache, **extras, **shared)

        return decoder.grow(run, state, counts, embeds.shape[1], kinds=self.kinds, **placed)

    @torch.no_grad()
    def _read_alone(self, reading: Reading) -> tuple[Tensor, tuple[Any, int]]:
        """A prompt in a cache of its own, whose kinds of layer the config says."""
        cache = DynamicCache(config=self.text_config)
        rows = self._apart([reading])
        extras = {**rows.extras, "past_key_values": cache}
        hidden = self._run(rows.embeds, rows.masks, rows.positions, **extras)
        return self.logits(hidden[:, -1]).float(), (cache, reading.next_position)

    @torch.no_grad()
    def extend(
        self, state: Any, ids: Sequence[Sequence[int]] | Int[Tensor, "rows length"]
    ) -> tuple[Float[Tensor, "read vocab"], Any]:
        """As `Backbone.extend`; states that layers carry are copied, row by row."""
        if not isinstance(state, Copies):
            return super().extend(state, ids)
        logits, grown = [], []
        if isinstance(ids, Tensor) and state.beams > 1:
            ids = ids.reshape(-1, 1)
        for (cache, position), row in zip(state.rows, ids, strict=True):
            own = copy.deepcopy(cache)
            table = torch.as_tensor(row, device=self.device)[None]
            steps = position + torch.arange(table.shape[1], device=self.device)
            positions = steps.expand(self.axes, 1, -1)
            seen = own.get_seq_length() + table.shape[1]
            masks = {FULL: torch.ones(1, seen, dtype=torch.long, device=self.device)}
            hidden = self._run(self.embedding(table), masks, positions, past_key_values=own)
            logits.append(self.logits(hidden[:, -1]).float())
            grown.append((own, position + table.shape[1]))
        return torch.cat(logits), Copies(tuple(grown), state.beams)

    # Answers as ids.

    def response_ids(self, text: str) -> list[int]:
        """Ids of an answer as it follows the prompt's own last words, and the end marker."""
        return [*self.chat.answer_ids(text), self.end_id]

    @property
    def end_id(self) -> int:
        """What the template closes an answer with."""
        return self.chat.end_id

    def ends(self, ids: Int[Tensor, "*rows length"]) -> Bool[Tensor, "*rows"]:
        """Whether the newest id is one of those that stop this model."""
        stops = torch.tensor(sorted(self.stop_ids), dtype=ids.dtype, device=ids.device)
        return torch.isin(ids[..., -1], stops)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids; what is not yet a whole character is held back."""
        return self.chat.decode(ids)

    # Weights on disk.

    def save_original(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write the whole model as `save_pretrained` does, and the folder's other files."""
        hub.save(self.language_model, folder, self.files["language_model"], dtype=dtype)


def from_original(
    files: Files, *, variant: str, quantization: str = "none", **to: Unpack[Placement]
) -> HubModel:
    """A model of transformers, from its folder or hub id.

    Raises:
        BadInput: a class, a folder or a processor that this kit cannot read; before the weights are
            read where that can be known.
    """
    name = f"hf/{variant}"
    folder = checkpoint.locate_parts(name, files, PARTS)["language_model"]
    config = hub.read_config(folder)
    chat = Chat(folder, config)
    model = hub.read_model(folder, config, quantization=quantization, **to)
    backbone = HubModel(name, model, chat, folder)
    backbone.eval()
    with torch.no_grad():
        backbone.probe()
    return backbone
