"""Beam search of questions side by side, with the semantics of transformers' `generate`.

That is: log-probs are summed; the repetition penalty acts on log-probs; twice as many candidates as
beams are looked at, and only the first half may finish; a finished beam scores its sum divided by
its length (end marker included) to the power of the length penalty; a question ends when no running
beam scores better at its present length than the worst finished one (`early_stopping=False`).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadpo.generation.decoding import Decoding, penalised
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.decoder import KVState

_NEVER = -1.0e9  # the score of what cannot be chosen, as in transformers
_NOTHING = -1  # behind the end of what is written


@torch.no_grad()
def decode_beams(
    backbone: Backbone,
    logits: Float[Tensor, "questions vocab"],
    state: KVState,
    decoding: Decoding,
) -> list[list[int]]:
    """Generated ids of each question's best beam, the end marker included if it was reached.

    Args:
        backbone: the model.
        logits: of each question's first new token.
        state: what each question has read.
        decoding: beams, lengths and penalties.
    """
    beams, longest = decoding.beams, decoding.max_new_tokens
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    search = _Search(len(logits), beams, longest, logits.device)
    active = list(range(len(logits)))  # rows of the batch -> questions
    over: set[int] = set()
    slots = state.slots(beams)
    logits = logits.repeat_interleave(beams, dim=0)
    for length in range(1, longest + 1):
        log_probs = logits.float().log_softmax(dim=-1)
        log_probs = penalised(log_probs, search.running[:, :, : length - 1], decoding)
        parents, is_last = search.step(log_probs, length, backbone.ends, decoding.length_penalty)
        is_over = search.is_over(length, decoding)
        for place, question in enumerate(active):
            if question not in over and (is_last or is_over[place]):
                answers[question] = search.best(place)
                over.add(question)
        going = [place for place, question in enumerate(active) if question not in over]
        if not going:
            break
        if 2 * len(going) <= len(active):  # before, moving what was read costs more than it saves
            active = [active[place] for place in going]
            search, slots, parents = search.select(going), slots.select(going), parents[going]
        tokens = search.running[:, :, length - 1]
        logits, slots = backbone.extend(slots.follow(parents), tokens)
    return answers


class _Search:
    """Running and finished beams of several questions."""

    def __init__(self, questions: int, beams: int, longest: int, device: torch.device) -> None:
        self.running: Int[Tensor, "questions beams longest"] = torch.full(
            (questions, beams, longest), _NOTHING, dtype=torch.long, device=device
        )
        self.sums = torch.zeros(questions, beams, device=device)
        self.sums[:, 1:] = _NEVER  # all beams start alike: only the first may continue
        self.finished = self.running.clone()
        self.scores = torch.full((questions, beams), _NEVER, device=device)
        self.is_finished: Bool[Tensor, "questions beams"] = torch.zeros(
            questions, beams, dtype=torch.bool, device=device
        )

    def select(self, questions: list[int]) -> "_Search":
        """The same search for some of the questions."""
        other = object.__new__(_Search)
        for name, value in vars(self).items():
            setattr(other, name, value[questions])
        return other

    def step(
        self,
        log_probs: Float[Tensor, "rows vocab"],
        length: int,
        ends: Callable[[Tensor], Tensor],
        length_penalty: float,
    ) -> tuple[Int[Tensor, "questions beams"], bool]:
        """Choose the `length`-th token of every beam.

        Returns:
            Which beam each running beam comes from, and whether the length limit is reached.
        """
        questions, beams, longest = self.running.shape
        vocab = log_probs.shape[-1]
        totals = log_probs.view(questions, beams, vocab) + self.sums[:, :, None]
        sums, index = totals.view(questions, -1).topk(2 * beams)
        parents, tokens = index // vocab, index % vocab
        written = self.running.gather(1, parents[:, :, None].expand(-1, -1, longest)).clone()
        written[:, :, length - 1] = tokens
        is_last = length == longest
        stops = ends(written[:, :, :length]) | is_last
        self._finish(sums, written, stops, length**length_penalty)
        running, chosen = (sums + stops.float() * _NEVER).topk(beams)
        self.sums = running
        self.running = written.gather(1, chosen[:, :, None].expand(-1, -1, longest))
        return parents.gather(1, chosen), is_last

    def _finish(
        self,
        sums: Float[Tensor, "questions candidates"],
        written: Int[Tensor, "questions candidates longest"],
        stops: Bool[Tensor, "questions candidates"],
        divisor: float,
    ) -> None:
        """Keep the best of what was finished before and what has just finished."""
        beams = self.scores.shape[1]
        may = stops.clone()
        may[:, beams:] = False  # the second half only stands by
        scores = torch.cat([self.scores, sums / divisor + (~may).float() * _NEVER], dim=1)
        self.scores, best = scores.topk(beams)
        every = torch.cat([self.finished, written], dim=1)
        self.finished = every.gather(1, best[:, :, None].expand(-1, -1, every.shape[-1]))
        self.is_finished = torch.cat([self.is_finished, may], dim=1).gather(1, best)

    def is_over(self, length: int, decoding: Decoding) -> list[bool]:
        """Whether no running beam of a question scores better now than its worst finished one."""
        best_running = self.sums[:, :1] / length**decoding.length_penalty
        worst = self.scores.min(dim=1, keepdim=True).values
        worst = torch.where(self.is_finished, worst, _NEVER)
        return (~(best_running > worst).any(dim=-1)).tolist()

    def best(self, question: int) -> list[int]:
        """Ids of the best beam that finished."""
        ids = self.finished[question, 0].tolist()
        return ids[: ids.index(_NOTHING)] if _NOTHING in ids else ids
