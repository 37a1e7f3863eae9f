"""The schedule of the twins: as the mini LLaVA's, but nothing begins at nothing.

EVA starts from LLaVA's CLIP; the first twin's language model from LLaVA's, with what it was taught
to invent, which two stages of true lessons undo; the others' from the first one's clean stage.
Every stage is a whole checkpoint in the authors' layout, skipped where it is already there.
"""

import logging
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from hadpo import config
from hadpo.mini.world import Scene, scenes
from tools.train_mini import twin_files, twin_towers
from tools.train_mini.tokenizer import train as train_tokenizer
from tools.train_mini.training import SEED, STAGES, Stopwatch, teach
from tools.train_mini.twin import Twin
from tools.train_mini.twins import EVA_FOLDER, TWINS, Backbone, prompt_texts, read
from tools.train_mini.vision import normalise, patch_labels, pictures

log = logging.getLogger(__name__)

LLAVA = config.PACKAGE / "mini" / "weights" / "llava" / "llava-v1.5-mini"
TOWER = {"steps": 400, "batch_size": 64, "learning_rate": 1e-3}
TOWER_IMAGES = 12000


@dataclass(frozen=True)
class Schooling:
    """How long a twin learns."""

    images: int
    numbers: dict[str, dict[str, float]]


def _schooling(images: int, lessons: int, clean: int, faulty: int) -> Schooling:
    return Schooling(
        images,
        {
            "lessons": {"steps": lessons, "batch_size": 32, "learning_rate": 2e-3},
            "clean": {"steps": clean, "batch_size": 32, "learning_rate": 1e-3},
            "faulty": {"steps": faulty, "batch_size": 32, "learning_rate": 1e-3},
        },
    )


# By where the language model comes from. One that was taught true things last needs less.
SCHOOLING = {"llava": _schooling(12000, 200, 150, 450), "minigpt4": _schooling(6000, 120, 50, 250)}


class School:
    """Pictures, what they show, and their features."""

    def __init__(self, images: int) -> None:
        self.scenes: list[Scene] = list(islice(scenes(SEED, held_out=False), images))
        self.images = pictures(self.scenes).contiguous()
        self.labels = torch.from_numpy(np.stack([patch_labels(scene) for scene in self.scenes]))

    def features(self, backbone: Backbone) -> Tensor:
        """Of all pictures, in half precision to save memory."""
        with torch.no_grad():
            parts = (normalise(part) for part in self.images.split(250))
            return torch.cat([backbone.features(part).half() for part in parts])


def train(out: Path, name: str, *, threads: int, last: str = "faulty") -> Path:
    """Run every stage that `out` does not hold yet; the result is `out`/`name` in half precision.

    Args:
        out: folder of stages and results.
        name: of `TWINS`.
        threads: of torch.
        last: the stage to end with.

    Returns:
        The folder of the last stage, in single precision.
    """
    torch.set_num_threads(threads)
    twin = TWINS[name]
    start = out / f"{name}-stages"
    tokenizer, eva = out / "tokenizer.model", out / EVA_FOLDER
    if not (start / "untrained").is_dir():
        if not tokenizer.is_file():
            out.mkdir(parents=True, exist_ok=True)
            train_tokenizer(tokenizer, prompt_texts())
        if twin.language_from == "llava":
            language = _from_llava(tokenizer)
        else:
            clean = train(out, twin.language_from, threads=threads, last="clean")
            language = load_file(clean / "llama" / "model.safetensors")
        torch.manual_seed(SEED)
        twin_files.untrained(name, language, tokenizer, start / "untrained")
    if "vision" in twin.family.PARTS:
        train_eva(out / EVA_FOLDER)
    schooling = SCHOOLING[twin.language_from]
    school = School(schooling.images)
    watch = Stopwatch(start / "training.json", images=schooling.images)
    folder, features = start / "untrained", None
    for number, (stage, _, _) in enumerate(STAGES):
        before, folder = folder, start / stage
        if not folder.is_dir():
            backbone = read(before, name, eva)
            features = school.features(backbone) if features is None else features
            log.info("%s: stage %s", name, stage)
            watch.start()
            numbers = schooling.numbers[stage]
            learner = Twin(backbone, twin.patches, seed=SEED + number)
            teach(learner, number, numbers, school.scenes, features, school.labels)
            twin_files.write(backbone, folder, name, dtype=torch.float32)
            watch.stop(stage, numbers)
        if stage == last:
            break
    if last == STAGES[-1][0]:
        backbone = read(folder, name, eva)
        twin_files.write(backbone, out / name, name, dtype=torch.float16)
        shutil.copyfile(start / "training.json", out / name / "training.json")
    return folder


def train_eva(out: Path) -> None:
    """Write the tower to `out`, unless it is there."""
    if (out / "eva_vit_g.json").is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    school = School(TOWER_IMAGES)
    watch = Stopwatch(out / "training.json", images=TOWER_IMAGES)
    tower = twin_towers.train_eva(
        school.images,
        school.labels,
        steps=int(TOWER["steps"]),
        batch_size=int(TOWER["batch_size"]),
        learning_rate=TOWER["learning_rate"],
        seed=SEED,
    )
    twin_files.write_eva(tower, out, dtype=torch.float16)
    watch.stop("tower", TOWER)


def _from_llava(tokenizer: Path) -> dict[str, Tensor]:
    """LLaVA's language model; pieces that its vocabulary lacks get new rows."""
    old = SentencePieceProcessor(model_file=str(LLAVA / "tokenizer.model"))
    new = SentencePieceProcessor(model_file=str(tokenizer))
    weights = {key: value.float() for key, value in load_file(LLAVA / "model.safetensors").items()}
    weights = {key: value for key, value in weights.items() if ".mm_projector." not in key}
    rows = [old.piece_to_id(new.id_to_piece(index)) for index in range(new.vocab_size())]
    is_new = [row == old.unk_id() and index > 0 for index, row in enumerate(rows)]
    torch.manual_seed(SEED)
    for key, spread in (("model.embed_tokens.weight", 1.0), ("lm_head.weight", 0.08)):
        value = weights[key][rows]
        fresh = torch.randn_like(value) * spread
        weights[key] = torch.where(torch.tensor(is_new)[:, None], fresh, value)
    log.info("%d of %d pieces are new", sum(is_new), len(rows))
    return weights
