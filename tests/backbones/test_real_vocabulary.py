"""Prompts, answers and end markers with a real vocabulary: 32,000 pieces of a sentencepiece model.

`mistral-common` brings one of LLaMA's kind: byte pieces, digits apart, a leading blank.
"""

import json
import shutil
from pathlib import Path

import mistral_common
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hadpo.backbones import instructblip, llava, minigpt4, mplug_owl
from hadpo.vlm import export
from hadpo.vlm.prompt import IMAGE, LlamaTokenizer

MODEL = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    shutil.copy(MODEL, folder / "tokenizer.model")
    return LlamaTokenizer(folder)


def pieces(tokenizer, ids):
    """The pieces by a blank; `[image]` for the image."""
    names = (("[image]",) if i == IMAGE else tokenizer.pieces([i]) for i in ids)
    return " ".join(name for (name,) in names)


def test_it_is_llamas_kind(tokenizer):
    assert tokenizer.vocab_size == 32000
    assert tokenizer.special_ids == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert tokenizer.eos == 2 and tokenizer.splits_at_blanks


@pytest.mark.parametrize(
    ("prompt", "person"), [(llava.VICUNA.train, "user"), (llava.VICUNA.evaluate, "human")]
)
def test_llavas_prompts_byte_by_byte(prompt, person):
    """conv_vicuna_v1 trains, llava_v1 evaluates: `user` there, `human` here, nothing else."""
    assert prompt.text.encode() == (
        b"<s>A chat between a curious " + person.encode() + b" and an artificial intelligence "
        b"assistant. The assistant gives helpful, detailed, and polite answers to the "
        + person.encode()
        + b"'s questions. USER: <image>\n{instruction} ASSISTANT:"
    )
    assert llava.VARIANTS["1.5-7b"].prompts == llava.VARIANTS["1.5-13b"].prompts == llava.VICUNA


SYSTEM = (
    "<s> ▁A ▁chat ▁between ▁a ▁curious ▁human ▁and ▁an ▁artificial ▁intelligence ▁assistant . "
    "▁The ▁assistant ▁gives ▁helpful , ▁detailed , ▁and ▁polite ▁answers ▁to ▁the ▁human ' s "
    "▁questions ."
)
PROVIDED = (
    "<s> ▁Give ▁the ▁following ▁image : ▁< Img > Image Content </ Img >. ▁You ▁will ▁be ▁able ▁to "
    "▁see ▁the ▁image ▁once ▁I ▁provide ▁it ▁to ▁you . ▁Please ▁answer ▁my ▁questions ."
)
OWL = (
    "<s> ▁The ▁following ▁is ▁a ▁conversation ▁between ▁a ▁curious ▁human ▁and ▁AI ▁assistant . "
    "▁The ▁assistant ▁gives ▁helpful , ▁detailed , ▁and ▁polite ▁answers ▁to ▁the ▁user ' s "
    "▁questions ."
)
BLIP = instructblip.VARIANTS["vicuna7b"].prompts
OWLS = mplug_owl.VARIANTS["llama-7b"].prompts
LRV = mplug_owl.VARIANTS["lrv-v2"].prompts
ASKED = [  # the whole of each prompt for "Is it red?"; a lone ▁ stands on both sides of an image
    (
        llava.VICUNA.evaluate,
        SYSTEM + " ▁US ER : ▁ [image] ▁ <0x0A> Is ▁it ▁red ? ▁ASS IST ANT :",
    ),
    (
        minigpt4.LLAMA2.train,
        "<s> ▁[ INST ] ▁< Img > [image] ▁</ Img > ▁Is ▁it ▁red ? ▁[ / INST ] ▁",
    ),
    (
        minigpt4.LLAMA2_HADPO.evaluate,
        PROVIDED + " <s> ▁[ INST ] ▁< Img > [image] ▁</ Img > ▁Is ▁it ▁red ? ▁[ / INST ]",
    ),
    (
        minigpt4.VICUNA0.evaluate,
        PROVIDED + " ### H uman : ▁< Img > [image] ▁</ Img > ▁Is ▁it ▁red ? ### Ass istant : ▁",
    ),
    (BLIP.evaluate, "[image] </s> ▁Is ▁it ▁red ?"),
    (
        OWLS.train,
        OWL + " ▁ <0x0A> H uman : ▁ [image] ▁ <0x0A> H uman : ▁ ▁Is ▁it ▁red ? <0x0A> ▁AI : ▁",
    ),
    (
        OWLS.evaluate,
        OWL + " <0x0A> H uman : ▁ [image] ▁ <0x0A> H uman : ▁Is ▁it ▁red ? <0x0A> AI : ▁",
    ),
    (
        LRV.evaluate,
        OWL.replace("▁AI ▁assistant .", "▁AI .")
        .replace("The ▁assistant", "The ▁AI")
        .replace("▁user", "▁human")
        + " <0x0A> H uman : ▁ [image] ▁ <0x0A> H uman : ▁Is ▁it ▁red ? <0x0A> AI :",
    ),
]


