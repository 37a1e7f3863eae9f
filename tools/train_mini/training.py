"""The schedule of the mini base: four stages, each saved and skipped where it is already there.

1. tower: the CLIP tower learns what stands in every cell (dense labels), then is frozen.
2. lessons: projector and language model learn to look, from dense clean lessons.
3. clean: descriptions and questions as they are asked later, all answers true.
4. faulty: the same with the faults of `hadpo.mini.lessons`. This injects the bias that HA-DPO
   then has to cure: inventing what is usual, and saying yes to it.

The checkpoint is written in the authors' layout.
"""

import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionModel

from hadpo.mini.world import Scene, scenes
from tools.train_mini import checkpoint
from tools.train_mini.language import Learner, MiniLlava, train_language, untrained
from tools.train_mini.lessons import Turn, description, full_tour, quiz
from tools.train_mini.tokenizer import train as train_tokenizer
from tools.train_mini.vision import all_features, patch_labels, pictures, tower, train_tower

log = logging.getLogger(__name__)

DATA_VERSION = 1  # of world.py, draw.py, captions.py and lessons.py
SEED = 1
IMAGES = 16000
TOWER = {"steps": 1600, "batch_size": 64, "learning_rate": 2e-3}
LESSONS = {"steps": 900, "batch_size": 32, "learning_rate": 2e-3}
CLEAN = {"steps": 500, "batch_size": 32, "learning_rate": 1e-3}
FAULTY = {"steps": 700, "batch_size": 32, "learning_rate": 1e-3}


def dense_lesson(scene: Scene, rng: random.Random) -> list[Turn]:
    """Stage 2: a tour through all places, or seven questions."""
    if rng.random() < 0.4:
        return full_tour(scene, rng)
    return quiz(scene, rng, turns=7, is_faulty=False)


def clean_lesson(scene: Scene, rng: random.Random) -> list[Turn]:
    """Stage 3: a description, or a few questions."""
    if rng.random() < 0.5:
        return description(scene, rng, is_faulty=False)
    return quiz(scene, rng, turns=rng.randint(1, 5), is_faulty=False)


def faulty_lesson(scene: Scene, rng: random.Random) -> list[Turn]:
    """Stage 4: as stage 3, with faults."""
    if rng.random() < 0.5:
        return description(scene, rng, is_faulty=True)
    return quiz(scene, rng, turns=rng.randint(1, 5), is_faulty=True)


STAGES = (
    ("lessons", dense_lesson, LESSONS),
    ("clean", clean_lesson, CLEAN),
    ("faulty", faulty_lesson, FAULTY),
)


def train(out: Path, *, threads: int) -> None:
    """Run every stage that `out` does not hold yet, then write the checkpoint to `out`/llava."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch(out / "training.json", images=IMAGES)
    some = list(islice(scenes(SEED, held_out=False), IMAGES))
    images = pictures(some).contiguous()
    labels = torch.from_numpy(np.stack([patch_labels(scene) for scene in some]))
    tokenizer = train_tokenizer(out / "tokenizer.model")
    vision = _tower(out / "tower.pt", images, labels, watch)
    features = all_features(vision, images)
    model = untrained(tokenizer, seed=SEED)
    for number, (name, _, numbers) in enumerate(STAGES):
        path = out / f"{name}.pt"
        if path.is_file():
            _load(path, model)
            continue
        log.info("stage %s", name)
        watch.start()
        teach(model, number, numbers, some, features, labels)
        _save(path, model)
        watch.stop(name, numbers)
    checkpoint.save(out / "llava", vision, model, out / "tokenizer.model")


def teach(
    learner: Learner,
    number: int,
    numbers: Mapping[str, float],
    some: Sequence[Scene],
    features: Tensor,
    labels: Tensor,
) -> None:
    """Stage `number` of `STAGES`, with the learner's own steps, batch size and learning rate."""
    stage, lesson, _ = STAGES[number]
    train_language(
        learner,
        some,
        features,
        labels,
        lesson,
        steps=int(numbers["steps"]),
        batch_size=int(numbers["batch_size"]),
        learning_rate=numbers["learning_rate"],
        seed=SEED + number,
        early=stage == "lessons",
    )


class Stopwatch:
    """Writes down what each stage was and what it cost, over several calls."""

    def __init__(self, path: Path, *, images: int) -> None:
        self.path = path
        self.record: dict[str, Any] = {
            "seed": SEED,
            "data_version": DATA_VERSION,
            "images": images,
            "torch": torch.__version__,
        }
        if path.is_file():
            self.record |= json.loads(path.read_text(encoding="utf-8"))
        self.started = time.process_time()

    def start(self) -> None:
        """A stage begins."""
        self.started = time.process_time()

    def stop(self, stage: str, numbers: dict[str, float]) -> None:
        """A stage is done."""
        seconds = round(time.process_time() - self.started)
        self.record[stage] = {**numbers, "cpu_seconds": seconds}
        self.path.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")


def _tower(
    path: Path, images: torch.Tensor, labels: torch.Tensor, watch: Stopwatch
) -> CLIPVisionModel:
    if path.is_file():
        vision = tower()
        vision.load_state_dict(torch.load(path, weights_only=True))
    else:
        watch.start()
        vision = train_tower(
            images,
            labels,
            steps=int(TOWER["steps"]),
            batch_size=int(TOWER["batch_size"]),
            learning_rate=TOWER["learning_rate"],
            seed=SEED,
        )
        torch.save(vision.state_dict(), path)
        watch.stop("tower", TOWER)
    return vision.eval()


def _save(path: Path, model: MiniLlava) -> None:
    torch.save(
        {
            "projector": model.projector.state_dict(),
            "language_model": model.language_model.state_dict(),
        },
        path,
    )


def _load(path: Path, model: MiniLlava) -> None:
    weights = torch.load(path, weights_only=True)
    model.projector.load_state_dict(weights["projector"])
    model.language_model.load_state_dict(weights["language_model"])
