"""The modern twin learns: its own tower, then lessons through the class's own prompts and modules.

As in `twin`, all turns of a lesson share one picture and no turn sees another; a batch has pictures
of one size, drawn at random, because this class reads every size.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from hadpo import backbones
from hadpo.vlm.prompt import IMAGE
from tools.train_mini.language import IGNORED, Aims, alignment_loss
from tools.train_mini.lessons import Turn
from tools.train_mini.modern_files import MERGE, untrained
from tools.train_mini.training import SEED, STAGES, Stopwatch, teach
from tools.train_mini.twin import SHARED, Row, early_labels, stacked, weighted_loss
from tools.train_mini.twin_training import School
from tools.train_mini.vision import GRID, PATCH_SIZE_PIXELS, fit, normalise

log = logging.getLogger(__name__)

NAME = "qwen3-vl"
IMAGES = 12000
TOWER = {"steps": 600, "batch_size": 64, "learning_rate": 1e-3}
SCHOOLING = {
    "lessons": {"steps": 400, "batch_size": 32, "learning_rate": 2e-3},
    "clean": {"steps": 150, "batch_size": 32, "learning_rate": 1e-3},
    "faulty": {"steps": 300, "batch_size": 32, "learning_rate": 1e-3},
}
SIZES = ((96, 96), (96, 128), (128, 96), (128, 128))  # height, width
SHARES = torch.tensor([0.55, 0.15, 0.15, 0.15])


class Modern:
    """A backbone `hf` of Qwen3-VL whose mergers and decoder learn; see `language.Learner`."""

    connector_speed = 1.0

    def __init__(self, backbone: Any, *, seed: int) -> None:
        self.backbone = backbone
        self.model = backbone.language_model
        self.visual = self.model.model.visual
        self.generator = torch.Generator().manual_seed(seed)
        backbone.decoder.config._attn_implementation = "sdpa"
        self.tokenizer = _Pieces(backbone.chat)
        self.language_model = nn.ModuleList([backbone.decoder, self.model.lm_head])
        mergers = [self.visual.merger, *self.visual.deepstack_merger_list]
        self.connector = nn.ModuleList(mergers)
        self.heads = {size: self._head(size) for size in SIZES}
        self.language_model.requires_grad_(True)
        self.connector.requires_grad_(True)

    def losses(
        self, features: Tensor, labels: Tensor, talks: Sequence[Sequence[Turn]], aims: Aims
    ) -> tuple[Tensor, Tensor]:
        """Loss of the answers, and of the alignment.

        Args:
            features: the pictures themselves, as bytes.
            labels: scenes, heads, patches.
            talks: one lesson per picture.
            aims: of the stage.
        """
        size = SIZES[int(torch.multinomial(SHARES, 1, generator=self.generator))]
        pixels, grids = patches(resized(normalise(features), size))
        made = self.visual(pixels, grid_thw=grids)
        tokens = made.pooler_output.unflatten(0, (len(talks), -1))
        rows = [self.row(turns, size, early=aims.early) for turns in talks]
        words = self.answer_loss(rows, size, tokens, made.deepstack_features, aims.weights)
        places = labels.unflatten(-1, (GRID, GRID))
        for axis, pixels_along in zip((-2, -1), size, strict=True):
            places = places.index_select(axis, _centres(pixels_along, PATCH_SIZE_PIXELS * MERGE))
        embedding = self.backbone.embedding
        return words, alignment_loss(embedding, tokens, places.flatten(-2), aims.groups)

    def _head(self, size: tuple[int, int]) -> tuple[list[int], Tensor]:
        """Ids up to the image's end, and their positions on three axes, as the class has them."""
        chat = self.backbone.chat
        made = chat.process(chat.text(""), _blank(size))
        self.model.model.rope_deltas = None
        positions, _ = self.model.model.get_rope_index(
            made["input_ids"], made["mm_token_type_ids"], image_grid_thw=made["image_grid_thw"]
        )
        ids = made["input_ids"][0].tolist()
        end = len(ids) - ids[::-1].index(chat.image_id)
        return ids[:end], positions[:, 0, :end]

    def row(self, turns: Sequence[Turn], size: tuple[int, int], *, early: bool) -> Row:
        """Turns behind one picture."""
        row = Row()
        head, positions = self.heads[size]
        row.add([IMAGE if i == self.backbone.chat.image_id else i for i in head],
                [IGNORED] * len(head), SHARED, 0)  # fmt: skip
        image = _blank(size)
        for number, (instruction, answer) in enumerate(turns, start=1):
            asked = self.backbone.prefix(instruction, image, prompt="train")[len(head) :]
            said = self.backbone.response_ids(answer)
            labels = early_labels(self.tokenizer, instruction, asked, said, early=early)
            row.add([*asked, *said], [*labels, *said], number, int(positions.max()) + 1)
        return row

    def answer_loss(
        self,
        rows: Sequence[Row],
        size: tuple[int, int],
        tokens: Tensor,
        deepstack: Sequence[Tensor],
        weights: Tensor,
    ) -> Tensor:
        """Weighted cross-entropy of the answers to rows about pictures of one size."""
        ids, is_seen, along, labels = stacked(rows)
        _, start = self.heads[size]
        positions = along.expand(3, -1, -1).clone()
        positions[:, :, : start.shape[1]] = start[:, None]
        is_image = ids == IMAGE
        embeds = self.backbone.embedding(ids.clamp(min=0))
        embeds = embeds.masked_scatter(is_image[..., None], tokens)
        hidden = self.backbone.decoder(
            inputs_embeds=embeds,
            attention_mask=is_seen,
            position_ids=positions,
            use_cache=False,
            visual_pos_masks=is_image,
            deepstack_visual_embeds=[*deepstack],
        ).last_hidden_state
        is_labelled = labels != IGNORED
        logits = self.model.lm_head(hidden[:, :-1][is_labelled])
        return weighted_loss(logits, labels[is_labelled], weights)


