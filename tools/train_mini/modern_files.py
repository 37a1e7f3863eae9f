"""The modern twin before any training: a folder of Qwen3-VL's class, in transformers' own layout.

Its LLaMA and its CLIP are LLaVA's, laid out anew. What the class does otherwise is learned: norms
of queries and keys, rotation inside the tower, no norm before it, image tokens of four patches, and
features of an early layer of the tower that are added inside the decoder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from hadpo import config
from tools.train_mini.twin_towers import eva_start
from tools.train_mini.twins import EVA, WIDTH
from tools.train_mini.vision import GRID, IMAGE_MEAN, IMAGE_STD, PATCH_SIZE_PIXELS

WEIGHTS = config.PACKAGE / "mini" / "weights"
LLAVA = WEIGHTS / "llava" / "llava-v1.5-mini"
TOKENIZER = WEIGHTS / "hf-llava" / "tokenizer.json"
MERGE = 2  # patches of an image token, along each side
LARGEST = 128  # pixels along each side of a square picture
SPECIAL = ("<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
LINES = {"user\n": "▁USER", "assistant\n": ":", "\n": "<0x0A>"}  # of the template -> starts as
_RENAMED = {"<image>": "<unk>", "<s>": "<|im_start|>", "</s>": "<|im_end|>"}
_TEMPLATE = """\
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}{% for part in message['content'] %}
{%- if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def untrained(folder: Path, pixels: Tensor) -> None:
    """Write the whole folder; only what the class does otherwise knows nothing yet.

    Args:
        folder: where to.
        pixels: some normalised pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    sizes = {"shortest_edge": (2 * PATCH_SIZE_PIXELS * MERGE) ** 2, "longest_edge": LARGEST**2}
    image_processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": PATCH_SIZE_PIXELS,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "size": sizes,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "resample": 3,
        "do_convert_rgb": True,
    }
    _write_json(folder / "preprocessor_config.json", image_processor)
    _write_json(folder / "processor_config.json", {"processor_class": "Qwen3VLProcessor"})
    ends = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]}
    ends |= {"pad_token_id": ids["<|endoftext|>"], "do_sample": False}
    model = Qwen3VLForConditionalGeneration(_config(ids))
    state = model.state_dict()
    known = {
        **_language(load_file(LLAVA / "model.safetensors"), ids),
        **_tower(pixels),
        **_mergers(state),
    }
    model.load_state_dict(known, strict=True)
    model.save_pretrained(folder)
    _write_json(folder / "generation_config.json", ends)


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """LLaVA's pieces, its marks under Qwen's names; the lines of the template are one id each."""
    found = json.loads(TOKENIZER.read_text(encoding="utf-8"))
    old: dict[str, int] = found["model"]["vocab"]
    vocabulary = {_RENAMED.get(piece, piece): number for piece, number in old.items()}
    added = [(name, vocabulary[name], True) for name in _RENAMED.values()]
    for name in (*SPECIAL, *LINES):
        added.append((name, len(vocabulary), name in SPECIAL))
        vocabulary[name] = len(vocabulary)
    found["model"] |= {"vocab": vocabulary, "unk_token": "<unk>"}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    found["added_tokens"] = [
        {"id": number, "content": name, "special": is_special, **plain}
        for name, number, is_special in added
    ]
    found["post_processor"] = None
    text = json.dumps(found, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    _write_json(folder / "tokenizer_config.json", names)
    return vocabulary


def _config(ids: Mapping[str, int]) -> Qwen3VLConfig:
    text = {
        "vocab_size": len(ids),
        "hidden_size": WIDTH,
        "intermediate_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": WIDTH // 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": False,
    }
    tower = {
        "depth": EVA.depth,
        "hidden_size": EVA.width,
        "intermediate_size": EVA.mlp_width,
        "num_heads": EVA.heads,
        "hidden_act": "quick_gelu",  # CLIP's, whose weights these are
        "patch_size": PATCH_SIZE_PIXELS,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "num_position_embeddings": GRID * GRID,
        "out_hidden_size": WIDTH,
        "deepstack_visual_indexes": [1],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=tower,
        tie_word_embeddings=False,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def _language(llava: Mapping[str, Tensor], ids: Mapping[str, int]) -> dict[str, Tensor]:
    """LLaVA's LLaMA: rows for the new ids, and a norm of queries and keys that keeps their size."""
    weights = {
        key.replace("model.", "model.language_model.", 1): value.float()
        for key, value in llava.items()
        if ".mm_projector." not in key
    }
    torch.manual_seed(1)
    for key, spread in (
        ("model.language_model.embed_tokens.weight", 1.0),
        ("lm_head.weight", 0.08),
    ):
        old = weights[key]
        fresh = torch.randn(len(ids) - len(old), old.shape[1]) * spread
        weights[key] = torch.cat([old, fresh])
        for line, piece in LINES.items():
            weights[key][ids[line]] = old[ids[piece]]
    for key, value in list(weights.items()):
        before, _, name = key.partition(".self_attn.")
        if name in ("q_proj.weight", "k_proj.weight"):
            scale = weights[f"{before}.input_layernorm.weight"]
            size = (value * scale).square().sum(1).mean().sqrt()  # of what unit input becomes
            norm = f"{before}.self_attn.{name[0]}_norm.weight"
            weights[norm] = size.expand(WIDTH // 4).clone()
    return weights


def _tower(pixels: Tensor) -> dict[str, Tensor]:
    """CLIP up to the layer that LLaVA reads; every picture stands twice, as two frames."""
    names = {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.qkv": "attn.qkv",
        "self_attn.projection": "attn.proj",
        "mlp.fc1": "mlp.linear_fc1",
        "mlp.fc2": "mlp.linear_fc2",
    }
    start = eva_start(pixels)
    patches = start["embeddings.patch_embedding.weight"] / 2
    state = {
        "patch_embed.proj.weight": torch.stack([patches, patches], dim=2),
        "patch_embed.proj.bias": start["embeddings.patch_embedding.bias"],
        "pos_embed.weight": start["embeddings.position_embedding"][0, 1:].clone(),
    }
    for key, value in start.items():
        if not key.startswith("encoder.layers."):
            continue
        layer, _, inside = key.removeprefix("encoder.layers.").partition(".")
        name, _, end = inside.rpartition(".")
        state[f"blocks.{layer}.{names[name]}.{end}"] = value
    return {f"model.visual.{key}": value for key, value in state.items()}


def _mergers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The connector, at random; what goes into the decoder's layers begins with nothing."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if "merger" not in key:
            continue
        if value.ndim == 1:
            found[key] = torch.ones_like(value) if key.endswith("norm.weight") else value * 0
        elif "deepstack" in key and "fc2" in key:
            found[key] = torch.zeros_like(value)
        else:
            found[key] = torch.randn_like(value) * value.shape[1] ** -0.5
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
