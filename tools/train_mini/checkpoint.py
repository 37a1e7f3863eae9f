"""Write the mini LLaVA as its authors write LLaVA: one folder for the model, one for CLIP."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModel

from hadpo.mini.world import IMAGE_SIZE_PIXELS
from tools.train_mini.language import MiniLlava
from tools.train_mini.vision import IMAGE_MEAN, IMAGE_STD

MODEL_FOLDER = "llava-v1.5-mini"
VISION_FOLDER = "clip-vit-mini"
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def save(folder: Path, vision: CLIPVisionModel, model: MiniLlava, tokenizer: Path) -> None:
    """Write both folders in half precision."""
    _save_model(folder / MODEL_FOLDER, vision, model)
    shutil.copyfile(tokenizer, folder / MODEL_FOLDER / "tokenizer.model")
    _save_vision(folder / VISION_FOLDER, vision)


def _save_model(folder: Path, vision: CLIPVisionModel, model: MiniLlava) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(model.language_model.state_dict())
    for name, value in model.projector.state_dict().items():
        weights[f"model.mm_projector.{name}"] = value
    _save_weights(folder, weights)
    language = model.language_model.config
    config = {
        "_name_or_path": MODEL_FOLDER,
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "mm_vision_tower": VISION_FOLDER,
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_hidden_layers,
        "num_attention_heads": language.num_attention_heads,
        "num_key_value_heads": language.num_key_value_heads,
        "hidden_act": "silu",
        "max_position_embeddings": language.max_position_embeddings,
        "rms_norm_eps": language.rms_norm_eps,
        "initializer_range": language.initializer_range,
        "use_cache": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "mm_hidden_size": vision.config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "use_mm_proj": True,
        "mm_resampler_type": None,
        "unfreeze_mm_vision_tower": False,
    }
    _write(folder / "config.json", config)
    _write(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_length": 512},
    )
    _write(folder / "special_tokens_map.json", SPECIAL_TOKENS)
    tokenizer_config = {
        "tokenizer_class": "LlamaTokenizer",
        **SPECIAL_TOKENS,
        "add_bos_token": True,
        "add_eos_token": False,
        "model_max_length": 512,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "legacy": True,
    }
    _write(folder / "tokenizer_config.json", tokenizer_config)


def _save_vision(folder: Path, vision: CLIPVisionModel) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _save_weights(
        folder, {f"vision_model.{name}": value for name, value in vision.state_dict().items()}
    )
    config = vision.config
    shape = {
        "hidden_size": config.hidden_size,
        "image_size": config.image_size,
        "intermediate_size": config.intermediate_size,
        "model_type": "clip_vision_model",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "patch_size": config.patch_size,
        "projection_dim": config.projection_dim,
    }
    _write(
        folder / "config.json",
        {
            "architectures": ["CLIPVisionModel"],
            "model_type": "clip",
            "projection_dim": config.projection_dim,
            "torch_dtype": "float16",
            "transformers_version": "4.37.2",
            "vision_config": shape,
        },
    )
    _write(
        folder / "preprocessor_config.json",
        {
            "crop_size": IMAGE_SIZE_PIXELS,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": list(IMAGE_MEAN),
            "image_std": list(IMAGE_STD),
            "resample": 3,
            "size": IMAGE_SIZE_PIXELS,
        },
    )


def _save_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    halves = {name: value.detach().half().contiguous() for name, value in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
