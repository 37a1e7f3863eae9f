"""The tokenizer itself: control tokens, decoding, and files that are no tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo.records import BadInput
from hadpo.vlm.prompt import LlamaTokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_files):
    return LlamaTokenizer(tiny_files["language_model"])


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40).filter(lambda t: t == t.lstrip() and "▁" not in t and "\0" not in t))
def test_decode_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_never_becomes_a_control_token(tokenizer):
    ids = tokenizer.encode("a <s> b </s> <unk>")
    assert not {tokenizer.bos, tokenizer.eos, 0} & set(ids)


def test_control_tokens_and_rows_beyond_the_vocabulary_have_no_text(tokenizer):
    ids = [
        tokenizer.bos,
        *tokenizer.encode("No dog."),
        tokenizer.eos,
        tokenizer.vocab_size + 3,
        -200,
    ]
    assert tokenizer.decode(ids) == "No dog."


def test_pieces_show_every_id(tokenizer):
    ids = [tokenizer.bos, *tokenizer.encode("No"), tokenizer.eos]
    pieces = tokenizer.pieces(ids)
    assert pieces[0] == "<s>" and pieces[-1] == "</s>" and len(pieces) == len(ids)
    assert "".join(pieces[1:-1]) == "▁No"


def test_no_piece_runs_over_a_blank(tokenizer):
    assert tokenizer.splits_at_blanks


def test_missing_file_says_what_is_there(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"no tokenizer\.model \(found tokenizer\.json\)"):
        LlamaTokenizer(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        LlamaTokenizer(tmp_path / "nowhere")


def test_a_pointer_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadInput, match=r"no sentencepiece model .*git-lfs"):
        LlamaTokenizer(tmp_path)
