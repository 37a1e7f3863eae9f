"""Prompts as the authors wrote them, and the tokenizer that turns them into ids.

A template is one string with markers: <s>, </s>, <image>, {instruction}, and <|> for a cut.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import sentencepiece

from hadpo.records import BadInput

IMAGE = -200  # placeholder id of the image tokens; it never reaches the embedding table
_MARKERS = re.compile(r"(<s>|</s>|<unk>|<image>|<\|>)")
_LEAST_USED = 0.9  # share of a model's rows that are pieces; a few rows more are padding
_SPACE_INSIDE = re.compile("[^▁]▁")


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
    """The authors' own prompts; if the two differ, they differ in the original."""

    train: PromptTemplate
    evaluate: PromptTemplate
    again: PromptTemplate | None = None  # from the end of an answer to the next; None: one question
    again_image: PromptTemplate | None = None  # the same with another image; None: one image
    image_part: str = ""  # what a question without an image leaves out; "": each needs an image


class LlamaTokenizer:
    """LLaMA's text to ids and back, straight from `tokenizer.model`, as the originals did it.

    Args:
        folder: holds `tokenizer.model`.

    Raises:
        BadInput: no such file, or it is no sentencepiece model.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokenizer.model"
        if not self.path.is_file():
            raise BadInput(
                f"{folder}: no tokenizer.model (found {_some_names(folder)}); "
                "copy it from the authors' checkpoint into this folder"
            )
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(self.path.read_bytes())
        except RuntimeError as error:
            start = self.path.read_bytes()[:40]
            raise BadInput(
                f"{self.path}: no sentencepiece model (starts with {start!r}); download it again"
            ) from error

    @property
    def vocab_size(self) -> int:
        """Number of pieces; a model may have more rows, which no text uses."""
        return self._pieces.GetPieceSize()

    def check_rows(self, rows: int, *, where: str) -> None:
        """Refuse a model that has fewer rows than there are pieces, or many more.

        Raises:
            BadInput: names both files.
        """
        if not _LEAST_USED * rows <= self.vocab_size <= rows:
            raise BadInput(
                f"{self.path}: {self.vocab_size} pieces, but {where} says "
                f"vocab_size {rows}; they are of different models"
            )

    @property
    def bos(self) -> int:
        """Id of <s>."""
        return self._pieces.bos_id()

    @property
    def eos(self) -> int:
        """Id of </s>, the end marker of an answer."""
        return self._pieces.eos_id()

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """Ids of the marks that a prompt template may use."""
        return {"<s>": self.bos, "</s>": self.eos, "<unk>": self._pieces.unk_id()}

    @cached_property
    def splits_at_blanks(self) -> bool:
        """Whether no piece runs over a blank.

        Then text before a blank and text from it on can be tokenised apart or together with the
        same ids, so the ids of a prompt are a prefix of the ids of prompt and answer.
        """
        pieces = (self._pieces.IdToPiece(i) for i in range(self.vocab_size))
        return not any(_SPACE_INSIDE.search(piece) for piece in pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with the leading blank that LLaMA puts before every text."""
        return self._pieces.EncodeAsIds(text)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The pieces of `ids` as they stand in the vocabulary, control tokens too."""
        return [self._pieces.IdToPiece(i) if i < self.vocab_size else f"<{i}>" for i in ids]

    def merge_order(self) -> list[str]:
        """All pieces, those first that are put together first; runs of blanks are the last."""
        ids = sorted(range(self.vocab_size), key=lambda i: (-self._pieces.GetScore(i), i))
        return self.pieces(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; control tokens and ids beyond the vocabulary have none."""
        control = set(self.special_ids.values())
        known = [i for i in ids if 0 <= i < self.vocab_size and i not in control]
        return self._pieces.DecodeIds(known)


def _some_names(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder"
