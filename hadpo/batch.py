"""Pairs to packed rows: [prefix | chosen | rejected], one row per pair or per image.

The prefix (prompt and image tokens) is read once for both answers. Positions of the rejected answer
restart at the end of the prefix, and the mask keeps the answers apart, so each answer sees exactly
what it would see in a row of its own. Only the states that predict an answer's tokens
are looked at; the first tokens of both answers are predicted by one state, the last of the prefix.

Pairs of one image may share a row, as a tree: [common | rest | chosen | rejected | rest | ...].
What their prefixes have in common, the image tokens above all, is read once for all of them.
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
from hadpo.backbones._prompt import IMAGE
from hadpo.records import BadInput, Pair

_PREFIX, _PADDING = 0, -1  # segments of a row; those of its pairs count from 1
_ALIGNMENT = 8  # lengths of rows; PyTorch copies masks of other lengths before it uses them


@dataclass(frozen=True, kw_only=True)
class Example:
    """A pair as token ids."""

    pair_id: str
    kind: Literal["description", "pope", "instruction"]
    image: str
    instruction: str
    prefix: tuple[int, ...]  # one id per position, IMAGE at those of the image tokens
    chosen: tuple[int, ...]  # with the end marker
    rejected: tuple[int, ...]
    cut: int  # answers that were cut to fit, of these two
    source: str = ""
    weight: float = 1.0  # of its loss, in finetuning


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of prefix and answers. `tokens` counts the answer tokens of all rows, in order."""

    ids: Int[Tensor, "rows length"]  # IMAGE at the image tokens, 0 behind the end
    positions: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows 1 length length"]  # True: row t may look there
    sources: Int[Tensor, " tokens"]  # row * length + position of the state that predicts the token
    targets: Int[Tensor, " tokens"]
    slots: Int[Tensor, " tokens"]  # answer * longest + place: where a token stands in the table
    lengths: Int[Tensor, "answers pairs"]  # tokens of each answer
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
    answers = [fit_answer(backbone, text, room) for text in (pair.chosen, pair.rejected)]
    return Example(
        pair_id=pair.pair_id,
        kind=pair.kind,
        image=pair.image,
        instruction=pair.instruction,
        prefix=tuple(prefix),
        chosen=answers[0][0],
        rejected=answers[1][0],
        cut=sum(is_cut for _, is_cut in answers),
        source=pair.source,
    )


def fit_answer(backbone: Backbone, text: str, room: int) -> tuple[tuple[int, ...], bool]:
    """Ids of an answer in at most `room` positions, its end marker kept, and whether it was cut."""
    ids = backbone.response_ids(text)
    if len(ids) <= room:
        return tuple(ids), False
    end = backbone.end_ids
    return tuple([*ids[: max(room - len(end), 0)], *end][:room]), True


def pack(examples: Sequence[Example], *, sides: Sequence[str] = ("chosen", "rejected")) -> Packed:
    """One row per example, on the CPU.

    Args:
        examples: at least one.
        sides: the answers a row holds; ("chosen",) for finetuning on the chosen texts only.
    """
    return pack_rows([[example] for example in examples], sides=sides)


def pack_rows(
    rows: Sequence[Sequence[Example]], *, sides: Sequence[str] = ("chosen", "rejected")
) -> Packed:
    """Rows of one pair or more each, on the CPU; answers are numbered in the order of the pairs.

    Args:
        rows: at least one; the pairs of a row show one image, as `grouped` puts them together.
        sides: the answers of each pair that a row holds.
    """
    length = aligned(max(row_length(row, sides=sides) for row in rows))
    pairs = sum(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, _PADDING)  # which part of its row a position belongs to
    parents = segments.clone()  # the part between it and the row's common prefix
    answers = [[getattr(e, side) for row in rows for e in row] for side in sides]
    lengths = torch.tensor([[len(answer) for answer in side] for side in answers])
    longest = int(lengths.max())
    sources, targets, slots = [], [], []
    number = 0  # of the pair
    for r, row in enumerate(rows):
        common = _common(row)
        end = _put(row[0].prefix[:common], 0, ids[r], positions[r])
        segments[r, :end] = parents[r, :end] = _PREFIX
        segment = _PREFIX
        for example in row:
            start = end
            end = (
                _put(example.prefix[common:], common, ids[r, start:], positions[r, start:]) + start
            )
            segment += 1
            parent = segment
            segments[r, start:end] = parents[r, start:end] = parent
            last = end - 1 if end > start else common - 1  # its state predicts the first tokens
            prefix = len(example.prefix)
            for k, side in enumerate(answers):
                answer, start = side[number], end
                end = _put(answer, prefix, ids[r, start:], positions[r, start:]) + start
                segment += 1
                segments[r, start:end], parents[r, start:end] = segment, parent
                sources += [r * length + p for p in (last, *range(start, end - 1))]
                targets += answer
                slots += [(k * pairs + number) * longest + place for place in range(len(answer))]
            number += 1
    images = list(dict.fromkeys(row[0].image for row in rows))
    return Packed(
        ids=ids,
        positions=positions,
        mask=_mask(segments, parents),
        sources=torch.tensor(sources),
        targets=torch.tensor(targets),
        slots=torch.tensor(slots),
        lengths=lengths,
        longest=longest,
        num_tokens=sum(row_length(row, sides=sides) for row in rows),
        instructions=tuple(row[0].instruction for row in rows),
        images=tuple(images),
        image_of=tuple(images.index(row[0].image) for row in rows),
    )


