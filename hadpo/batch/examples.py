"""Pairs as token ids, cut to fit and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hadpo.backbones._base import Backbone
from hadpo.records import BadInput, Pair


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
