"""Pairs to packed rows: [prefix | chosen | rejected], one row per pair.

The prefix (prompt and image tokens) is read once for both answers. Positions of the rejected answer
restart at the end of the prefix, and the mask keeps the answers apart, so each answer sees exactly
what it would see in a row of its own. Only the states that predict an answer's tokens
are looked at; the first tokens of both answers are predicted by one state, the last of the prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hadpo import loss
from hadpo.backbones._base import Backbone
from hadpo.records import BadInput, Pair

_PREFIX, _PADDING = 0, -1  # segments of a row; its answers count from 1
_ALIGNMENT = 8  # lengths of rows; PyTorch copies masks of other lengths before it uses them


@dataclass(frozen=True, kw_only=True)
class Example:
    """A pair as token ids."""

    pair_id: str
    kind: Literal["description", "pope"]
    image: str
    instruction: str
    prefix: tuple[int, ...]  # one id per position, IMAGE at those of the image tokens
    chosen: tuple[int, ...]  # with the end marker
    rejected: tuple[int, ...]
    cut: int  # answers that were cut to fit, of these two


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of prefix and answers. `tokens` counts the answer tokens of all rows, in order."""

    ids: Int[Tensor, "rows length"]  # IMAGE at the image tokens, 0 behind the end
    positions: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows 1 length length"]  # True: row t may look there
    sources: Int[Tensor, " tokens"]  # row * length + position of the state that predicts the token
    targets: Int[Tensor, " tokens"]
    slots: Int[Tensor, " tokens"]  # answer * longest + place: where a token stands in the table
    lengths: Int[Tensor, "answers rows"]  # tokens of each answer
    longest: int  # tokens of the longest answer
    num_tokens: int  # real positions of all rows
    instructions: tuple[str, ...]  # one per row
    images: tuple[str, ...]  # distinct image files
    image_of: tuple[int, ...]  # row -> its image

    def to(self, device: torch.device) -> Packed:
        """The same rows on another device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **moved)

    @property
    def padding(self) -> float:
        """Share of positions that hold nothing."""
        return 1 - self.num_tokens / self.ids.numel()


def tokenize(
    backbone: Backbone,
    pair: Pair,
    *,
    max_length: int,
    prompt: Literal["train", "evaluate"] = "train",
) -> Example:
    """The pair's ids; an answer that would pass `max_length` is cut and keeps its end marker.

    Raises:
        BadInput: the prompt alone leaves no room for an answer; image tokens are never cut.
    """
    prefix = backbone.expand(backbone.prompt_ids(pair.instruction, prompt=prompt))
    room = max_length - len(prefix)
    if room < 1:
        raise BadInput(
            f"pair {pair.pair_id}: the prompt with its image tokens has {len(prefix)} positions, "
            f"max_length is {max_length}; raise max_length"
        )
    answers = []
    cut = 0
    for text in (pair.chosen, pair.rejected):
        ids = backbone.response_ids(text)
        if len(ids) > room:
            end = backbone.end_ids
            ids = [*ids[: max(room - len(end), 0)], *end][:room]
            cut += 1
        answers.append(tuple(ids))
    return Example(
        pair_id=pair.pair_id,
        kind=pair.kind,
        image=pair.image,
        instruction=pair.instruction,
        prefix=tuple(prefix),
        chosen=answers[0],
        rejected=answers[1],
        cut=cut,
    )


def pack(examples: Sequence[Example], *, sides: Sequence[str] = ("chosen", "rejected")) -> Packed:
    """One row per example, on the CPU.

    Args:
        examples: at least one.
        sides: the answers a row holds; ("chosen",) for finetuning on the chosen texts only.
    """
    answers = [[getattr(example, side) for side in sides] for example in examples]
    totals = [len(e.prefix) + sum(map(len, row)) for e, row in zip(examples, answers, strict=True)]
    length = aligned(max(totals))
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, _PADDING)  # which part of its row a position belongs to
    lengths = torch.tensor([[len(row[k]) for row in answers] for k in range(len(sides))])
    longest = int(lengths.max())
    sources, targets, slots = [], [], []
    for r, (example, row) in enumerate(zip(examples, answers, strict=True)):
        prefix = len(example.prefix)
        ids[r, :prefix] = torch.tensor(example.prefix)
        positions[r, :prefix] = torch.arange(prefix)
        segments[r, :prefix] = _PREFIX
        start = prefix
        for k, answer in enumerate(row):
            end = start + len(answer)
            ids[r, start:end] = torch.tensor(answer)
            positions[r, start:end] = torch.arange(prefix, prefix + len(answer))
            segments[r, start:end] = k + 1
            before = [prefix - 1, *range(start, end - 1)]
            sources += [r * length + p for p in before]
            targets += answer
            slots += [(k * len(examples) + r) * longest + place for place in range(len(answer))]
            start = end
    images = list(dict.fromkeys(example.image for example in examples))
    return Packed(
        ids=ids,
        positions=positions,
        mask=_mask(segments),
        sources=torch.tensor(sources),
        targets=torch.tensor(targets),
        slots=torch.tensor(slots),
        lengths=lengths,
        longest=longest,
        num_tokens=sum(totals),
        instructions=tuple(example.instruction for example in examples),
        images=tuple(images),
        image_of=tuple(images.index(example.image) for example in examples),
    )


def aligned(length: int) -> int:
    """Positions of a row that holds `length` of them."""
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _mask(segments: Int[Tensor, "rows length"]) -> Bool[Tensor, "rows 1 length length"]:
    """Causal; an answer sees the prefix and itself.

    Padding sees the prefix: nothing looks at padding, but a row of a mask must not be empty.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    looks, seen = segments[:, :, None], segments[:, None, :]
    return (causal & ((seen == _PREFIX) | (looks == seen)))[:, None]


