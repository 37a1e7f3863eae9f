"""A mini twin as files: the layout of its authors, and its weights before any training."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hadpo.backbones import instructblip, minigpt4, mplug_owl
from hadpo.vlm import checkpoint, decoder, qformer, vision
from hadpo.vlm.backbone import Backbone
from tools.train_mini.checkpoint import SPECIAL_TOKENS
from tools.train_mini.twin_towers import owl_vision
from tools.train_mini.twins import EVA, OWL_FOLDER, QFORMER, TWINS, WIDTH, vocabulary
from tools.train_mini.vision import IMAGE_MEAN, IMAGE_SIZE_PIXELS, IMAGE_STD


def write(backbone: Backbone, folder: Path, name: str, *, dtype: torch.dtype) -> None:
    """Write all but EVA, which is shared, in the authors' layout."""
    twin = TWINS[name]
    folder.mkdir(parents=True, exist_ok=True)
    if twin.family is mplug_owl:
        _write_owl(backbone, folder / OWL_FOLDER, dtype)
        return
    backbone.save_original(folder / "llama", dtype=dtype)
    connector: Any = backbone.connector
    parts = nn.ModuleDict({"connector": connector, "ln_vision": backbone.vision.ln_vision})
    if twin.family is instructblip:
        table = instructblip.keys(connector.sizes)
        (folder / "bert").mkdir(exist_ok=True)
        (folder / "bert" / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    else:
        table = minigpt4.keys(connector)
    weights = _in_authors_keys(parts.state_dict(), table, dtype)
    if twin.connector:
        own = {key: weights.pop(key) for key in list(weights) if key.startswith("llama_proj.")}
        torch.save({"model": own}, folder / twin.connector)
    if twin.qformer:
        torch.save({"model": weights}, folder / twin.qformer)
        sizes = dataclasses.asdict(connector.sizes)
        _write_json((folder / twin.qformer).with_suffix(".json"), sizes)


def write_eva(tower: vision.EvaTower, folder: Path, *, dtype: torch.dtype) -> None:
    """Write EVA as eva_vit_g.pth holds it, all but `ln_vision`, and its sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, value in tower.state_dict().items():
        if name.startswith("ln_vision."):
            continue
        if name.endswith("self_attn.qkv.bias"):
            query, _, end = value.chunk(3)
            parts = {name.replace("qkv.bias", "q_bias"): query}
            parts[name.replace("qkv.bias", "v_bias")] = end
        else:
            parts = {name: value}
        for ours, part in parts.items():
            weights[ours] = part.detach().to("cpu", dtype).clone()
    torch.save(checkpoint.by_original_key(weights, vision.EVA_KEYS), folder / "eva_vit_g.pth")
    _write_json(folder / "eva_vit_g.json", dataclasses.asdict(tower.sizes))


def untrained(name: str, language: Mapping[str, Tensor], tokenizer: Path, folder: Path) -> None:
    """Write a twin whose connector knows nothing yet.

    Args:
        name: of the twin.
        language: weights of its LLaMA, in LLaMA's keys.
        tokenizer: its `tokenizer.model`.
        folder: where to; it gets everything but EVA.
    """
    twin = TWINS[name]
    owl = folder / OWL_FOLDER
    place = owl if twin.family is mplug_owl else folder / "llama"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tokenizer, place / "tokenizer.model")
    config = _llama_config(len(language["lm_head.weight"]))
    if twin.family is mplug_owl:
        _write_owl_configs(owl, config)
        backbone: Any = mplug_owl.MplugOwl(
            f"mplug_owl/{twin.variant}",
            original_config=checkpoint.read_json(owl / "config.json"),
            where=name,
        )
        backbone.files = {"language_model": owl}
    else:
        _write_json(place / "config.json", config)
        _write_json(place / "special_tokens_map.json", SPECIAL_TOKENS)
        sizes: dict[str, Any] = QFORMER
        if twin.family is instructblip:
            sizes = QFORMER | {"vocab_size": len(vocabulary()) + 1}  # and [DEC]
        kind = instructblip.InstructBlip if twin.family is instructblip else minigpt4.MiniGPT4
        backbone = kind(
            f"{twin.family.__name__.rpartition('.')[2]}/{twin.variant}",
            decoder.LlamaFolder.open(place),
            eva=EVA,
            qformer=qformer.QFormerSizes(**sizes) if twin.qformer else None,  # type: ignore[arg-type]
        )
    state = {key: fresh(key, value.shape) for key, value in backbone.named_parameters()}
    state |= {f"language_model.{key}": value for key, value in language.items()}
    if twin.family is mplug_owl:
        state |= {f"vision.{key}": value for key, value in owl_vision().items()}
    backbone.load_state_dict(state, strict=False, assign=True)
    write(backbone, folder, name, dtype=torch.float32)


def fresh(key: str, shape: Sequence[int]) -> Tensor:
    """Initial values: norms do nothing, biases are 0, matrices keep the scale of their input."""
    if key.endswith("bias"):
        return torch.zeros(shape)
    if ("norm" in key.lower() or "ln_" in key) and key.endswith("weight"):
        return torch.ones(shape)
    if key.endswith(("query_tokens", "vit_eos")) or "embeddings." in key:
        return torch.randn(shape) * 0.5
    return torch.randn(shape) * shape[-1] ** -0.5


def _in_authors_keys(
    state: Mapping[str, Tensor], table: Mapping[str, str], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Weights by the names in a table of the authors' keys; what the table leaves out stays out."""
    weights = checkpoint.by_original_key(state, table)
    return {key: value.detach().to("cpu", dtype).clone() for key, value in weights.items()}


def _write_owl(backbone: Backbone, folder: Path, dtype: torch.dtype) -> None:
    source = backbone.files["language_model"]
    if source != folder:
        shutil.copytree(source, folder, ignore=lambda *_: ["pytorch_model.bin"])
    weights = _in_authors_keys(backbone.state_dict(), mplug_owl.KEYS, dtype)
    torch.save(weights, folder / "pytorch_model.bin")


def _write_owl_configs(folder: Path, llama: Mapping[str, Any]) -> None:
    config = {
        "architectures": ["MplugOwlForConditionalGeneration"],
        "model_type": "mplug-owl",
        "num_query_tokens": QFORMER["queries"],
        "torch_dtype": "float16",
        "vision_config": {
            "model_type": "mplug_owl_vision_model",
            "hidden_size": EVA.width,
            "intermediate_size": EVA.mlp_width,
            "num_hidden_layers": EVA.depth,
            "num_attention_heads": EVA.heads,
            "image_size": EVA.image_size,
            "patch_size": EVA.patch_size,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,  # CLIP's, whose weights these are
        },
        "visual_abstractor_config": {
            "model_type": "mplug_owl_visual_abstract",
            "hidden_size": QFORMER["width"],
            "encoder_hidden_size": EVA.width,
            "intermediate_size": QFORMER["mlp_width"],
            "num_hidden_layers": QFORMER["depth"],
            "num_attention_heads": QFORMER["heads"],
            "layer_norm_eps": 1e-6,
        },
        "text_config": dict(llama),
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "special_tokens_map.json", SPECIAL_TOKENS)
    processor = {
        "crop_size": {"height": IMAGE_SIZE_PIXELS, "width": IMAGE_SIZE_PIXELS},
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "resample": 3,
        "size": {"height": IMAGE_SIZE_PIXELS, "width": IMAGE_SIZE_PIXELS},
    }
    _write_json(folder / "preprocessor_config.json", processor)


def _llama_config(pieces: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": pieces,
        "hidden_size": WIDTH,
        "intermediate_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
