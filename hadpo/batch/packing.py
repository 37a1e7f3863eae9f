"""Rows of prefix and answers: who stands where, who sees whom, and what predicts which token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hadpo.batch.examples import Example
from hadpo.cost import Row
from hadpo.vlm.attention import Part, Parts
from hadpo.vlm.decoder import Packed, Span
from hadpo.vlm.prompt import IMAGE

Item = TypeVar("Item")

_PREFIX, _PADDING = 0, -1  # segments of a row; those of its pairs count from 1
_MULTIPLE = 8  # of it are rows' lengths; PyTorch copies masks of other lengths before it uses them
_MULTIPLE_ON_CUDA = 64  # an epoch has few shapes: what is tuned or captured for one is used again


def pack(
    examples: Sequence[Example],
    *,
    sides: Sequence[str] = ("chosen", "rejected"),
    used_on: str = "cpu",
) -> Packed:
    """One row per example, on the CPU; sides ("chosen",) are for finetuning on these texts only."""
    return pack_rows([[example] for example in examples], sides=sides, used_on=used_on)


def pack_rows(
    rows: Sequence[Sequence[Example]],
    *,
    sides: Sequence[str] = ("chosen", "rejected"),
    used_on: str = "cpu",
) -> Packed:
    """Rows of one pair or more of one image (`grouped`), on the CPU; answers in order of pairs.

    They are padded for the type of device that they are `used_on`.

    One pair with a prefix of 4 tokens, chosen c0 c1 and rejected r0 r1 r2, padding left out:

        row        p0 p1 p2 p3 c0 c1 r0 r1 r2
        positions   0  1  2  3  4  5  4  5  6
        targets    c0 c1 r0 r1 r2
        sources     3  4  3  6  7      (c0 and r0 are both predicted by the state of p3)
        slots       0  1  3  4  5      (of a table of 2 answers, 3 tokens each: slot 2 stays empty)
    """
    length = aligned(max(row_length(row, sides=sides) for row in rows), used_on)
    pairs = sum(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, _PADDING)  # which part of its row a position belongs to
    parents = segments.clone()  # the part between it and the row's common prefix
    answers = [[getattr(e, side) for row in rows for e in row] for side in sides]
    lengths = torch.tensor([[len(answer) for answer in side] for side in answers])
    longest = int(lengths.max())
    sources, targets, slots = [], [], []
    parts: list[Parts] = []
    spans: list[Span] = []
    pair = 0  # counted over all rows
    for r, row in enumerate(rows):
        common = _common(row)
        end = _put(row[0].prefix[:common], 0, ids[r], positions[r])
        segments[r, :end] = parents[r, :end] = _PREFIX
        spans.append(Span(row=r, start=0, end=end, pair=pair, first=0))
        segment = _PREFIX
        row_parts: list[Part] = []
        for example in row:
            prefix, rest = len(example.prefix), example.prefix[common:]
            rest_start, rest_end = end, end + len(rest)
            _put(rest, common, ids[r, rest_start:], positions[r, rest_start:])
            segment += 1
            parent = segment
            segments[r, rest_start:rest_end] = parents[r, rest_start:rest_end] = parent
            prefix_last = rest_end - 1 if rest else common - 1  # its state predicts first tokens
            spans.append(Span(row=r, start=rest_start, end=rest_end, pair=pair, first=common))
            end = rest_end
            for k, side in enumerate(answers):
                answer, start = side[pair], end
                end = _put(answer, prefix, ids[r, start:], positions[r, start:]) + start
                segment += 1
                segments[r, start:end], parents[r, start:end] = segment, parent
                spans.append(Span(row=r, start=start, end=end, pair=pair))
                if k == 0:  # with the prefix before it; the first pair's holds the common one
                    earlier = _spans((0, common)) if row_parts else ()
                    row_parts.append(Part(rest_start if row_parts else 0, end, earlier))
                else:
                    earlier = _spans((0, common), (rest_start, rest_end))
                    row_parts.append(Part(start, end, earlier))
                sources += [r * length + p for p in (prefix_last, *range(start, end - 1))]
                targets += answer
                slots += [(k * pairs + pair) * longest + place for place in range(len(answer))]
            pair += 1
        parts.append(tuple(row_parts))
    images = list(dict.fromkeys(row[0].image for row in rows))
    image_of = [images.index(row[0].image) for row in rows]
    return Packed(
        ids=ids,
        positions=positions,
        mask=_mask(segments, parents),
        parts=tuple(parts),
        spans=tuple(spans),
        sources=torch.tensor(sources),
        targets=torch.tensor(targets),
        slots=torch.tensor(slots),
        lengths=lengths,
        longest=longest,
        num_tokens=sum(row_length(row, sides=sides) for row in rows),
        instructions=tuple(row[0].instruction for row in rows),
        questions=tuple(e.instruction for row in rows for e in row),
        images=tuple(images),
        image_of=tuple(image_of),
        image_index=torch.tensor(image_of),
    )


def grouped(
    pairs: Sequence[Item], pairs_per_row: int, *, image: Callable[[Item], str] = attrgetter("image")
) -> list[list[Item]]:
    """Rows of pairs of one image, at most `pairs_per_row` each, in order of first appearance."""
    if pairs_per_row == 1:
        return [[pair] for pair in pairs]
    by_image: dict[str, list[Item]] = {}
    for pair in pairs:
        by_image.setdefault(image(pair), []).append(pair)
    return [
        part[i : i + pairs_per_row]
        for part in by_image.values()
        for i in range(0, len(part), pairs_per_row)
    ]


def row_sizes(row: Sequence[Example], *, sides: Sequence[str] = ("chosen", "rejected")) -> Row:
    """A row of these pairs in numbers of positions."""
    common = _common(row)
    return Row(
        common=common,
        rests=[len(e.prefix) - common for e in row],
        answers=[[len(getattr(e, side)) for side in sides] for e in row],
    )


def row_length(row: Sequence[Example], *, sides: Sequence[str] = ("chosen", "rejected")) -> int:
    """Positions that a row of these pairs needs."""
    return row_sizes(row, sides=sides).positions


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


def _spans(*spans: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Spans without those that are empty; neighbours as one."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if start == end:
            continue
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return tuple(joined)


def _put(ids: Sequence[int], position: int, into: Tensor, positions: Tensor) -> int:
    """Write ids at the start of a row; how many they are."""
    into[: len(ids)] = torch.tensor(ids, dtype=torch.long)
    positions[: len(ids)] = torch.arange(position, position + len(ids))
    return len(ids)


def aligned(length: int, used_on: str = "cpu") -> int:
    """Positions of a row that holds `length` of them, for a type of device."""
    multiple = _MULTIPLE_ON_CUDA if used_on == "cuda" else _MULTIPLE
    return -(-length // multiple) * multiple


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


def by_length(rows: Sequence[list[Example]]) -> list[list[Example]]:
    """Like lengths side by side, so that rows of a micro-batch have little padding."""
    return sorted(rows, key=row_length)


def micro_batches(rows: Sequence[list[Item]], pairs: int) -> Iterator[list[list[Item]]]:
    """Rows one after the other, as many as hold at most `pairs` pairs, and at least one."""
    part: list[list[Item]] = []
    for row in rows:
        if part and sum(map(len, part)) + len(row) > pairs:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
