"""Greedy decoding and sampling of rows side by side; rows that are done leave by halves."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hadpo.generation.decoding import Decoding, generator, next_tokens
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.decoder import KVState


@torch.no_grad()
def decode_single(
    backbone: Backbone,
    logits: Float[Tensor, "rows vocab"],
    state: KVState,
    decoding: Decoding,
    questions: Sequence[str],
) -> list[list[int]]:
    """Generated ids of each row, the end marker included where it was reached.

    Args:
        backbone: the model.
        logits: of each row's first new token.
        state: what each row has read.
        decoding: greedy, or sampled if its temperature is above 0.
        questions: names the row for its random numbers.
    """
    answers: list[list[int]] = [[] for _ in questions]
    draws = [generator(decoding, question) for question in questions]
    stops = _Stops(backbone, decoding.stop_at)
    rows, over = list(range(len(answers))), set[int]()  # rows of the batch; those that are done
    shape = len(rows), decoding.max_new_tokens
    written = torch.zeros(shape, dtype=torch.long, device=logits.device)
    slots = state.slots()
    for length in range(1, decoding.max_new_tokens + 1):
        own = [draws[row] for row in rows]
        tokens = next_tokens(logits, written[:, : length - 1], decoding, own)
        written[:, length - 1] = tokens
        ended = backbone.ends(written[:, :length])
        # One wait for the device a step.
        for row, token, is_end in zip(
            rows, *torch.stack([tokens, ended.long()]).tolist(), strict=True
        ):
            if row not in over:
                answers[row].append(token)
                if is_end or stops(answers[row]):
                    over.add(row)
        going = [place for place, row in enumerate(rows) if row not in over]
        if not going or length == decoding.max_new_tokens:
            break
        if 2 * len(going) <= len(rows):  # before, moving what was read costs more than it saves
            rows = [rows[place] for place in going]
            slots, written, tokens = slots.select(going), written[going], tokens[going]
        logits, slots = backbone.extend(slots, tokens[:, None])
    return answers


class _Stops:
    """Whether generated ids are the first whose text holds the stop character.

    Only a piece that holds it can bring it in, and what a piece holds is looked up once.
    """

    def __init__(self, backbone: Backbone, character: str) -> None:
        self._backbone, self._character = backbone, character
        self._holds: dict[int, bool] = {}

    def __call__(self, ids: Sequence[int]) -> bool:
        if not self._character:
            return False
        last = ids[-1]
        if last not in self._holds:
            self._holds[last] = self._character in self._backbone.decode([last])
        return self._holds[last] and self._character in self._backbone.decode(ids)
