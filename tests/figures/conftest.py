import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hadpo.records import Metric


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (48, 32), (90, 140, 200)).save(path)
    return path


@pytest.fixture(scope="session")
def steps() -> list[dict]:
    """A dpo run of thirty steps and an sft control."""
    draw = random.Random(0)
    found = []
    for objective, gain in (("dpo", 0.1), ("sft", 0.02)):
        for step in range(30):
            noise = draw.gauss(0, 0.05)
            metrics = {
                "loss": 0.69 - gain * step / 10 + noise,
                "rewards/chosen": gain * step + noise,
                "rewards/rejected": -gain * step + noise,
                "rewards/margins": 2 * gain * step,
                "rewards/accuracies": min(1.0, 0.5 + gain * step / 4),
                "logps/chosen": -30 + step * gain,
                "logps/rejected": -34 - step * gain,
            }
            found.append({"objective": objective, "step": step, "epoch": 0.1, "metrics": metrics})
    return found


@pytest.fixture(scope="session")
def metrics() -> list[Metric]:
    """POPE and SHR of a base, a tuned model and a cut base, as an evaluation writes them."""
    found = []

    def add(benchmark: str, split: str, model: str, n: int, **values: float) -> None:
        for name, value in values.items():
            ends = {"low": value - 0.03, "high": value + 0.03} if value < 1 else {}
            place = {"benchmark": benchmark, "split": split, "model": model, "name": name}
            found.append(Metric(value=value, n=n, **place, **ends))

    for split, wrong in (("random", 10), ("adversarial", 24)):
        for model, fp in (("base", 2 * wrong), ("merged", wrong)):
            tp, fn, tn = 55.0, 5.0, 60.0 - fp
            counts = {"true_positives": tp, "false_positives": float(fp)}
            counts |= {"true_negatives": tn, "false_negatives": fn}
            rates = {"accuracy": (tp + tn) / 120, "yes_ratio": (tp + fp) / 120}
            add("pope", split, model, 120, **counts, **rates)
    for model, share in (("base", 0.3), ("merged", 0.15), ("base_cut", 0.25)):
        add(
            "shr",
            "val",
            model,
            100,
            hallucinated_sentence_ratio=share,
            absent_sentence_ratio=share / 3,
            attribute_sentence_ratio=share * 2 / 3,
            words_per_answer=40 + 20 * share,
        )
    return found


@pytest.fixture(scope="module")
def write_run() -> Callable[..., None]:
    from tests.tables.made_up_run import write_run

    return write_run
