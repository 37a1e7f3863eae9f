"""One twin that learns: lessons to loss, through the family's own prompts and modules.

All turns of a lesson stand in one row and share one picture, but no turn sees another: each is read
as it is asked later, alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from hadpo.vlm.backbone import Backbone
from hadpo.vlm.prompt import IMAGE
from tools.train_mini.language import IGNORED, PRESENCE, Aims, Pieces, alignment_loss
from tools.train_mini.lessons import Turn

Prompt = Literal["train", "evaluate"]
SHARED = 0  # segment of what all turns of a row see; turns count from 1
PADDING = -1


@dataclass
class Row:
    """The turns about one picture, one id per position."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], labels: Sequence[int], segment: int, start: int) -> None:
        """Append ids, whose positions begin at `start`."""
        self.ids += ids
        self.labels += labels
        self.segments += [segment] * len(ids)
        self.positions += range(start, start + len(ids))


def early_labels(
    tokenizer: Pieces,
    instruction: str,
    asked: Sequence[int],
    said: Sequence[int],
    *,
    early: bool,
) -> list[int]:
    """Labels of what is asked: if `early`, the answer to a presence question at its word."""
    labels = [IGNORED] * len(asked)
    if early and (found := PRESENCE.match(instruction)):
        word = tokenizer.piece_to_id(f"▁{found[0].rpartition(' ')[2]}")
        labels[asked.index(word) + 1] = said[0]
    return labels


def stacked(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids (rows, length), what each position sees (rows, 1, length, length), positions, labels.

    The labels are those of the next position: one less than ids.
    """
    length = max(len(row.ids) for row in rows)

    def table(name: str, padding: int) -> Tensor:
        values = [getattr(row, name) for row in rows]
        return torch.tensor([[*one, *[padding] * (length - len(one))] for one in values])

    segments = table("segments", PADDING)
    is_seen = (segments[:, None] == segments[..., None]) | (segments[:, None] == SHARED)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    labels = table("labels", IGNORED)[:, 1:]
    return table("ids", 0), (is_seen & causal)[:, None], table("positions", 0), labels


def weighted_loss(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy, each target by the weight of its piece."""
    losses = F.cross_entropy(logits, target, reduction="none")
    return (losses * weights[target]).sum() / weights[target].sum()


class Twin:
    """A backbone whose connector and language model learn; see `language.Learner`.

    Args:
        backbone: in float32.
        patches: the patch whose content each image token should hold.
        seed: of the order in which prompts are used.
    """

    connector_speed = 1.0

    def __init__(self, backbone: Backbone, patches: Sequence[int], *, seed: int) -> None:
        self.backbone = backbone
        self.patches = torch.tensor(patches)
        self.generator = torch.Generator().manual_seed(seed)
        path = str(backbone.tokenizer.path)
        self.tokenizer = SentencePieceProcessor(model_file=path)  # pieces, for weights and words
        self.language_model.requires_grad_(True)
        self.connector.requires_grad_(True)

    @property
    def connector(self) -> nn.Module:
        """Features to image tokens."""
        return self.backbone.connector

    @property
    def language_model(self) -> LlamaForCausalLM:
        """The LLaMA."""
        return self.backbone.language_model

    def losses(
        self, features: Tensor, labels: Tensor, talks: Sequence[Sequence[Turn]], aims: Aims
    ) -> tuple[Tensor, Tensor]:
        """Loss of the answers, and of the alignment; a batch has one of the two prompts."""
        prompts: tuple[Prompt, Prompt] = ("train", "evaluate")
        prompt = prompts[int(torch.randint(2, (), generator=self.generator))]
        rows = [self.row(turns, prompt, early=aims.early) for turns in talks]
        instructions = [instruction for turns in talks for instruction, _ in turns]
        if self.backbone.image_tokens_depend_on_instruction:
            turns_of = torch.tensor([len(turns) for turns in talks])
            features = features.repeat_interleave(turns_of, dim=0)
            labels = labels.repeat_interleave(turns_of, dim=0)
        image_tokens = self.backbone.connect(features, instructions)
        words = self.answer_loss(rows, image_tokens, aims.weights)
        aligned = image_tokens[:, : len(self.patches)]  # mPLUG-Owl's last token ends the image
        groups = aims.groups
        return words, alignment_loss(
            self.backbone.embedding, aligned, labels[..., self.patches], groups
        )

    def row(self, turns: Sequence[Turn], prompt: Prompt, *, early: bool) -> Row:
        """Turns behind one picture, or each behind its own where it changes the image tokens."""
        row = Row()
        is_shared = not self.backbone.image_tokens_depend_on_instruction
        for number, (instruction, answer) in enumerate(turns, start=1):
            ids = self.backbone.prompt_ids(instruction, prompt=prompt)
            after_image = ids.index(IMAGE) + 1
            head = self.backbone.expand(ids[:after_image])
            if number == 1 or not is_shared:
                segment = SHARED if is_shared else number
                row.add(head, [IGNORED] * len(head), segment, 0)
            asked, said = ids[after_image:], self.backbone.response_ids(answer)
            labels = early_labels(self.tokenizer, instruction, asked, said, early=early)
            row.add([*asked, *said], [*labels, *said], number, len(head))
        return row

    def answer_loss(self, rows: Sequence[Row], image_tokens: Tensor, weights: Tensor) -> Tensor:
        """Weighted cross-entropy of the answers.

        Args:
            rows: of `row`.
            image_tokens: in the order of the rows, and of their turns where each has its own.
            weights: of each piece of the vocabulary.
        """
        ids, is_seen, positions, labels = stacked(rows)
        embeds = self.backbone.embedding(ids.clamp(min=0))
        embeds = embeds.masked_scatter((ids == IMAGE)[..., None], image_tokens)
        hidden: Any = self.backbone.hidden_states(embeds, is_seen, positions)
        is_labelled = labels != IGNORED
        logits = hidden[:, :-1][is_labelled] @ self.backbone.lm_head_weight.T
        return weighted_loss(logits, labels[is_labelled], weights)
