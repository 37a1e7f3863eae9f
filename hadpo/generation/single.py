"""Greedy decoding and sampling of rows side by side; a row that is finished leaves the batch."""

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
    active = list(range(len(answers)))
    draws = [generator(decoding, question) for question in questions]
    stops = _Stops(backbone, decoding.stop_at)
    generated = torch.empty(len(answers), 0, dtype=torch.long, device=logits.device)
    while True:
        tokens = next_tokens(logits, generated, decoding, [draws[row] for row in active])
        generated = torch.cat([generated, tokens[:, None]], dim=1)
        is_full = generated.shape[1] == decoding.max_new_tokens
        ended = backbone.ends(generated).tolist()
        newest = tokens.tolist()  # one wait for the device a step, not one a row
        over = [
            is_full or end or stops(last, generated[place])
            for place, (end, last) in enumerate(zip(ended, newest, strict=True))
        ]
        if any(over):
            for place in [place for place, is_over in enumerate(over) if is_over]:
                answers[active[place]] = generated[place].tolist()
            going = [place for place, is_over in enumerate(over) if not is_over]
            if not going:
                return answers
            active = [active[place] for place in going]
            state, generated = state.select(going), generated[going]
        logits, state = backbone.extend(state, generated[:, -1:])


class _Stops:
    """Whether generated ids, the newest last, are the first whose text holds the stop character.

    Only a piece that holds it can bring it in, and what a piece holds is looked up once.
    """

    def __init__(self, backbone: Backbone, character: str) -> None:
        self._backbone, self._character = backbone, character
        self._holds: dict[int, bool] = {}

    def __call__(self, last: int, ids: Tensor) -> bool:
        if not self._character:
            return False
        if last not in self._holds:
            self._holds[last] = self._character in self._backbone.decode([last])
        return self._holds[last] and self._character in self._backbone.decode(ids.tolist())
