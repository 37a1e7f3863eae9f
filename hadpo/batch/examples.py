"""Pairs as token ids, cut to fit and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hadpo.records import BadInput, Pair
from hadpo.vlm.backbone import Backbone

Kind = Literal["description", "pope", "instruction"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A pair as token ids."""

    pair_id: str
    kind: Kind
    image: str
    instruction: str
    prefix: tuple[int, ...]  # one id per position, IMAGE at those of the image tokens
    chosen: tuple[int, ...]  # with the end marker
    rejected: tuple[int, ...]
    cut: int  # how many of the two answers were truncated to fit (0 to 2)
    source: str = ""
    weight: float = 1.0  # of its loss, in finetuning


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
    prefix = backbone.prefix(pair.instruction, pair.image, prompt=prompt)
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
