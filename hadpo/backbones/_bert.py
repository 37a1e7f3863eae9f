"""BERT's word pieces, as InstructBLIP's Q-Former reads its instruction."""

from pathlib import Path

from transformers import BertTokenizer

from hadpo.records import BadInput

_MOST = 128  # ids of a text, marks included: max_txt_len of blip2_vicuna_instruct.py
_EXTRA = "[DEC]"  # Blip2Base.init_tokenizer adds it; no instruction uses it


class WordPieces:
    """Text to ids: [CLS], the last word pieces that fit, [SEP].

    Args:
        folder: holds `vocab.txt` of bert-base-uncased.

    Raises:
        BadInput: no such file, or one without BERT's marks.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "vocab.txt"
        if not self.path.is_file():
            raise BadInput(f"{folder}: no vocab.txt; copy it from bert-base-uncased")
        lines = set(self.path.read_text(encoding="utf-8").splitlines())
        missing = [mark for mark in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if mark not in lines]
        if missing:
            raise BadInput(f"{self.path}: no {', '.join(missing)}; BERT's vocab.txt has them")
        self._tokenizer = BertTokenizer.from_pretrained(folder, do_lower_case=True)
        self._tokenizer.add_special_tokens({"bos_token": _EXTRA})

    @property
    def vocab_size(self) -> int:
        """Number of pieces, [DEC] included: rows of the Q-Former's table of words."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; of a long one, its end."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        start, end = self._tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        return [start, *ids[-(_MOST - 2) :], end]