@pytest.mark.parametrize(("prompt", "expected"), ASKED)
def test_every_piece_of_every_prompt(tokenizer, prompt, expected):
    assert pieces(tokenizer, prompt.tokenize("Is it red?", tokenizer)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No dog.", "▁No ▁dog ."),
        (" No  dog. ", "▁ ▁No ▁ ▁dog . ▁"),
        ("A\n\nB", "▁A <0x0A> <0x0A> B"),
        ("12 cups", "▁ 1 2 ▁cups"),
        ("caf\u00e9 \u65e5 \U0001fae0", "▁café ▁ 日 ▁ <0xF0> <0x9F> <0xAB> <0xA0>"),
        ("</s> <s> <image>", "▁</ s > ▁< s > ▁< image >"),
        ("", ""),
    ],
)
def test_blanks_digits_bytes_and_marks_inside_a_text(tokenizer, text, expected):
    ids = tokenizer.encode(text)
    assert pieces(tokenizer, ids) == expected
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids) == text


class Spoken(minigpt4.MiniGPT4):
    """Only what turns answers into ids: no weights."""

    def __init__(self, tokenizer, variant):
        self.__dict__["tokenizer"] = tokenizer
        self.__dict__["declared"] = minigpt4.VARIANTS[variant]


def test_answers_and_their_end_markers(tokenizer):
    word = Spoken(tokenizer, "llama2")
    assert pieces(tokenizer, word.response_ids("No dog.")) == "▁No ▁dog . </s>"
    assert word.end_ids == [2]
    marked = Spoken(tokenizer, "vicuna0")
    assert pieces(tokenizer, marked.response_ids("No dog.")) == "▁No ▁dog . ###"
    # The marker has two spellings: behind a sentence, and at the start of a text.
    assert [pieces(tokenizer, ids) for ids in marked._spellings] == ["###", "▁###"]
    assert marked.decode(tokenizer.encode("A cup.###Human: and?###Assistant: more")) == "A cup."


def test_several_turns_follow_each_other(tokenizer):
    again = llava.VICUNA.again
    ids = llava.VICUNA.evaluate.tokenize("Is it red?", tokenizer)
    ids += [*tokenizer.encode("No."), *again.tokenize("Why?", tokenizer)]
    assert pieces(tokenizer, ids) == (
        SYSTEM + " ▁US ER : ▁ [image] ▁ <0x0A> Is ▁it ▁red ? ▁ASS IST ANT : ▁No . "
        "</s> ▁US ER : ▁Why ? ▁ASS IST ANT :"
    )
    later = minigpt4.VICUNA0.again.tokenize("Why?", tokenizer)
    assert pieces(tokenizer, later) == "▁### H uman : ▁Why ? ### Ass istant : ▁"


def texts(shared):
    """Questions and answers of the photo set, whatever files of it are there."""
    for path in sorted((shared / "data" / "photoset").rglob("*.json*")):
        try:
            lines = path.read_text().splitlines()
            values = [json.loads(path.read_text())] if path.suffix == ".json" else lines
        except (json.JSONDecodeError, UnicodeDecodeError):
            values = lines
        for value in values:
            yield from strings(json.loads(value) if isinstance(value, str) else value)


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    """The same vocabulary as transformers reads what we export."""
    folder = tmp_path_factory.mktemp("theirs")
    export.write_tokenizer(folder, tokenizer, first="<s>")
    return AutoTokenizer.from_pretrained(folder)


def test_texts_of_the_photo_set(tokenizer, theirs, shared):
    found = sorted({text for text in texts(shared) if text.strip()})[::7]
    assert len(found) > 20
    for text in found:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and not {0, 1, 2} & set(ids)
        assert theirs.encode(text, add_special_tokens=False) == ids, text
        prompt = llava.VICUNA.evaluate.tokenize(text, tokenizer)
        place = prompt.index(IMAGE)
        whole = llava.VICUNA.evaluate.text.removeprefix("<s>").replace("{instruction}", text)
        assert theirs.encode(whole) == [*prompt[:place], 0, *prompt[place + 1 :]]


MARKS = ("<s>", "</s>", "<image>", "\0")


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=40) | st.text(" ab.\n#<>/s12é☃", max_size=30))
def test_the_export_reads_every_text_alike(tokenizer, theirs, text):
    if any(mark in text for mark in MARKS) or not text:
        return
    ids = tokenizer.encode(text)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.encode(text)[0] == 1 and theirs.decode(ids) == tokenizer.decode(ids)
