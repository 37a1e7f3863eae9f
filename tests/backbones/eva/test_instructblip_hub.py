"""InstructBLIP from the folder that transformers saves, made of the recorded weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

from hadpo import backbones
from hadpo.records import BadInput

NAME = "instructblip/vicuna7b"
IMAGE_ID = 402


def config_of(meta):
    configs = meta["configs"]
    eye, reader, text = configs["vit"], configs["qformer"], configs["llama"]
    return InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=eye["embed_dim"],
            intermediate_size=int(eye["embed_dim"] * eye["mlp_ratio"]),
            num_hidden_layers=eye["depth"],
            num_attention_heads=eye["num_heads"],
            image_size=eye["img_size"],
            patch_size=eye["patch_size"],
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=reader["vocab_size_after_[DEC]"],
            hidden_size=reader["hidden_size"],
            num_hidden_layers=reader["num_hidden_layers"],
            num_attention_heads=reader["num_attention_heads"],
            intermediate_size=reader["intermediate_size"],
            max_position_embeddings=reader["max_position_embeddings"],
            cross_attention_frequency=reader["cross_attention_freq"],
            encoder_hidden_size=reader["encoder_width"],
        ),
        text_config=LlamaConfig(
            vocab_size=403,  # [PAD], one to fill up, and the image's
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_hidden_layers=text["num_hidden_layers"],
            num_attention_heads=text["num_attention_heads"],
            rms_norm_eps=text["rms_norm_eps"],
        ),
        num_query_tokens=reader["query_length"],
        image_token_index=IMAGE_ID,
    )


@pytest.fixture
def hub(recordings, bert, tmp_path):
    """A folder as transformers saves it, its model, and our backbone of the same weights."""
    recording = recordings["instructblip_vicuna"]
    ours = recording.load()
    model = InstructBlipForConditionalGeneration(config_of(recording.meta)).eval()
    theirs = dict(model.named_parameters())
    inner = "model." if any(key.startswith("model.") for key in theirs) else ""
    head = "lm_head" if "lm_head.weight" in theirs else "language_model.lm_head"
    layers = "model.language_model." if inner else "language_model.model."
    for name, value in ours.named_parameters():
        name = name.replace("vision.ln_vision", f"{inner}vision_model.post_layernorm")
        name = name.replace("connector.transformer", f"{inner}qformer")
        name = name.replace("connector.query_tokens", f"{inner}query_tokens")
        name = name.replace("connector.projection", f"{inner}language_projection")
        name = name.replace("language_model.lm_head", head)
        if name.startswith("vision."):
            name = name.replace("vision.", f"{inner}vision_model.")
        if name.startswith("language_model.model."):
            name = name.replace("language_model.model.", layers)
        target = theirs.pop(name).data
        target[: len(value)] = value[: len(target)]
    assert not theirs
    folder = tmp_path / "hub"
    model.save_pretrained(folder)
    shutil.copy(recording.files["language_model"] / "tokenizer.model", folder)
    (folder / "qformer_tokenizer").mkdir()
    shutil.copy(bert / "vocab.txt", folder / "qformer_tokenizer")
    return folder, model, recording


def load(files):
    return backbones.load(NAME, files, dtype="float32", device="cpu")


def test_transformers_folder_is_the_same_backbone(hub, writable):
    folder, model, recording = hub
    from_hub = load({"language_model": folder})
    _, files = writable("instructblip_vicuna")  # without the row of [PAD]
    ours = load(files)
    found, expected = recording.measure(from_hub), recording.measure(ours)
    assert found == expected
    assert found["logits"] < recording.tolerance["logits"]
    mine = dict(ours.named_parameters())
    for name, value in from_hub.named_parameters():
        assert torch.equal(value[: len(mine[name])], mine[name]), name
    (norm,) = (m for name, m in model.named_modules() if name.endswith("post_layernorm"))
    assert norm.eps == 1e-6
    norm.eps = 1e-5  # as the authors have it
    text = recording.inputs["qformer_input_ids"]
    with torch.no_grad():
        theirs = model(
            pixel_values=recording.inputs["pixel_values"],
            qformer_input_ids=text,
            qformer_attention_mask=recording.inputs["qformer_attention_mask"],
            **as_transformers(recording),
        ).logits
    for i, pair in enumerate(recording.pairs()):
        ids = ours.expand(ours.prompt_ids(pair.instruction, prompt="train"))
        row = torch.tensor([[*ids, *ours.response_ids(pair.chosen)]])
        n = row.shape[1]
        pixels = recording.inputs["pixel_values"][i : i + 1]
        embeds = ours.embed(row, ours.image_tokens(pixels, [pair.instruction]))
        mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
        with torch.no_grad():
            hidden = ours.hidden_states(embeds, mask, torch.arange(n)[None])[0]
        logits = hidden @ ours.lm_head_weight.T
        assert (theirs[i, :n, : logits.shape[1]] - logits).abs().max() < 2e-5


def as_transformers(recording):
    n = len(recording.pairs())
    ids = recording.inputs["concat_input_ids"][:n]
    ids = ids.masked_fill(ids == -200, IMAGE_ID)
    return {"input_ids": ids, "attention_mask": recording.inputs["concat_attention_mask"][:n]}


def published(key):
    """The names under which the folders on the hub were saved, in 2023."""
    key = key.removeprefix("model.")
    if key.startswith("lm_head."):
        return "language_model." + key
    if key.startswith("language_model.") and not key.startswith(
        ("language_model.model.", "language_model.lm_head.")
    ):
        return "language_model.model." + key.removeprefix("language_model.")
    return key


def in_memory(key):
    """The names inside today's transformers."""
    key = published(key)
    if key.startswith("language_model.lm_head."):
        return key.removeprefix("language_model.")
    if key.startswith("language_model.model."):
        return "model.language_model." + key.removeprefix("language_model.model.")
    return "model." + key


@pytest.mark.parametrize("rename", [published, in_memory])
def test_transformers_folder_in_every_naming(hub, rename):
    folder, _, recording = hub
    expected = recording.measure(load({"language_model": folder}), quick=True)
    weights = load_file(folder / "model.safetensors")
    renamed = {rename(key): value for key, value in weights.items()}
    assert len(renamed) == len(weights)
    if rename is published:  # files of 2023 hold these, too
        renamed["qformer.embeddings.position_ids"] = torch.arange(64)[None]
        renamed["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(renamed, folder / "model.safetensors")
    assert recording.measure(load({"language_model": folder}), quick=True) == expected


def test_what_is_saved_is_read_beside_transformers_folder(hub, tmp_path):
    folder, _, recording = hub
    backbone = load({"language_model": folder})
    backbone.save_original(tmp_path / "saved", dtype=torch.float32)
    again = load(backbone.files_with(tmp_path / "saved"))
    assert recording.measure(again, quick=True) == recording.measure(backbone, quick=True)
    assert again.files["qformer"] == folder


def test_folders_that_are_no_instructblip(hub):
    folder, _, _ = hub
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"model_type": "llama"', '"model_type": "opt"'))
    with pytest.raises(BadInput, match=r"text_config\.model_type: found 'opt', expected"):
        load({"language_model": folder})
