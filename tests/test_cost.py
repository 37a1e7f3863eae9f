"""The cost model: operations of known shapes, published sizes, and what a step really grows by."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hadpo import batch, config, cost
from hadpo.data import fetch
from hadpo.doctor import machine

TRAIN = config.TrainConfig(lora_rank=64, micro_batch_pairs=1)


@pytest.fixture
def llava_7b():
    """LLaMA-7B with LLaVA's vision: 12.95 GFLOP a position, 0.40 TFLOP an image."""
    return cost.Operations.of(cost.ModelSizes(others=0, image_tokens=576), vision=0.40e12)


def row(prefix, chosen, rejected, k=1):
    """`k` pairs of one image; their prefixes share all but ten positions."""
    rest = 10 if k > 1 else 0
    answers = ((chosen, rejected),) * k
    return cost.Row(common=prefix - rest, rests=(rest,) * k, answers=answers)


@pytest.mark.parametrize(
    ("pair", "reads_reference", "expected"),  # 10^12 operations of a pair
    [
        ((616, 100, 100), True, 33.0),
        ((616, 12, 12), True, 25.8),
        ((616, 100, 100), False, 22.2),  # before the trim of the last layer
        ((616, 12, 12), False, 17.3),
    ],
)
def test_operations_of_llava_7b(llava_7b, pair, reads_reference, expected):
    found = llava_7b.train(row(*pair), reads_reference=reads_reference) + llava_7b.vision
    assert found / 1e12 == pytest.approx(expected, rel=0.02)


def test_recomputing_is_one_more_pass(llava_7b):
    with_it = llava_7b.train(row(616, 100, 100), recomputes=True, reads_reference=True)
    assert (with_it + llava_7b.vision) / 1e12 == pytest.approx(43.8, rel=0.02)


def test_four_pairs_of_one_image_share_its_tokens(llava_7b):
    found = llava_7b.train(row(616, 12, 12, k=4), reads_reference=True) + llava_7b.vision
    assert found / 4e12 == pytest.approx(7.8, rel=0.1)


def test_a_row_is_what_is_packed():
    examples = [
        batch.Example(
            pair_id=str(i),
            kind="pope",
            image="a.png",
            instruction="",
            prefix=(*[-1] * 20, *[i] * 10),
            chosen=tuple(range(3)),
            rejected=tuple(range(2)),
            cut=0,
        )
        for i in range(3)
    ]
    packed, sizes = batch.pack_rows([examples]), batch.row_sizes(examples)
    assert sizes == cost.Row(common=20, rests=[10] * 3, answers=[[3, 2]] * 3)
    assert (sizes.positions, sizes.scored) == (packed.num_tokens, 15)
    real = torch.zeros(packed.ids.shape[1], dtype=torch.bool)
    real[: packed.num_tokens] = True
    assert sizes.looks == int((packed.mask[0, 0] & real[:, None] & real[None]).sum())


def test_which_gpu_a_name_means():
    assert cost.gpu_of("NVIDIA A100-SXM4-80GB") is cost.GPUS["A100"]
    assert cost.gpu_of("Something new") is None


def test_the_modelled_time_takes_what_takes_longest():
    gpu, over = cost.GPUS["A100"], 1.45
    assert gpu.seconds(cost.Work(operations=312e12)) == pytest.approx(over)
    assert gpu.seconds(cost.Work(operations=19.5e12), number_bytes=4) == pytest.approx(over)
    assert gpu.seconds(cost.Work(operations=1.0, weight_bytes=2e12)) == pytest.approx(over)
    both = cost.Work(operations=312e12, moved_bytes=2e12)
    assert gpu.seconds(both) == pytest.approx(2 * over)
    assert gpu.seconds(cost.Work(operations=1.0, launches=2e6)) == pytest.approx(10)


def test_a_lora_on_the_output_layer_is_there_once():
    sizes = cost.ModelSizes(layers=2, width=8, inner=20, vocab=50, others=0, image_tokens=4)
    assert sizes.lora_weights(3, "q_proj,up_proj,lm_head") == 3 * (2 * (16 + 28) + 58)


