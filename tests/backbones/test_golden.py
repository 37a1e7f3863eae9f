"""The authors' own code against ours, for every recorded case whose backbone is here.

Sizes, texts and tolerances come from the recordings; `pytest -s` shows the largest differences.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from hadpo import backbones, batch, loss, plugins
from hadpo.records import Pair
from hadpo.vlm.prompt import IMAGE

FAMILIES = {  # recorded backbone -> name and parts
    "llava": (
        "llava/1.5-7b",
        {"language_model": "checkpoint/llava-v1.5-tiny", "vision": "checkpoint/clip-vit-tiny"},
    ),
    "mplug_owl": (
        "mplug_owl/llama-7b",
        {"language_model": "checkpoint/mplug-owl-llama-tiny"},
    ),
}


class Recording:
    def __init__(self, folder):
        self.meta = json.loads((folder / "meta.json").read_text())
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        changed = load_file(folder / "policy_lm_changed.safetensors")
        self.changed = {k.removeprefix("language_model."): v for k, v in changed.items()}
        self.texts = READERS.get(self.meta["backbone"], list)(
            json.loads((folder / "text_cases.json").read_text())
        )
        self.tolerance = self.meta["tolerances"]
        name, parts = FAMILIES[self.meta["backbone"]]
        files = {part: folder / place for part, place in parts.items()}
        self.backbone = backbones.load(name, files, dtype="float32", device="cpu")
        chosen = [case for case in self.texts if case["side"] == "chosen"]
        rejected = [case for case in self.texts if case["side"] != "chosen"]
        self.examples = [
            batch.tokenize(self.backbone, make_pair(i, c, r), max_length=4096)
            for i, (c, r) in enumerate(zip(chosen, rejected, strict=True))
        ]


def owl_texts(found):
    """mPLUG-Owl's recordings hold whole texts, one id -1 per image token, and masks."""
    cases = []
    for case in found["train_side"]:
        question, answer = case["text"].rpartition("\nHuman: ")[2].split("\nAI: ")
        ids = case["input_ids"]
        answers = [i for i, on in zip(ids[1:], case["prompt_mask"], strict=False) if on]
        one = [i for k, i in enumerate(ids) if not (i == -1 and ids[k - 1] == -1)]
        cases.append(
            {
                "side": case["side"],
                "question": question,
                "answer": answer,
                "input_ids": [IMAGE if i == -1 else i for i in one],
                "labels": answers,
            }
        )
    return cases


READERS = {"mplug_owl": owl_texts}  # recorded backbone -> how its text cases are read


def make_pair(i, chosen, rejected):
    assert chosen["question"] == rejected["question"]
    return Pair(
        pair_id=str(i),
        image_id=str(i),
        image=str(i),
        instruction=chosen["question"],
        chosen=chosen["answer"],
        rejected=rejected["answer"],
        kind="pope",
        source="golden",
    )


@pytest.fixture(scope="module")
def recordings(shared):
    here = set(plugins.available("hadpo.backbones")) & set(FAMILIES)
    folders = [
        meta.parent
        for meta in sorted((shared / "golden").glob("*/*/meta.json"))
        if json.loads(meta.read_text()).get("backbone") in here
    ]
    assert {json.loads((f / "meta.json").read_text())["backbone"] for f in folders} == here
    assert folders
    return [Recording(folder) for folder in folders]


def difference(name, found, expected, tolerance):
    assert found.shape == expected.shape
    most = float((found - expected).abs().max())
    print(f"golden {name}: {most:.2e} (tolerance {tolerance:.0e})")  # noqa: T201 - `pytest -s`
    assert most <= tolerance, name


def test_ids_and_labels(recordings):
    for recording in recordings:
        backbone = recording.backbone
        for case in recording.texts:
            prompt = backbone.prompt_ids(case["question"], prompt="train")
            response = backbone.response_ids(case["answer"])
            assert prompt + response == case["input_ids"]
            assert response == [label for label in case["labels"] if label != -100]


def test_vision_image_tokens_and_logits(recordings):
    for recording in recordings:
        backbone, outputs = recording.backbone, recording.outputs
        tolerance = recording.tolerance
        with torch.no_grad():
            features = backbone.features(recording.inputs["pixel_values"])
            image_tokens = backbone.connect(features, [])
        difference(
            "vision features", features, outputs["vision_features"], tolerance["vision_features"]
        )
        difference("image tokens", image_tokens, outputs["image_tokens"], tolerance["image_tokens"])
        for i, example in enumerate(recording.examples):
            ids = torch.tensor([[*example.prefix, *example.chosen]])
            n = ids.shape[1]
            mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
            embeds = backbone.embed(ids, image_tokens[i : i + 1])
            with torch.no_grad():
                hidden = backbone.hidden_states(embeds, mask, torch.arange(n)[None])
                logits = (hidden @ backbone.lm_head_weight.T)[0]
            recorded = recording.inputs | outputs  # LLaVA's own code expands, and says so
            attended = recorded.get("expanded_attention_mask", recorded["concat_attention_mask"])
            assert int(attended[i].sum()) == n
            expected = outputs["ref_logits_chosen"][i, :n]
            difference(f"logits, row {i}", logits, expected, tolerance["logits"])


def test_packed_logps_and_dpo_loss(recordings):
    for recording in recordings:
        backbone, outputs, meta = recording.backbone, recording.outputs, recording.meta
        packed = batch.pack(recording.examples)
        embeds = batch.embed(backbone, packed, recording.inputs["pixel_values"])
        with torch.no_grad():
            reference = batch.token_table(backbone, packed, embeds)
            original = dict(backbone.language_model.named_parameters())
            kept = {name: original[name].clone() for name in recording.changed}
            for name, value in recording.changed.items():
                original[name].copy_(value)
            policy = batch.token_table(backbone, packed, embeds)
            for name, value in kept.items():
                original[name].copy_(value)
        n = len(recording.examples)
        for side, table in (("ref", reference), ("policy", policy)):
            for k, example in enumerate([*recording.examples, *recording.examples]):
                answer = (example.chosen, example.rejected)[k // n]
                start = len(example.prefix) - 1
                expected = outputs[f"{side}_per_token_logps"][k, start : start + len(answer)]
                found = table[k // n, k % n, : len(answer)]
                limit = recording.tolerance["logits"]  # a token's log-prob is a difference of them
                difference(f"{side} log-probs per token, row {k}", found, expected, limit)
        limit = recording.tolerance["sum_logps"]
        sums = {"ref": reference.sum(-1), "policy": policy.sum(-1)}
        for side, (chosen, rejected) in sums.items():
            difference(f"{side} chosen", chosen, outputs[f"{side}_chosen_logps"], limit)
            difference(f"{side} rejected", rejected, outputs[f"{side}_rejected_logps"], limit)
        preference = loss.preference_loss(*sums["policy"], *sums["ref"], beta=meta["beta"])
        limit = recording.tolerance["dpo_loss"]
        difference("DPO losses", preference.losses, outputs["dpo_losses"], limit)
        difference("DPO loss", preference.losses.mean(), outputs["dpo_loss"], limit)
        limit = meta["beta"] * recording.tolerance["sum_logps"]  # what rewards are made of
        difference("rewards", preference.chosen_rewards, outputs["chosen_rewards"], limit)
