"""How the next token is chosen: greedy, sampled, or by beam search."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadpo.records import BadInput


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """A named way to decode; `temperature` 0 is greedy or, with several beams, beam search."""

    name: str
    beams: int = 1
    max_new_tokens: int = 512
    temperature: float = 0.0
    repetition_penalty: float = 1.0  # over generated tokens only, never over the prompt
    length_penalty: float = 1.0  # exponent of a beam's length in its score
    top_k: int = 0  # sample among so many; 0: all
    top_p: float = 1.0  # sample among the likeliest that have this share together
    no_repeat_ngram: int = 0  # no run of so many tokens twice in an answer; 0: allowed
    seed: int = 0  # of sampling
    stop_at: str = ""  # a character of the text that ends an answer; "": none does

    def __post_init__(self) -> None:
        if self.beams < 1 or self.max_new_tokens < 1:
            raise BadInput(
                f"decoding {self.name!r}: beams and max_new_tokens start at 1, found "
                f"beams={self.beams}, max_new_tokens={self.max_new_tokens}"
            )
        if self.temperature < 0 or self.repetition_penalty <= 0:
            raise BadInput(
                f"decoding {self.name!r}: temperature must not be negative and repetition_penalty "
                f"must be positive, found {self.temperature} and {self.repetition_penalty}"
            )
        if self.top_k < 0 or self.no_repeat_ngram < 0 or not 0 < self.top_p <= 1:
            raise BadInput(
                f"decoding {self.name!r}: expected top_k and no_repeat_ngram of 0 or more and "
                f"top_p above 0 to 1, found {self.top_k}, {self.no_repeat_ngram} and {self.top_p}"
            )
        if (self.top_k or self.top_p < 1) and not self.temperature:
            raise BadInput(f"decoding {self.name!r}: top_k and top_p need a temperature above 0")
        if self.beams > 1 and self.no_repeat_ngram:
            raise BadInput(f"decoding {self.name!r}: no_repeat_ngram works with 1 beam only")
        if self.beams > 1 and self.temperature > 0:
            raise BadInput(f"decoding {self.name!r}: beams are not sampled; set temperature to 0")
        if self.beams > 1 and self.stop_at:
            raise BadInput(
                f"decoding {self.name!r}: a beam that stops at {self.stop_at!r} would compete with "
                "longer ones, which gives other answers; use 1 beam, or do not stop there"
            )


def penalised(
    scores: Float[Tensor, "rows vocab"], generated: Int[Tensor, "rows length"], penalty: float
) -> Float[Tensor, "rows vocab"]:
    """Scores with every generated token made less likely (CTRL, Keskar et al. 2019, section 4.1).

    Scores below 0 are multiplied, others divided by the penalty; a token counts once however often
    it was generated. Ids below 0 in `generated` are padding.
    """
    if penalty == 1.0 or not generated.shape[1]:
        return scores
    index = generated.clamp(min=0)
    old = scores.gather(1, index)
    new = torch.where(old < 0, old * penalty, old / penalty)
    return scores.scatter(1, index, torch.where(generated < 0, old, new))


def without_repeats(
    scores: Float[Tensor, "rows vocab"], generated: Int[Tensor, "rows length"], size: int
) -> Float[Tensor, "rows vocab"]:
    """Scores in which no token completes a run of `size` tokens that was generated before."""
    if not size or generated.shape[1] < size:
        return scores
    scores = scores.clone()
    for row, ids in enumerate(generated.tolist()):
        end = ids[len(ids) - size + 1 :]
        starts = range(len(ids) - size + 1)
        banned = [ids[i + size - 1] for i in starts if ids[i : i + size - 1] == end]
        scores[row, banned] = -torch.inf
    return scores


def narrowed(
    scores: Float[Tensor, "rows vocab"], decoding: Decoding
) -> Float[Tensor, "rows vocab"]:
    """Scores of what may be sampled, the others -inf; top_k first, as in transformers."""
    if 0 < decoding.top_k < scores.shape[-1]:
        least = scores.topk(decoding.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if decoding.top_p < 1:
        sorted_scores, order = scores.sort()  # the unlikeliest first
        shares = (sorted_scores.double() / decoding.temperature).softmax(-1).cumsum(-1)
        gone = shares <= 1 - decoding.top_p
        gone[:, -1] = False
        scores = scores.masked_fill(gone.scatter(1, order, gone), -torch.inf)
    return scores


def generator(decoding: Decoding, question: str) -> torch.Generator:
    """Random numbers of one question: they depend on nothing that is asked beside it."""
    digest = hashlib.sha256(f"{decoding.seed}/{question}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def sampled(
    scores: Float[Tensor, "rows vocab"], temperature: float, generators: list[torch.Generator]
) -> Int[Tensor, " rows"]:
    """One token per row, drawn from softmax(scores / temperature) by its own random number."""
    shares = (scores.double() / temperature).softmax(dim=-1).cumsum(dim=-1).cpu()
    drawn = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    found = torch.searchsorted(shares, drawn * shares[:, -1:], right=True)
    return found.squeeze(1).clamp(max=scores.shape[1] - 1).to(scores.device)
