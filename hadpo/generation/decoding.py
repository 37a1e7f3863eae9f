"""How the next token is chosen: greedy, sampled, or by beam search; and the published ways.

Penalties and the choice of what may be sampled are transformers' logits processors.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hadpo.records import BadInput

_MOST = 100_000  # of beams, or tokens of an answer: room for all of them is taken at once


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
        several, drawn = self.beams > 1, self.temperature > 0
        narrows = bool(self.top_k) or self.top_p < 1
        wrong = {
            f"beams and max_new_tokens start at 1 and end at {_MOST}, found "
            f"beams={self.beams}, max_new_tokens={self.max_new_tokens}": (
                not (1 <= self.beams <= _MOST and 1 <= self.max_new_tokens <= _MOST)
            ),
            "temperature must not be negative and repetition_penalty must be positive, found "
            f"{self.temperature} and {self.repetition_penalty}": (
                self.temperature < 0 or self.repetition_penalty <= 0
            ),
            "expected top_k and no_repeat_ngram of 0 or more and top_p above 0 to 1, found "
            f"{self.top_k}, {self.no_repeat_ngram} and {self.top_p}": (
                self.top_k < 0 or self.no_repeat_ngram < 0 or not 0 < self.top_p <= 1
            ),
            "top_k and top_p need a temperature above 0": narrows and not drawn,
            "no_repeat_ngram works with 1 beam only": several and self.no_repeat_ngram,
            "beams are not sampled; set temperature to 0": several and drawn,
            f"a beam that stops at {self.stop_at!r} would compete with longer ones, which gives "
            "other answers; use 1 beam, or do not stop there": several and self.stop_at,
        }
        for why, is_wrong in wrong.items():
            if is_wrong:
                raise BadInput(f"decoding {self.name!r}: {why}")


_PRESETS = (
    Decoding(name="greedy"),
    # FuxiaoLiu/LRV-Instruction, MiniGPT-4/minigpt4/conversation/conversation.py: the demo
    Decoding(name="lrv-v1", temperature=1.0, top_p=0.9, max_new_tokens=300),
    # FuxiaoLiu/LRV-Instruction, utils/inference.py; a ban on repeated pairs of tokens hurts facts
    Decoding(
        name="lrv-v2", temperature=1.0, top_k=3, top_p=0.9, no_repeat_ngram=2, max_new_tokens=512
    ),
    # Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py
    Decoding(
        name="minigpt4", temperature=1.0, top_p=0.9, repetition_penalty=1.05, max_new_tokens=300
    ),
)
PRESETS = {preset.name: preset for preset in _PRESETS}


def next_tokens(
    scores: Float[Tensor, "rows vocab"],
    generated: Int[Tensor, "rows length"],
    decoding: Decoding,
    generators: Sequence[torch.Generator],
) -> Int[Tensor, " rows"]:
    """The next token of each row: the likeliest one, or drawn if the temperature is above 0.

    Args:
        scores: logits of the next token.
        generated: ids that were chosen before.
        decoding: of one beam.
        generators: each row's own random numbers, for sampling.
    """
    scores = penalised(scores, generated, decoding)
    if not decoding.temperature:
        return scores.argmax(dim=-1)
    return sampled(narrowed(scores, decoding), generators)


def penalised(
    scores: Float[Tensor, "rows vocab"], generated: Int[Tensor, "*rows length"], decoding: Decoding
) -> Float[Tensor, "rows vocab"]:
    """Scores with generated tokens made less likely, and repeated runs of tokens impossible.

    The penalty is CTRL's (Keskar et al. 2019, section 4.1): scores below 0 are multiplied, others
    divided by it; a token counts once however often it was generated.
    """
    processors = LogitsProcessorList()
    if decoding.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)))
    if decoding.no_repeat_ngram:
        processors.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram))
    if not processors:
        return scores
    ids: Any = generated.flatten(0, -2)
    return processors(ids, scores)  # type: ignore[arg-type]


def narrowed(
    scores: Float[Tensor, "rows vocab"], decoding: Decoding
) -> Float64[Tensor, "rows vocab"]:
    """Scores over the temperature, of what may be sampled; the others are -inf."""
    warpers = LogitsProcessorList()
    if decoding.top_k:
        warpers.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        warpers.append(TopPLogitsWarper(decoding.top_p))
    unread: Any = None  # a warper looks at scores only
    return warpers(unread, scores.double() / decoding.temperature)  # type: ignore[arg-type]


def sampled(
    scores: Float[Tensor, "rows vocab"], generators: Sequence[torch.Generator]
) -> Int[Tensor, " rows"]:
    """One token per row, drawn from softmax(scores) by the row's own random number."""
    shares = scores.double().softmax(dim=-1).cumsum(dim=-1).cpu()
    drawn = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    tokens = torch.searchsorted(shares, drawn * shares[:, -1:], right=True)
    return tokens.squeeze(1).clamp(max=scores.shape[1] - 1).to(scores.device)


def generator(decoding: Decoding, question: str) -> torch.Generator:
    """Random numbers of one question: they depend on nothing that is asked beside it."""
    digest = hashlib.sha256(f"{decoding.seed}/{question}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
