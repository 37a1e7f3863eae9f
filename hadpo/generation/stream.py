"""One conversation, answered token by token: for a page that shows words as they come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image

from hadpo.generation.decoding import Decoding, generator, next_tokens
from hadpo.records import BadInput
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.prompt import IMAGE


@dataclass(frozen=True)
class Turn:
    """A question, what it is about, and what was answered to it."""

    instruction: str
    image: Image.Image | None = None  # the first question of a conversation has one
    answer: str = ""  # "" if it is still to be answered


@torch.no_grad()
def stream(
    backbone: Backbone,
    turns: Sequence[Turn],
    decoding: Decoding,
    *,
    prompt: Literal["train", "evaluate"] = "evaluate",
) -> Iterator[tuple[str, bool]]:
    """The answer to the last turn, all of it so far, after each token; and whether it is whole.

    The same tokens that `generate` chooses for the same first question. Nothing is remembered
    between calls: whoever stops asking leaves nothing behind.

    Args:
        backbone: on its device, in evaluation mode.
        turns: the conversation, the open question last.
        decoding: greedy or sampled; several beams have no text before their end.
        prompt: which of the backbone's two prompts.

    Raises:
        BadInput: a conversation that the backbone's prompt, or its length, does not allow.
    """
    if decoding.beams > 1:
        raise BadInput("several beams cannot be streamed; use 1 beam")
    ids = _ids(backbone, turns, prompt)
    room = backbone.max_positions - len(ids)
    if room < 1:
        raise BadInput(f"a conversation of {len(ids)} tokens is too long; begin a new one")
    images = [turn.image for turn in turns if turn.image is not None]
    pixels = backbone.stack([backbone.preprocess(image) for image in images])
    logits, state = backbone.read_alone(ids, turns[0].instruction, pixels)
    draws = generator(decoding, "\n".join(turn.instruction for turn in turns))
    generated = torch.empty(1, 0, dtype=torch.long, device=logits.device)
    state = state.slots()
    for _ in range(min(decoding.max_new_tokens, room)):
        token = next_tokens(logits, generated, decoding, [draws])
        generated = torch.cat([generated, token[:, None]], dim=1)
        is_over = bool(backbone.ends(generated)[0])
        yield backbone.decode(generated[0].tolist()).strip(), is_over
        if is_over:
            return
        logits, state = backbone.extend(state, generated[:, -1:])


def _ids(
    backbone: Backbone, turns: Sequence[Turn], prompt: Literal["train", "evaluate"]
) -> list[int]:
    """Expanded ids of the whole conversation, up to where the last answer begins."""
    first, *later = turns
    if first.image is None:
        raise BadInput("the first question of a conversation needs an image")
    ids = backbone.prefix(first.instruction, first.image, prompt=prompt)
    before = first
    for turn in later:
        template = getattr(backbone.PROMPTS, "again" if turn.image is None else "again_image")
        if template is None:
            what = "several questions" if turn.image is None else "several images"
            raise BadInput(f"{backbone.name} does not take {what} in one conversation")
        more = template.tokenize(turn.instruction, backbone.tokenizer)
        ids += [*backbone.tokenizer.encode(before.answer)]
        ids += backbone.expand(more) if IMAGE in more else more
        before = turn
    return ids
