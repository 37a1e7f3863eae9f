"""Loading: shard by shard, straight to its numbers, with a bar in a terminal only."""

import json
import os
import pty
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

MEASURE = Path(__file__).with_name("one_load.py")


@pytest.fixture(scope="module")
def sharded(tiny_folder, tmp_path_factory):
    """A LLaVA of about 150 MB in float16, in shards of about 15 MB."""
    source, folder = tiny_folder / "llava-tiny", tmp_path_factory.mktemp("sharded")
    config = json.loads((source / "config.json").read_text())
    h, inner, layers, vocab = 768, 2048, 10, config["vocab_size"]
    config |= {"hidden_size": h, "intermediate_size": inner, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(source / "tokenizer.model", folder)
    draw = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (vocab, h), "lm_head.weight": (vocab, h)}
    shapes |= {"model.norm.weight": (h,)}
    for i, width in ((0, 16), (2, h)):
        shapes[f"model.mm_projector.{i}.weight"] = (h, width)
        shapes[f"model.mm_projector.{i}.bias"] = (h,)
    for i in range(layers):
        start = f"model.layers.{i}."
        for name in "qkvo":
            shapes[f"{start}self_attn.{name}_proj.weight"] = (h, h)
        shapes |= {f"{start}mlp.{n}_proj.weight": (inner, h) for n in ("gate", "up")}
        shapes[f"{start}mlp.down_proj.weight"] = (h, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{start}{name}.weight"] = (h,)
    shards, size = [{}], 0
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=draw).half()
        if size > 12e6:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.numel() * 2
    places = {}
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"part-{i}.safetensors")
        places |= dict.fromkeys(shard, f"part-{i}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def arguments(sharded, tiny_folder, quantization):
    return [
        sys.executable,
        *(str(MEASURE), str(sharded), str(tiny_folder / "llava-tiny")),
        *(str(tiny_folder / "clip-tiny"), quantization),
    ]


@pytest.mark.slow
def test_the_peak_is_the_model_and_a_shard(sharded, tiny_folder, capsys):
    """Not for 4 bits: on a CPU bitsandbytes compares each weight with all 16 values at once."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("no /proc here that tells the peak of a process")
    done = subprocess.run(
        arguments(sharded, tiny_folder, "none"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    largest = max(p.stat().st_size for p in sharded.glob("*.safetensors"))
    shards = (found["growth"] - found["model"]) / largest
    with capsys.disabled():
        sys.stdout.write(
            f"\nloading: model {found['model'] / 1e6:.0f} MB, largest shard "
            f"{largest / 1e6:.1f} MB, grew by {found['growth'] / 1e6:.0f} MB: model + {shards:.2f} "
            "shards\n"
        )
    assert shards <= 1.2


def test_the_bar_is_shown_in_a_terminal_only(tiny_folder, tiny_llava, capfd):
    tiny_llava()
    assert "weights" not in capfd.readouterr().err
    command = arguments(tiny_folder / "llava-tiny", tiny_folder, "none")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))  # a terminal without a width shows nothing
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            shown += chunk
        process.wait()
    os.close(ours)
    assert b"weights" in shown and b"tensors" in shown
