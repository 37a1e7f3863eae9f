"""Prompts: markers, the token orders of the four families, and ids as the originals had them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hadpo.vlm.prompt import IMAGE, LlamaTokenizer, PromptTemplate

TURN = "USER: <image>\n{instruction} ASSISTANT:"
ORDERS = {  # how the four families arrange begin marker, image tokens and instruction
    "llava": "<s>A chat. " + TURN,
    "instructblip": "<image></s>{instruction}",
    "minigpt4": "<s>[INST] <Img><image></Img> {instruction} [/INST] ",
    "minigpt4 evaluate": "<s>Please answer.<s>[INST] <Img><image></Img> {instruction} [/INST]",
    "mplug_owl": "<s>A chat.<|>\nHuman: <image><|>\nHuman: <|>{instruction}\n<|>AI: ",
}


class Letters:
    """One id per letter."""

    def __init__(self):
        self.special_ids = {"<s>": 1, "</s>": 2, "<unk>": 0}

    def encode(self, text):
        return [ord(c) for c in text]


@pytest.mark.parametrize("text", ORDERS.values(), ids=ORDERS)
def test_markers_in_the_instruction_stay_text(text):
    plain = PromptTemplate(text).tokenize("QQ", Letters())
    marked = PromptTemplate(text).tokenize("an <image> and <s> and {instruction}", Letters())
    assert marked.count(IMAGE) == plain.count(IMAGE) == 1
    assert [i for i in marked if i in (1, 2)] == [i for i in plain if i in (1, 2)] != []
    assert "an <image> and <s>" in "".join(map(chr, (i for i in marked if i > 2)))
    assert marked.index(IMAGE) == plain.index(IMAGE)


def test_orders_differ_where_the_families_differ():
    ids = {name: PromptTemplate(text).tokenize("Q", Letters()) for name, text in ORDERS.items()}
    assert ids["instructblip"] == [IMAGE, 2, ord("Q")]
    assert ids["llava"][0] == 1 and ids["llava"][-1] == ord(":")
    assert ids["minigpt4"][-1] == ord(" ")
    assert ids["minigpt4 evaluate"].count(1) == 2


@pytest.fixture(scope="module")
def golden_tokenizer(shared):
    return LlamaTokenizer(shared / "golden" / "tokenizers" / "llama_tiny")


@pytest.fixture(scope="module")
def golden(shared):
    def read(name):
        path = shared / "golden" / "tokenizers" / name
        return json.loads(path.read_text())

    return read


def test_ids_of_the_legacy_tokenizer(golden, golden_tokenizer):
    cases = [c for c in golden("token_cases.json")["cases"] if c["tokenizer"] == "llama_tiny"]
    assert len(cases) > 50
    for case in cases:
        ids = PromptTemplate(case["text"]).tokenize("", golden_tokenizer)
        bos = [golden_tokenizer.bos] if case["add_special_tokens"] else []
        assert bos + ids == case["ids"], case["text"]


def test_ids_of_all_prompts_of_all_families(golden, golden_tokenizer):
    found = golden("prompt_cases.json")
    for name, cases in found.items():
        segments = [segment for case in cases for segment in _segments(name, case)]
        assert len(segments) >= len(cases) > 0
        for text, ids in segments:
            assert PromptTemplate(text).tokenize("", golden_tokenizer) == ids, (name, text)


def _segments(name, case):
    """Texts that an original tokenised on its own, with the ids it got; -1 or -200 are images."""
    if name.startswith("llava"):
        yield "<s>" + case["prompt"], case["ids"]
    elif name.startswith("instructblip"):
        yield "</s>" + case["prompt"], case["ids_prompt"]
        yield case["answer"], case["ids_answer"]
    elif name.startswith("mplug") and "training" in name:
        text = (
            case["text"].replace("\nHuman: ", "<|>\nHuman: <|>").replace("\nAI: ", "\n<|>AI: <|>")
        )
        yield "<s>" + text + "</s>", _with_one_image(case["ids"])
    elif name.startswith("mplug"):
        yield "<s>" + case["prompt"], _with_one_image(case["ids"])
    elif name.startswith("minigpt4") and "training" in name:
        before, after = case["prompt"].split("<ImageHere>")
        yield before, case["before"]
        yield after, case["after"]
        yield case["answer"], case["answer_ids"]
    elif name.startswith("minigpt4"):
        before, after = case["prompt"].split("<ImageHere>")
        yield "<s>" + before, case["before"]
        yield after, case["after"]


def _with_one_image(ids):
    kept = [i for k, i in enumerate(ids) if not (i == -1 and ids[k - 1] == -1)]
    return [IMAGE if i == -1 else i for i in kept]


@settings(deadline=None, max_examples=60)
@given(
    question=st.text("ab ?<>image\n", max_size=20),
    answer=st.text("No dog.\n  12é☃</s>", max_size=30),
)
def test_prompt_ids_are_a_prefix_of_prompt_and_answer(tiny_tokenizer, question, answer):
    """LLaVA's originals tokenise the answer together with the words before it."""
    template = PromptTemplate("<s>" + TURN)
    prompt = template.tokenize(question, tiny_tokenizer)
    together = f"\n{question} ASSISTANT: {answer}"
    joined = prompt[: prompt.index(IMAGE) + 1] + tiny_tokenizer.encode(together)
    apart = prompt + tiny_tokenizer.encode(answer)
    if not answer:  # the originals then keep a lone blank before the end marker
        assert joined[:-1] == apart
    else:
        assert joined == apart


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_files):
    return LlamaTokenizer(tiny_files["language_model"])
