"""The authors' MiniGPT-4 and InstructBLIP against ours: numbers, ids, and wrong choices.

Sizes, texts and tolerances come from the recordings; `pytest -s` shows the largest differences.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from hadpo import batch
from hadpo.vlm.prompt import IMAGE

CASES = ["minigpt4_llama2", "minigpt4_vicuna0", "instructblip_vicuna"]


@pytest.fixture(params=CASES)
def recording(request, recordings):
    return recordings[request.param]


def test_numbers(recordings):
    assert len(recordings) >= len(CASES)
    for name, recording in recordings.items():
        found = recording.measure(recording.load())
        limits = {"token_logps": recording.tolerance["logits"], **recording.tolerance}
        for what, most in found.items():
            print(f"golden {name} {what}: {most:.2e} (tolerance {limits[what]:.0e})")  # noqa: T201
        assert len(found) == 6
        assert all(most <= limits[what] for what, most in found.items()), name


def test_states_of_encoder_and_qformer(recording):
    backbone = recording.load()
    with torch.no_grad():
        states = backbone.vision(recording.inputs["pixel_values"])
        assert (states - recording.outputs["vit_features"]).abs().max() < 3e-5
        if recording.case == "instructblip_vicuna":
            text = recording.inputs["qformer_input_ids"]
            is_text = recording.inputs["qformer_attention_mask"].bool()
            found = backbone.connector.states(backbone.vision.ln_vision(states), text, is_text)
            seen = torch.cat([torch.ones(len(text), backbone.num_image_tokens), is_text], 1).bool()
            difference = (found - recording.outputs["qformer_output"])[seen].abs().max()
            assert difference < recording.tolerance["qformer_output"]


def test_rows_are_the_recorded_ids(recording):
    backbone = recording.load()
    pairs = recording.pairs()
    examples = [batch.tokenize(backbone, pair, max_length=4096) for pair in pairs]
    rows = [[*e.prefix, *e.chosen] for e in examples] + [[*e.prefix, *e.rejected] for e in examples]
    assert recording.meta["image_placeholder_in_ids"] == IMAGE
    for k, row in enumerate(rows):
        real = recording.inputs["concat_attention_mask"][k].bool()
        assert row == recording.inputs["concat_input_ids"][k][real].tolist()
        labels = recording.inputs["concat_labels"][k]
        answer = (examples[k % len(pairs)].chosen, examples[k % len(pairs)].rejected)
        assert labels[labels != -100].tolist() == list(answer[k // len(pairs)])


def cut_at_image(ids):
    return ids[: ids.index(IMAGE)], ids[ids.index(IMAGE) + 1 :]


@pytest.mark.parametrize("case", CASES[:2])
def test_inference_prompts_of_minigpt4(recordings, case):
    recording = recordings[case]
    backbone = recording.load()
    pixels = recording.inputs["pixel_values"][:1]
    cases = recording.texts["inference_side"]
    assert cases
    for text in cases:
        ids = backbone.prompt_ids(text["question"], prompt="evaluate")
        assert list(cut_at_image(ids)) == text["segment_ids"]
        at = len(ids) - 1
        state = backbone.prefill([backbone.expand(ids)[:-1]], backbone.image_tokens(pixels))
        logits, _ = backbone.extend(state, [ids[at:]])
        if text is cases[0]:  # the recording does not say of which picture; the first it is
            assert int(logits.argmax()) == text["next_token_argmax"]


def test_all_recorded_prompts_of_minigpt4(recordings, shared):
    texts = json.loads((shared / "golden" / "tokenizers" / "prompt_cases.json").read_text())
    for case in CASES[:2]:
        recording = recordings[case]
        backbone = recording.load()
        train, evaluate = texts[f"{case} training"], texts[f"{case} inference"]
        assert train and evaluate
        end = recording.meta["configs"]["minigpt4"]["end_sym"]
        for text in train:
            ids = backbone.prompt_ids(recording.question(text["prompt"]), prompt="train")
            assert cut_at_image(ids) == ([text["bos"], *text["before"]], text["after"])
            answer = text["answer"].removesuffix(end)
            assert backbone.response_ids(answer) == text["answer_ids"]
        for text in evaluate:
            question = text["prompt"].rpartition("</Img> ")[2]
            question = question.removesuffix(" [/INST] ").removesuffix("###Assistant: ")
            ids = backbone.prompt_ids(question, prompt="evaluate")
            assert cut_at_image(ids) == (text["before"], text["after"])


def test_all_recorded_prompts_of_instructblip(recordings, shared):
    texts = json.loads((shared / "golden" / "tokenizers" / "prompt_cases.json").read_text())
    recording = recordings["instructblip_vicuna"]
    backbone = recording.load()
    cases = [*texts["instructblip_vicuna"], *recording.texts]
    assert len(cases) > len(recording.texts) > 0
    for text in cases:
        for prompt in ("train", "evaluate"):
            ids = backbone.prompt_ids(text["prompt"], prompt=prompt)
            assert ids == [IMAGE, *text["ids_prompt"]]
        assert backbone.response_ids(text["answer"].removesuffix("</s>")) == text["ids_answer"]
        assert backbone.word_pieces.encode(text["prompt"]) == text["qformer_ids"]


def test_token_cases_of_bert(shared, bert):
    from hadpo.vlm.qformer import WordPieces

    cases = json.loads((shared / "golden" / "tokenizers" / "token_cases.json").read_text())["cases"]
    pieces = WordPieces(bert)
    mine = [case for case in cases if case["tokenizer"] == "bert_tiny"]
    for case in mine:
        ids = pieces.encode(case["text"])
        assert (ids if case["add_special_tokens"] else ids[1:-1]) == case["ids"]


def test_recorded_policy_is_not_the_reference(recording):
    weights = load_file(recording.folder / "policy_lm_changed.safetensors")
    own = dict(recording.load().language_model.named_parameters())
    assert all((own[name] - value.float()).abs().max() > 1e-4 for name, value in weights.items())
