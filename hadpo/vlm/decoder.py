"""The language model of all families, a LLaMA: built, filled, run, and what it remembers of tokens.

`KVState` holds the keys and values of the tokens that were read, row by row; `grow_cache` reads
more. It never changes, so that prompts can share what they have in common; `Slots`, which answers
grow in, do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer

from hadpo.records import BadInput
from hadpo.vlm import attention, checkpoint, fields
from hadpo.vlm.attention import Parts, Prefix
from hadpo.vlm.prompt import LlamaTokenizer

# What `config.json` must say, and what LLaMA-1 files leave to LLaMA's own defaults.
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps")
_OPTIONAL = {
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
    "head_dim": None,
}
HUB_TEXT_DEFAULTS = {  # transformers leaves out of `text_config` what LLaMA-7B has
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "vocab_size": 32000,
}
LLAMA_KEYS = {"model.{}": "model.{}", "lm_head.weight": "lm_head.weight"}
HUB_KEYS = {  # transformers' folder of a whole model, as published and as transformers 5 saves it
    "language_model.model.{}": "language_model.model.{}",
    "language_model.lm_head.weight": "language_model.lm_head.weight",
    "model.language_model.{}": "language_model.model.{}",
    "lm_head.weight": "language_model.lm_head.weight",
}
_UNFIT = (  # what transformers raises of sizes that are right one by one, but not together
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError),
    StrictDataclassError,
)
# Checkpoints of 2023 store the rotary tables; rounded to fp16 they would move the logits.
STORED_TABLES = {
    "model.layers.{}.rotary_emb.inv_freq": "rotary tables are computed in float32",
    "model.rotary_emb.inv_freq": "rotary tables are computed in float32",
    "{}position_ids": "positions are counted, not stored",
}
_ALIGNMENT = 16  # bytes, of a tensor in a buffer of several
FULL, SLIDING = "full_attention", "sliding_attention"  # kinds of layers, as transformers has them
PUBLISHED_WIDTHS = {4096: "7b", 5120: "13b"}
_LEAST_NORM = 0.05  # mean of the last norm's weights: around 1 in a LLaMA, nearly 0 in a difference


def build_llama(config: Mapping[str, Any], *, where: str) -> LlamaForCausalLM:
    """An empty LLaMA on the meta device; only its rotary tables are real, in float32.

    Raises:
        BadInput: a size is missing.
    """
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise BadInput(f"{where}: no {', '.join(missing)}; a LLaMA config.json has them")
    values = {key: config[key] for key in _REQUIRED}
    values |= {key: config.get(key, default) for key, default in _OPTIONAL.items()}
    if isinstance(config.get("rope_parameters"), Mapping):
        values["rope_parameters"] = dict(config["rope_parameters"])
    else:
        values["rope_theta"] = config.get("rope_theta") or 10000.0
        values["rope_scaling"] = config.get("rope_scaling")
    try:
        llama = LlamaConfig(tie_word_embeddings=False, use_cache=False, **values)
        llama._attn_implementation = attention.NAME
        heads = llama.num_attention_heads / (llama.num_key_value_heads or 1)
        if heads % 1:
            raise ValueError("num_attention_heads is no multiple of num_key_value_heads")
        with init_empty_weights(include_buffers=False):
            return LlamaForCausalLM(llama)
    except _UNFIT as error:
        reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise BadInput(f"{where}: no LLaMA can be built of its sizes and rope: {reason}") from error


def text_config(model: LlamaForCausalLM, *, vocab: int) -> dict[str, Any]:
    """What a model is, as the `text_config` of transformers' folders says it."""
    own = model.config.to_dict()
    rope = {"rope_theta": own["rope_parameters"]["rope_theta"]}  # as transformers 4 reads it
    if own["rope_parameters"]["rope_type"] != "default":
        rope["rope_scaling"] = own["rope_parameters"]
    known = {key: own[key] for key in fields.table("llama") if own.get(key) is not None}
    known = {k: v for k, v in known.items() if k not in fields.table("shared")}
    return {**known, **rope, "vocab_size": vocab}