def sizes(name):
    return machine.sizes_of(config.load_recipe(name).model)[0]


@pytest.mark.parametrize(
    ("name", "dtype", "quantization", "gigabytes"),
    [  # of the language model alone; spec/perf.md section 4
        ("llava-1.5-7b", "bfloat16", "none", 13.5),
        ("llava-1.5-7b", "bfloat16", "nf4", 3.9),
        ("instructblip-13b", "float16", "none", 26.0),
        ("instructblip-13b", "float16", "nf4", 7.2),
    ],
)
def test_published_sizes(name, dtype, quantization, gigabytes, monkeypatch, tmp_path):
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path))
    plain = replace(sizes(name), others=0)
    found = cost.training_memory(plain, TRAIN, dtype=dtype, quantization=quantization)
    assert found.weights / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_modern_recipes_have_the_weights_of_their_files(monkeypatch, tmp_path):
    """Every number of weights by the recipe's sizes, beside what its source downloads."""
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path))
    folder = config.RECIPES
    names = [p.stem for p in folder.glob("*.yaml") if "\nextends: hf\n" in p.read_text("utf-8")]
    assert names
    for name in names:
        s = sizes(name)
        weights = s.linear_weights + (2 - s.is_tied) * s.vocab * s.width + s.others
        published = 4 if name.startswith("smolvlm2") else 2  # bytes of a number: float32, bfloat16
        (item,) = fetch.source(name).items
        assert weights * published / 1e9 == pytest.approx(item.gigabytes, abs=0.06), name


def test_adapters_of_the_papers(monkeypatch, tmp_path):
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path))
    seven, thirteen = sizes("llava-1.5-7b"), sizes("instructblip-13b")
    assert cost.training_memory(seven, TRAIN, dtype="bfloat16").adapter / 1e9 == pytest.approx(
        0.9, abs=0.05
    )
    found = cost.training_memory(thirteen, TRAIN, dtype="bfloat16").adapter
    assert found / 1e9 == pytest.approx(1.42, abs=0.05)
    hadpo = config.load_recipe("llava-1.5-7b").train  # r 128 on all linear layers: 320 M weights
    assert cost.training_memory(seven, hadpo, dtype="bfloat16").adapter / 18e6 == pytest.approx(
        320, abs=1
    )


def test_activations_of_a_description_pair(monkeypatch, tmp_path):
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path))
    seven = sizes("llava-1.5-7b")
    assert cost.training_memory(seven, TRAIN, dtype="bfloat16").activations / 1e9 == pytest.approx(
        3.67, abs=0.02
    )
    again = replace(TRAIN, activation_checkpointing=True)
    assert cost.training_memory(seven, again, dtype="bfloat16").activations / 1e9 < 0.4


def measure(pairs, checkpointing, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("one_step.py")),
            str(pairs),
            str(int(checkpointing)),
            str(tmp_path / "p.png"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_formula_against_the_peak_growth_of_a_step(tmp_path, checkpointing, capsys):
    """The factor is printed; float32 on a CPU, where attention keeps more than on a GPU."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("no /proc here that tells the peak of a process")
    found = measure(32, checkpointing, tmp_path)
    train = config.TrainConfig(micro_batch_pairs=32, activation_checkpointing=checkpointing)
    step = cost.training_memory(
        sizes("mini/llava"), train, dtype="float32", positions=found["positions"]
    )
    factor = found["growth"] / (step.activations + step.logits)
    estimated = (step.activations + step.logits) / 1e6
    text = f"{found['positions']} positions, grew by {found['growth'] / 1e6:.0f} MB"
    with capsys.disabled():
        sys.stdout.write(
            f"\nmemory, recomputed {checkpointing}: {text}, estimated {estimated:.0f} MB, "
            f"factor {factor:.2f}\n"
        )
    assert 0.5 < factor < 4.0  # attention with a mask keeps its scores on a CPU
