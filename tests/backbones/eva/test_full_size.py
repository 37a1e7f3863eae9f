"""Every published variant at its real size, on the meta device: keys, shapes, counts."""

import math

import pytest
from torch import nn

from hadpo.backbones import instructblip, minigpt4
from hadpo.vlm import checkpoint, decoder, vision
from hadpo.vlm.decoder import LlamaFolder
from hadpo.vlm.prompt import LlamaTokenizer
from hadpo.vlm.qformer import QFormerSizes, qformer_ignored
from hadpo.vlm.vision import EvaSizes

LLAMA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
}
LLAMA_13B = LLAMA_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
COUNTS = {7: 6_738_415_616, 13: 13_015_864_320}
VARIANTS = {  # name -> LLaMA, image tokens, what the projection reads
    "minigpt4/llama2": (LLAMA_7B | {"rms_norm_eps": 1e-5}, 64, 5632),
    "minigpt4/llama2-hadpo": (LLAMA_7B, 64, 5632),
    "minigpt4/vicuna0": (LLAMA_7B, 32, 768),
    "minigpt4/vicuna0-lrv": (LLAMA_7B, 32, 768),
    "minigpt4/vicuna0-13b": (LLAMA_13B, 32, 768),
    "instructblip/vicuna7b": (LLAMA_7B, 32, 768),
    "instructblip/vicuna13b": (LLAMA_13B, 32, 768),
}
EVA = {
    "image_size": 224,
    "patch_size": 14,
    "width": 1408,
    "depth": 39,
    "heads": 16,
    "mlp_width": 6144,
}
QFORMER = {
    "queries": 32,
    "width": 768,
    "depth": 12,
    "heads": 12,
    "mlp_width": 3072,
    "cross_every": 2,
    "vocab_size": 30523,
    "positions": 512,
}


def build(name, tiny_files):
    config, *_ = VARIANTS[name]
    folder = tiny_files["language_model"]
    llama = LlamaFolder(
        path=folder,
        config=config,
        tokenizer=LlamaTokenizer(folder),
        model=decoder.build_llama(config, where="test"),
    )
    if name.startswith("instructblip"):
        return instructblip.InstructBlip(name, llama, eva=EvaSizes(), qformer=QFormerSizes())
    has_qformer = "qformer" not in minigpt4.VARIANTS[name.partition("/")[2]].unused_parts
    qformer = QFormerSizes() if has_qformer else None
    return minigpt4.MiniGPT4(name, llama, eva=EvaSizes(), qformer=qformer)


def covered(module, shapes, keys):
    """Every key of the authors has a place of its shape, and every place a key."""
    places = {name: tuple(p.shape) for name, p in module.named_parameters()}
    found = {checkpoint.translate(key, keys): shape for key, shape in shapes.items()}
    assert found == places
    return sum(math.prod(shape) for shape in shapes.values())


def test_every_variant_is_here():
    names = [f"minigpt4/{variant}" for variant in minigpt4.VARIANTS]
    names += [f"instructblip/{variant}" for variant in instructblip.VARIANTS]
    assert sorted(names) == sorted(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_keys_and_shapes_of_the_published_files(name, tiny_files, restated):
    config, image_tokens, reads = VARIANTS[name]
    width = config["hidden_size"]
    backbone = build(name, tiny_files)
    assert all(p.is_meta for p in backbone.parameters())
    assert backbone.num_image_tokens == image_tokens

    shapes = restated.llama_shapes(config)
    tables = {key for key in shapes if checkpoint.translate(key, decoder.STORED_TABLES)}
    assert len(tables) == config["num_hidden_layers"]
    shapes = {key: shape for key, shape in shapes.items() if key not in tables}
    count = covered(backbone.language_model, shapes, decoder.LLAMA_KEYS)
    assert count == COUNTS[13 if width == 5120 else 7]

    reads_text = name.startswith("instructblip")
    projection = restated.linear("llm_proj" if reads_text else "llama_proj", width, reads)
    if reads == 768:
        shapes = restated.qformer_shapes(QFORMER, features=1408, reads_text=reads_text)
        queries = [key for key in shapes if not key.startswith("ln_vision")]
        if not reads_text:
            assert len(queries) == 254 + 1  # tensors of the released file that are used
        norm = {"ln_vision": backbone.vision.ln_vision}
    else:
        shapes, norm = {}, {}
    connector = nn.ModuleDict({"connector": backbone.connector, **norm})
    keys = instructblip.keys(QFormerSizes()) if reads_text else minigpt4.keys(backbone.connector)
    covered(connector, shapes | projection, keys)
    assert math.prod(projection[next(iter(projection))]) + width == {
        "minigpt4/vicuna0": 3_149_824,  # LRV: the trained parameters
        "minigpt4/llama2": 4096 * 5633,
    }.get(name, width * (reads + 1))


def test_keys_and_shapes_of_eva(restated):
    tower = vision.EvaTower(EvaSizes())
    shapes = restated.eva_shapes(EVA)
    assert len(shapes) == 511
    for layer in tower.encoder.layers:
        vision._split_biases(layer.self_attn)
    encoder = nn.ModuleDict({"embeddings": tower.embeddings, "encoder": tower.encoder})
    assert covered(encoder, shapes, vision.EVA_KEYS) == pytest.approx(985.9e6, rel=1e-4)
    beyond = restated.eva_shapes(EVA, blocks_beyond=1).keys() - shapes.keys()
    assert len(beyond) == 13
    assert all(checkpoint.translate(key, vision.eva_ignored(tower)) for key in beyond)


def test_the_text_half_of_blip2_is_left_out(restated):
    both = restated.qformer_shapes(QFORMER, features=1408, reads_text=True)
    half = restated.qformer_shapes(QFORMER, features=1408, reads_text=False)
    table = qformer_ignored(QFormerSizes(), reads_text=False)
    rest = both.keys() - half.keys()
    assert len(rest) == 12 * 6 + 2
    assert all(checkpoint.translate(key, table) for key in rest)
    assert not any(checkpoint.translate(key, table) for key in half)


def test_published_sizes_need_no_file(tmp_path):
    from hadpo.vlm import checkpoint

    assert checkpoint.read_sizes(tmp_path / "eva_vit_g.pth", EvaSizes) == EvaSizes(**EVA)
    assert checkpoint.read_sizes(tmp_path / "qformer.pth", QFormerSizes) == QFormerSizes(**QFORMER)
    assert int(1408 * 4.3637) == EvaSizes().mlp_width
