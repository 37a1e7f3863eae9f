"""A prompt template is one string with markers: <s>, <image>, {instruction}, and <|> for a cut."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

IMAGE = -200  # placeholder id of the image tokens; it never reaches the embedding table
_MARKERS = re.compile(r"(<s>|</s>|<unk>|<image>|<\|>)")


@runtime_checkable
class Tokenizer(Protocol):
    """What a template needs of a tokenizer."""

    special_ids: dict[str, int]

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class PromptTemplate:
    """The words around an instruction, as the authors wrote them.

    The template is split at its markers before the instruction is filled in, so that markers inside
    an instruction stay plain text. Each piece between two markers is tokenised on its own, as the
    originals do; `<|>` is nothing but such a border.
    """

    text: str

    def tokenize(self, instruction: str, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the prompt, with one `IMAGE` where the image tokens go."""
        ids: list[int] = []
        pieces = _MARKERS.split(self.text)
        for i, piece in enumerate(pieces):
            if piece == "<image>":
                ids.append(IMAGE)
            elif piece == "<|>":
                continue
            elif i % 2:  # odd pieces are the markers that `split` captured
                ids.append(tokenizer.special_ids[piece])
            else:
                before, after = pieces[i - 1 : i], pieces[i + 1 : i + 2]
                piece = _strip(piece, before, str.lstrip)
                piece = _strip(piece, after, str.rstrip)
                ids += tokenizer.encode(piece.replace("{instruction}", instruction))
        return ids


def _strip(piece: str, neighbour: Sequence[str], strip: Callable[[str], str]) -> str:
    """The legacy tokenizer drops blanks beside its own marks only."""
    return strip(piece) if neighbour and neighbour[0] not in ("<image>", "<|>") else piece


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The authors' own prompts; where the two differ, the difference is theirs."""

    train: PromptTemplate
    evaluate: PromptTemplate
    again: PromptTemplate | None = None  # from the end of an answer to the next; None: one question
    again_image: PromptTemplate | None = None  # the same with another image; None: one image