@dataclass(frozen=True, kw_only=True)
class LlamaFolder:
    """A folder as Meta's and Vicuna's weights are passed around; `model` is still empty."""

    path: Path
    config: dict[str, Any]
    tokenizer: LlamaTokenizer
    model: LlamaForCausalLM

    @staticmethod
    def open(path: Path, config: Mapping[str, Any] | None = None) -> LlamaFolder:
        """Read config (or take the one of a folder that holds more than a LLaMA) and tokenizer.

        Raises:
            BadInput: a file is missing or broken, or they are of different models.
        """
        where = path / "config.json"
        if config is None:
            config = checkpoint.read_json(where)
            fields.check(config, "llama", where=where)
        tokenizer = LlamaTokenizer(path)
        model = build_llama(config, where=str(where))
        tokenizer.check_rows(model.config.vocab_size, where=str(where))
        return LlamaFolder(path=path, config=dict(config), tokenizer=tokenizer, model=model)


def check_width(model: LlamaForCausalLM, wanted: int, *, folder: Path, name: str) -> None:
    """Refuse the published size of another variant; sizes that were never published pass.

    Raises:
        BadInput: for example a 13B folder for a 7B variant.
    """
    width = model.config.hidden_size
    if width != wanted and width in PUBLISHED_WIDTHS:
        raise BadInput(
            f"{folder / 'config.json'}: hidden_size {width}, a {PUBLISHED_WIDTHS[width].upper()} "
            f"model; {name} is made for {wanted}: choose the other variant, or the folder of this "
            "one"
        )


def fill_llama(model: LlamaForCausalLM, folder: Path, **to: Unpack[checkpoint.Placement]) -> None:
    """Read the weights of a LLaMA folder, shard by shard.

    Raises:
        BadInput: keys do not fit, or these are differences of weights (Vicuna's "delta").
    """
    sources = checkpoint.weight_files(folder, what="language_model")
    checkpoint.fill(model, sources, keys=LLAMA_KEYS, ignored=STORED_TABLES, **to)
    norm = float(model.model.norm.weight.abs().float().mean())
    if norm < _LEAST_NORM:
        raise BadInput(
            f"{folder}: these look like delta weights (the last norm's are {norm:.3f} on average); "
            "add them to LLaMA's first, with FastChat's apply_delta, and name the merged folder"
        )


def llama_forward(
    model: LlamaForCausalLM,
    embeds: Float[Tensor, "rows length width"],
    mask: Bool[Tensor, "rows 1 length seen"],
    positions: Int[Tensor, "rows length"],
    cache: Any = None,
    *,
    prefix: Prefix | None = None,
    parts: Sequence[Parts] | None = None,
) -> Float[Tensor, "rows length width"]:
    """Hidden states after the final norm.

    The mask is passed to attention as it is; with `parts`, which say the same, it is not looked at.
    """
    shared = {"prefix": prefix, "parts": parts}
    output = model.model(
        inputs_embeds=embeds,
        attention_mask=mask,  # type: ignore[arg-type]
        position_ids=positions,  # type: ignore[arg-type]
        past_key_values=cache,
        use_cache=cache is not None,
        **{name: value for name, value in shared.items() if value is not None},
    )
    return output.last_hidden_state


