"""Two processes learn what one learns: each gradient is the same, and so are the adapters."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch

from hadpo import adapter, trainer
from hadpo.config import TrainConfig
from hadpo.records import write_jsonl

SETTINGS = {
    "learning_rate": 1e-3,
    "batch_pairs": 5,
    "micro_batch_pairs": 2,
    "steps": 0,
    "epochs": 1.1,
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "max_length": 512,
    "checkpoint_every": 2,
    "gamma": 0.5,
}
WORKER = """
    import sys
    from pathlib import Path
    import torch
    from hadpo import adapter, backbones, trainer
    from hadpo.config import TrainConfig
    from hadpo.records import Pair, read_jsonl
    torch.set_num_threads(1)
    folder, language_model, vision, rank = Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4]
    files = {"language_model": language_model, "vision": vision}
    backbone = backbones.load("llava/mini", files, device="cpu").to(torch.float64)
    pairs = list(read_jsonl(folder / "pairs.jsonl", Pair))
    metrics, gradients = [], []
    for step in trainer.steps(backbone, pairs, TrainConfig(**SETTINGS), folder=folder / "steps"):
        metrics.append(step.metrics)
        named = backbone.named_parameters()
        gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})
    result = {"metrics": metrics, "gradients": gradients, "adapter": adapter.state(backbone)}
    torch.save(result, folder / f"rank-{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path, tiny_llava, tiny_files, tiny_pairs):
    write_jsonl(tmp_path / "pairs.jsonl", tiny_pairs)
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER).replace("SETTINGS", repr(SETTINGS)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in ("0", "1"):
        environment = os.environ | {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, script, tmp_path, *tiny_files.values(), rank]
        workers.append(subprocess.Popen([str(part) for part in command], env=environment))
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]

    backbone = tiny_llava("float64")
    # 11 visits of ten pairs: the third update has one pair, and the second process none of its own
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in "01")
    expected = []
    for step in trainer.steps(backbone, tiny_pairs, TrainConfig(**SETTINGS)):
        expected.append(step)
        named = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
        assert len(named) == 12 and any(gradient.abs().max() > 0 for gradient in named.values())
        for other in (first["gradients"][step.step], second["gradients"][step.step]):
            assert other.keys() == named.keys()
            for name, gradient in named.items():
                far = (other[name] - gradient).abs().max()
                assert far <= 1e-6 * gradient.abs().max(), (step.step, name)
    assert len(expected) == 3
    mine = adapter.state(backbone)
    for key, value in mine.items():
        assert torch.equal(first["adapter"][key], second["adapter"][key])
        assert (first["adapter"][key] - value).abs().max() < 1e-6 * value.abs().max()
    for step, found in zip(expected, first["metrics"], strict=True):
        for name in ("loss", "rewards/margins", "logps/chosen", "grad_norm", "lm_loss"):
            assert found[name] == pytest.approx(step.metrics[name], rel=1e-5, abs=1e-7)
    assert [p.name for p in (tmp_path / "steps").iterdir()]