def _blank(size: tuple[int, int]) -> Image.Image:
    height, width = size
    return Image.new("RGB", (width, height))


class _Pieces:
    """A folder's tokenizer, as lessons ask it."""

    def __init__(self, chat: Any) -> None:
        self._ids = chat.processor.tokenizer.get_vocab()

    def vocab_size(self) -> int:
        return len(self._ids)

    def piece_to_id(self, piece: str) -> int:
        return self._ids[piece]


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures at another height and width."""
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size, mode="bicubic", antialias=True)


def patches(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures of one size as the class's processor flattens them, and their grids."""
    side, count = PATCH_SIZE_PIXELS, len(pixels)
    grid = [length // side for length in pixels.shape[-2:]]
    blocks = [length // MERGE for length in grid]
    cut = pixels.reshape(count, 3, blocks[0], MERGE, side, blocks[1], MERGE, side)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(*[-1] * 6, 2, -1, -1)
    return cut.reshape(-1, 3 * 2 * side * side), torch.tensor([[1, *grid]] * count)


def _centres(pixels: int, unit: int) -> Tensor:
    """The patch of the smallest picture in which the middle of each unit lies."""
    count = pixels // unit
    return ((torch.arange(count) + 0.5) * GRID / count).long()


def train_tower(visual: Any, school: School) -> None:
    """Teach the tower, from CLIP's weights, what its patches show, at all sizes."""
    torch.manual_seed(SEED)
    visual.requires_grad_(True)
    visual.merger.requires_grad_(False)
    visual.deepstack_merger_list.requires_grad_(False)

    def states(pixels: Tensor) -> list[tuple[Tensor, float]]:
        size = SIZES[int(torch.multinomial(SHARES, 1))]
        made = visual(*patches(resized(pixels, size))).last_hidden_state
        height, width = (length // (PATCH_SIZE_PIXELS * MERGE) for length in size)
        made = made.view(len(pixels), height, width, MERGE, MERGE, -1).transpose(2, 3)
        made = made.reshape(len(pixels), height * MERGE, width * MERGE, -1)
        for axis in (1, 2):  # the patch that lies over each of the labels
            at = (torch.arange(GRID) + 0.5) * made.shape[axis] / GRID
            made = made.index_select(axis, at.long())
        made = F.layer_norm(made, made.shape[-1:]).flatten(1, 2)
        return [(torch.cat([made[:, :1], made], dim=1), 1.0)]  # `fit` leaves the first one out

    fit(
        visual,
        states,
        school.images,
        school.labels,
        steps=int(TOWER["steps"]),
        batch_size=int(TOWER["batch_size"]),
        rate=TOWER["learning_rate"],
    )
    visual.requires_grad_(False)


def read(folder: Path) -> Any:
    """The twin in float32."""
    return backbones.load("hf/auto", {"language_model": folder}, dtype="float32", device="cpu")


def train(out: Path, *, threads: int) -> None:
    """Run every stage that `out` does not hold yet; the result is `out`/qwen3-vl in float16."""
    torch.set_num_threads(threads)
    start = out / f"{NAME}-stages"
    folder = start / "untrained"
    school = School(IMAGES)
    if not (folder / "generation_config.json").is_file():  # what is written last
        untrained(folder, normalise(school.images[:200]))
    watch = Stopwatch(start / "training.json", images=IMAGES)
    before, folder = folder, start / "tower"
    if not folder.is_dir():
        backbone = read(before)
        watch.start()
        train_tower(backbone.language_model.model.visual, school)
        backbone.save_original(folder, dtype=torch.float32)
        watch.stop("tower", TOWER)
    for number, (stage, _, _) in enumerate(STAGES):
        before, folder = folder, start / stage
        if folder.is_dir():
            continue
        log.info("%s: stage %s", NAME, stage)
        backbone, numbers = read(before), SCHOOLING[stage]
        watch.start()
        learner = Modern(backbone, seed=SEED + number)
        teach(learner, number, numbers, school.scenes, school.images, school.labels)
        backbone.save_original(folder, dtype=torch.float32)
        watch.stop(stage, numbers)
    read(folder).save_original(out / NAME, dtype=torch.float16)
    shutil.copyfile(start / "training.json", out / NAME / "training.json")