@dataclass(frozen=True, kw_only=True)
class Span:
    """Positions [start, end) of a packed row that hold one text."""

    row: int
    start: int
    end: int
    pair: int  # whose prompt or answer it is, counted over all rows
    first: int = -1  # of a prompt's part: the place of its first position in the prompt


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of prefix and answers. `tokens` counts the answer tokens of all rows, in order."""

    ids: Int[Tensor, "rows length"]  # IMAGE at the image tokens, 0 behind the end
    positions: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows 1 length length"]  # True: row t may look there
    parts: tuple[Parts, ...]  # of each row, the same as the mask: who sees what, part by part
    spans: tuple[Span, ...]  # the texts of all rows, in the order in which they stand there
    sources: Int[Tensor, " tokens"]  # row * length + position of the state that predicts the token
    targets: Int[Tensor, " tokens"]
    slots: Int[Tensor, " tokens"]  # (side * pairs + pair) * longest + place in answer
    lengths: Int[Tensor, "sides pairs"]  # tokens of each answer
    longest: int  # tokens of the longest answer
    num_tokens: int  # real positions of all rows
    instructions: tuple[str, ...]  # one per row
    questions: tuple[str, ...]  # one per pair
    images: tuple[str, ...]  # distinct image files
    image_of: tuple[int, ...]  # row -> its image
    image_index: Int[Tensor, " rows"]  # the same, to be on the device with the rest

    def to(self, device: torch.device) -> Packed:
        """The same rows on another device."""
        return replace(self, **on_device(vars(self), device))

    @property
    def padding(self) -> float:
        """Share of positions that hold nothing."""
        return 1 - self.num_tokens / self.ids.numel()


def on_device(values: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Those of the values that are tensors, on another device: views of one buffer, one copy."""
    given = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    tensors = {name: tensor for name, tensor in given.items() if tensor.device != device}
    if not tensors:
        return given
    starts, size = {}, 0
    for name, tensor in tensors.items():
        starts[name] = size
        size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def part(whole: Tensor, name: str) -> Tensor:
        own = whole[starts[name] : starts[name] + tensors[name].nbytes]
        return own.view(tensors[name].dtype).view(tensors[name].shape)

    for name, tensor in tensors.items():
        part(buffer, name).copy_(tensor)
    moved = buffer.to(device, non_blocking=True)
    return given | {name: part(moved, name) for name in tensors}


@dataclass(frozen=True)
class KVState:
    """Rows of remembered tokens. `grow_cache` gives back a grown copy; a state never changes.

    Padding may lie between two texts of a row: `real` says which slots hold a token, `lengths` how
    many tokens a row has, which is the position of its next one. Rows that `branch` made share what
    was read before: it lies in `prefix`, once, and the other fields hold what came since.
    """

    keys: tuple[Float[Tensor, "rows heads slots size"], ...]  # one per layer
    values: tuple[Float[Tensor, "rows heads slots size"], ...]
    real: Bool[Tensor, "rows slots"]
    lengths: Int[Tensor, " rows"]
    prefix: Prefix | None = None
    shift: Int[Tensor, " rows"] | None = None  # position of the next token less `lengths`; None: 0
    places: Int[Tensor, "rows slots"] | None = None  # of the slots, where layers have windows

    def __len__(self) -> int:
        return len(self.lengths)

    def branch(self, rows: Sequence[int]) -> KVState:
        """The given rows, in that order and as often as named; nothing they have read is copied.

        Raises:
            ValueError: these rows are branches already.
        """
        if self.prefix is not None:
            raise ValueError("branches cannot branch again; select repeats rows")
        index = torch.as_tensor(rows, device=self.lengths.device)
        return KVState(
            keys=tuple(k.new_empty(len(rows), *k.shape[1:2], 0, k.shape[3]) for k in self.keys),
            values=tuple(v.new_empty(len(rows), *v.shape[1:2], 0, v.shape[3]) for v in self.values),
            real=self.real.new_empty(len(rows), 0),
            lengths=self.lengths[index],
            shift=None if self.shift is None else self.shift[index],
            prefix=Prefix(
                keys=self.keys,
                values=self.values,
                real=None if bool(self.real.all()) else self.real,
                of=tuple(rows),
            ),
        )

    def select(self, rows: Sequence[int] | Int[Tensor, " selected"]) -> KVState:
        """The given rows, in that order: reorder beams, drop finished rows, repeat rows."""
        index = torch.as_tensor(rows, device=self.lengths.device)
        return KVState(
            keys=tuple(k[index] for k in self.keys),
            values=tuple(v[index] for v in self.values),
            real=self.real[index],
            lengths=self.lengths[index],
            shift=None if self.shift is None else self.shift[index],
            places=None if self.places is None else self.places[index],
            prefix=None if self.prefix is None else self.prefix.select(index.tolist()),
        )

    def slots(self, beams: int = 1) -> Slots:
        """The same rows, to be gone on with token by token in `beams` ways each."""
        return Slots(self, beams)