def grouped(examples: Sequence[Example], pairs_per_row: int) -> list[list[Example]]:
    """Rows of pairs of one image, at most `pairs_per_row` each, in order of first appearance."""
    if pairs_per_row == 1:
        return [[example] for example in examples]
    by_image: dict[str, list[Example]] = {}
    for example in examples:
        by_image.setdefault(example.image, []).append(example)
    return [
        mine[i : i + pairs_per_row]
        for mine in by_image.values()
        for i in range(0, len(mine), pairs_per_row)
    ]


def row_length(row: Sequence[Example], *, sides: Sequence[str] = ("chosen", "rejected")) -> int:
    """Positions that a row of these pairs needs."""
    common = _common(row)
    return common + sum(
        len(e.prefix) - common + sum(len(getattr(e, side)) for side in sides) for e in row
    )


def _common(row: Sequence[Example]) -> int:
    """Positions at the start of the prefixes that all pairs of a row have in common."""
    if len(row) == 1:
        return len(row[0].prefix)
    same = 0
    for ids in zip(*(example.prefix for example in row), strict=False):
        if len(set(ids)) > 1:
            break
        same += 1
    if {e.image for e in row} != {row[0].image} or IMAGE in row[0].prefix[same:]:
        raise ValueError("pairs share a row only from the start to behind the one image they show")
    return same


def _put(
    ids: Sequence[int], position: int, into: Int[Tensor, " room"], positions: Int[Tensor, " room"]
) -> int:
    """Write ids at the start of a row; how many they are."""
    into[: len(ids)] = torch.tensor(ids, dtype=torch.long)
    positions[: len(ids)] = torch.arange(position, position + len(ids))
    return len(ids)


def aligned(length: int) -> int:
    """Positions of a row that holds `length` of them."""
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _mask(
    segments: Int[Tensor, "rows length"], parents: Int[Tensor, "rows length"]
) -> Bool[Tensor, "rows 1 length length"]:
    """Causal; an answer sees the common prefix, the rest of its pair's prefix, and itself.

    Padding sees the prefix: nothing looks at padding, but a row of a mask must not be empty.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    looks, seen, parent = segments[:, :, None], segments[:, None, :], parents[:, :, None]
    return (causal & ((seen == _PREFIX) | (looks == seen) | (parent == seen)))[:, None]


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
    """Inputs of the language model, each distinct image encoded once."""
    image_tokens = backbone.image_tokens(pixels, packed.instructions, image_of=packed.image_of)
    return backbone.embed(packed.ids, image_tokens)


def answer_logps(
    backbone: Backbone, packed: Packed, embeds: Float[Tensor, "rows length width"]
) -> Float[Tensor, "answers pairs"]:
    """Log-probability of each answer, summed over its tokens, in nats."""
    return token_table(backbone, packed, embeds).sum(-1)


def token_table(
    backbone: Backbone, packed: Packed, embeds: Float[Tensor, "rows length width"]
) -> Float[Tensor, "answers pairs longest"]:
    """Log-probability of each answer token, 0 behind the end of an answer."""
    hidden = backbone.hidden_states(embeds, packed.mask, packed.positions)
    states = hidden.flatten(0, 1)[packed.sources]
    logps = loss.token_logps(states, backbone.lm_head_weight, packed.targets)
    table = logps.new_zeros(packed.lengths.numel() * packed.longest)
    return table.index_put((packed.slots,), logps).view(*packed.lengths.shape, packed.longest)