def read_pixels(backbone: Backbone, images: Sequence[str]) -> Float[Tensor, "images 3 side side"]:
    """Pixels of image files, on the CPU.

    Raises:
        BadInput: names the file that is missing or no image.
    """
    pixels = []
    for path in images:
        try:
            with Image.open(Path(path)) as image:
                pixels.append(backbone.preprocess(image))
        except FileNotFoundError as error:
            raise BadInput(f"no image {path}; mend the path, or fetch the images") from error
        except (UnidentifiedImageError, OSError) as error:
            raise BadInput(f"{path}: no readable image ({error})") from error
    return torch.stack(pixels)


def embed(
    backbone: Backbone, packed: Packed, pixels: Float[Tensor, "images 3 side side"]
) -> Float[Tensor, "rows length width"]:
    """Inputs of the language model, each distinct image encoded once; no gradient."""
    image_tokens = backbone.image_tokens(pixels, packed.instructions, image_of=packed.image_of)
    return backbone.embed(packed.ids, image_tokens)


def answer_logps(
    backbone: Backbone, packed: Packed, embeds: Float[Tensor, "rows length width"]
) -> Float[Tensor, "answers rows"]:
    """Log-probability of each answer, summed over its tokens, in nats."""
    return token_table(backbone, packed, embeds).sum(-1)


def token_table(
    backbone: Backbone, packed: Packed, embeds: Float[Tensor, "rows length width"]
) -> Float[Tensor, "answers rows longest"]:
    """Log-probability of each answer token, 0 behind the end of an answer."""
    hidden = backbone.hidden_states(embeds, packed.mask, packed.positions)
    states = hidden.flatten(0, 1)[packed.sources]
    logps = loss.token_logps(states, backbone.lm_head_weight, packed.targets)
    table = logps.new_zeros(packed.lengths.numel() * packed.longest)
    return table.index_put((packed.slots,), logps).view(*packed.lengths.shape, packed.longest)
