"""LLaMA's tokenizer, read straight from `tokenizer.model`: ids as the originals got them.

The tokenizers of today's transformers differ from those ids around blanks and special tokens, so
sentencepiece is used as it is. A text never turns into control tokens: `</s>` in an answer is four
characters, not the end of the answer.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import sentencepiece

from hadpo.records import BadInput

_LEAST_USED = 0.9  # share of a model's rows that are pieces; a few rows more are padding
_SPACE_INSIDE = re.compile("[^▁]▁")


class LlamaTokenizer:
    """Text to ids and back.

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

        Args:
            rows: of the model's embedding table.
            where: the file that says so, for the message.

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

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; control tokens and ids beyond the vocabulary have none."""
        control = set(self.special_ids.values())
        known = [i for i in ids if 0 <= i < self.vocab_size and i not in control]
        return self._pieces.DecodeIds(known)


def _some_names(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder"