_ROOM = 64  # steps between two enlargements


class Slots:
    """Rows that grow in place, by a token of each of their beams a step, at one position.

    What was read is never moved: a table says which slots a beam sees, those of its ancestors. So
    two steps do the same operations on the same shapes, but for one in `_ROOM`.
    """

    def __init__(self, state: KVState, beams: int) -> None:
        """`state` stays as it is."""
        device = state.lengths.device
        self.keys, self.values = [*state.keys], [*state.values]
        self.prefix, self.shift, self.places = state.prefix, state.shift, state.places
        self.lengths = state.lengths.clone()
        self.seen: Bool[Tensor, "rows beams slots"] = state.real[:, None].repeat(1, beams, 1)
        self._used = state.real.shape[1]
        self.at: Int[Tensor, " beams"] = torch.arange(beams, device=device) + self._used

    def __len__(self) -> int:
        return len(self.lengths)

    def follow(self, parents: Int[Tensor, "rows beams"]) -> Slots:
        """Each beam goes on from what another one of its row has read."""
        self.seen = self.seen.gather(1, parents[:, :, None].expand_as(self.seen))
        return self

    def select(self, rows: Sequence[int]) -> Slots:
        """The given rows, in that order."""
        index = torch.tensor(rows, device=self.lengths.device)
        for layers in (self.keys, self.values):
            layers[:] = [layer[index] for layer in layers]
        self.seen, self.lengths = self.seen[index], self.lengths[index]
        self.shift = None if self.shift is None else self.shift[index]
        self.places = None if self.places is None else self.places[index]
        self.prefix = None if self.prefix is None else self.prefix.select(rows)
        return self

    def take(self) -> Int[Tensor, "rows beams"]:
        """Take the slots of the next tokens; their positions."""
        rows, beams, capacity = self.seen.shape
        self._used += beams
        if self._used > capacity:
            step = _ROOM * beams
            more = -(-self._used // step) * step - capacity
            for layers in (self.keys, self.values):
                for k, layer in enumerate(layers):  # zeros: a share of 0 of nan is nan
                    layers[k] = F.pad(layer, (0, 0, 0, more))
            self.seen = F.pad(self.seen, (0, more))
            self.places = None if self.places is None else F.pad(self.places, (0, more))
        self.seen.scatter_(2, self.at[None, :, None].expand(rows, -1, 1), True)
        position = self.lengths if self.shift is None else self.lengths + self.shift
        positions = position[:, None].expand(-1, beams)
        if self.places is not None:
            self.places.index_copy_(1, self.at, positions)
        return positions

    def end_step(self) -> None:
        """The tokens are read."""
        self.lengths += 1
        self.at += len(self.at)


State = KVState | Slots


def grow_cache(
    model: LlamaForCausalLM,
    state: State | None,
    embeds: Float[Tensor, "rows length width"],
    counts: Int[Tensor, " rows"],
) -> tuple[Float[Tensor, "read width"], Any]:
    """Read `counts` new tokens per row, right-padded, behind `state`; the state of the last one."""

    def run(masks: Mapping[str, Tensor], positions: Tensor, cache: Any) -> Tensor:
        prefix = None if state is None else state.prefix
        return llama_forward(model, embeds, masks[FULL], positions, cache, prefix=prefix)

    return grow(run, state, counts, embeds.shape[1])


def grow(
    run: Callable[[Mapping[str, Tensor], Tensor, DynamicCache], Tensor],
    state: State | None,
    counts: Int[Tensor, " rows"],
    length: int,
    *,
    kinds: Mapping[str, int] = MappingProxyType({FULL: 0}),
    masks: Mapping[str, Bool[Tensor, "rows 1 length length"]] | None = None,
    positions: Int[Tensor, "*axes rows length"] | None = None,
    next_positions: Int[Tensor, " rows"] | None = None,
) -> tuple[Float[Tensor, "read width"], Any]:
    """As `grow_cache`, of any decoder.

    Args:
        run: masks by kind of layer, positions and a cache to hidden states; fills the cache.
        state: what was read before; None at the start.
        counts: how many of the new tokens are real, at least one per row.
        length: new tokens of a row, padding included.
        kinds: the decoder's kinds of layer -> their window in positions; 0: none.
        masks: who sees whom among the new tokens; None: causal.
        positions: of the new tokens; None: they go on behind those before.
        next_positions: of what follows; None: they go on behind these.
    """
    rows, device = len(counts), counts.device
    if isinstance(state, Slots):
        along = state.take()
        whole = dict.fromkeys(kinds, state.seen[:, None])
        for kind, window in kinds.items():
            if window and state.places is not None:
                whole[kind] = whole[kind] & is_near(along, state.places, window)
        hidden = run(whole, along, cache_of(state, at=state.at))
        state.end_step()
        return hidden.flatten(0, 1), state
    if state is None:
        empty = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        places = empty.long() if any(kinds.values()) else None
        state = KVState((), (), empty, torch.zeros_like(counts), places=places)
    new = torch.arange(length, device=device) < counts[:, None]
    start = state.lengths if state.shift is None else state.lengths + state.shift
    if positions is None:
        positions = start[:, None] + torch.arange(length, device=device)
    along = positions.reshape(-1, rows, length)[0]
    whole = {}
    for kind, window in kinds.items():
        earlier = state.real[:, None, None, :].expand(rows, 1, length, -1)
        own = causal_mask(new) if masks is None else masks[kind]
        if window and state.places is not None:
            earlier = earlier & is_near(along, state.places, window)
            own = own & is_near(along, along, window) if masks is None else own
        whole[kind] = torch.cat([earlier, own], dim=-1)
    cache = cache_of(state)
    hidden = run(whole, positions, cache)
    last = hidden[torch.arange(rows, device=device), counts - 1]
    layers: list[Any] = cache.layers
    lengths = state.lengths + counts
    grown = KVState(
        keys=tuple(layer.keys for layer in layers),
        values=tuple(layer.values for layer in layers),
        real=torch.cat([state.real, new], dim=1),
        lengths=lengths,
        prefix=state.prefix,
        shift=state.shift if next_positions is None else next_positions - lengths,
        places=None if state.places is None else torch.cat([state.places, along], dim=1),
    )
    return last, grown


def is_near(
    looks: Int[Tensor, "rows length"], seen: Int[Tensor, "rows slots"], window: int
) -> Bool[Tensor, "rows 1 length slots"]:
    """Whether a position lies so little behind another that a layer with a window sees it."""
    return (looks[:, :, None] - seen[:, None, :] < window)[:, None]


def cache_of(state: State, *, at: Int[Tensor, " beams"] | None = None) -> DynamicCache:
    """Transformers' cache of what was read; its own constructor would copy all of it once more.

    New keys and values are appended to copies, or written into the slots `at`.
    """
    cache = DynamicCache()
    for keys, values in zip(state.keys, state.values, strict=True):
        layer: Any = DynamicLayer() if at is None else _InPlace(at)
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


class _InPlace(DynamicLayer):
    """Keys and values of a layer in slots, of which the mask says which hold a token."""

    def __init__(self, at: Int[Tensor, " beams"]) -> None:
        super().__init__()
        self.at = at

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Write what was read, and give all slots."""
        keys: Any = self.keys
        values: Any = self.values
        keys.index_copy_(2, self.at, key_states)
        values.index_copy_(2, self.at, value_states)
        return keys, values


def causal_mask(real: Bool[Tensor, "rows length"]) -> Bool[Tensor, "rows 1 length length"]:
    """Mask of right-padded rows: True if a query may look; padded queries keep a causal row."""
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    return (causal & real[:, None, :])[:, None]
