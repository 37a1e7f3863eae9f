"""Teach a connector and a language model to look, on top of a frozen tower.

`train_language` is the loop of every mini base; `MiniLlava` is the one that the others start from.
Two things made a tiny model look at the picture at all: dense lessons (tours through all places,
eight questions in one conversation) and an alignment loss that pulls image tokens towards the word
embeddings of what they show.
"""

import logging
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from hadpo.mini.world import CATEGORIES, COLOURS, PLACES, SETTINGS, Scene
from tools.train_mini.lessons import Turn

log = logging.getLogger(__name__)

BOS, EOS = 1, 2
IGNORED = -100
VISION_WIDTH = 128
WIDTH = 128
ANSWER_WEIGHT = 4.0  # of "Yes" and "No": the only informative token of its turn
CONTENT_WEIGHT = 3.0  # of categories, colours and of "shows" against "is"
ALIGNMENT_WEIGHT = 0.5

PRESENCE = re.compile(r"Is there an? \w+")
Lesson = Callable[[Scene, random.Random], list[Turn]]


@dataclass
class MiniLlava:
    """The trainable parts: what maps features to image tokens, and the language model."""

    projector: nn.Sequential
    language_model: LlamaForCausalLM
    tokenizer: SentencePieceProcessor
    connector_speed: float = 0.3

    @property
    def connector(self) -> nn.Module:
        """The projector, by the name that all families share."""
        return self.projector

    @property
    def embedding(self) -> nn.Embedding:
        """The table of word embeddings."""
        return self.language_model.model.embed_tokens

    def losses(
        self, features: Tensor, labels: Tensor, talks: Sequence[Sequence[Turn]], aims: "Aims"
    ) -> tuple[Tensor, Tensor]:
        """Loss of the answers, and of the alignment."""
        image_tokens = self.projector(features)
        words = answer_loss(self, image_tokens, talks, aims.weights, early=aims.early)
        return words, alignment_loss(self.embedding, image_tokens, labels, aims.groups)


@dataclass(frozen=True)
class Aims:
    """What a stage asks of a model; see `token_weights`, `word_groups` and `tokens`."""

    weights: Tensor
    groups: list[tuple[Tensor, Tensor]]
    early: bool


class Pieces(Protocol):
    """The vocabulary of a tokenizer; `SentencePieceProcessor` is one."""

    def vocab_size(self) -> int: ...

    def piece_to_id(self, piece: str, /) -> int: ...


class Learner(Protocol):
    """What `train_language` trains."""

    connector_speed: float  # learning rate of the connector, as a share of the language model's

    @property
    def connector(self) -> nn.Module: ...

    @property
    def language_model(self) -> nn.Module: ...

    @property
    def tokenizer(self) -> Pieces: ...

    def losses(
        self, features: Tensor, labels: Tensor, talks: Sequence[Sequence[Turn]], aims: Aims
    ) -> tuple[Tensor, Tensor]:
        """Loss of the answers and of the alignment.

        Args:
            features: of the pictures, as the tower gave them: pictures, positions, width.
            labels: of their patches: pictures, heads, patches.
            talks: one lesson per picture.
            aims: of the stage.
        """
        ...


def untrained(tokenizer: SentencePieceProcessor, *, seed: int) -> MiniLlava:
    """A fresh model; large, untied initial weights learn lookups faster at this size."""
    torch.manual_seed(seed)
    language_model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.vocab_size(),
            hidden_size=WIDTH,
            intermediate_size=320,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            initializer_range=0.08,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=0,
        )
    )
    nn.init.normal_(language_model.model.embed_tokens.weight, std=1.0)
    projector = nn.Sequential(nn.Linear(VISION_WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    return MiniLlava(projector, language_model, tokenizer)


def before_image(tokenizer: SentencePieceProcessor) -> list[int]:
    """Token ids of "<s>USER: ", the text in front of the image tokens."""
    return [BOS, *tokenizer.encode("USER: ")]


def tokens(
    turns: Sequence[Turn], tokenizer: SentencePieceProcessor, *, early: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation after the image; only answers are labelled.

    Args:
        turns: instructions and answers.
        tokenizer: the mini tokenizer.
        early: ask for the answer to a presence question right behind the category word as well.
            There it is one lookup away, and the lookup is learned several times faster.
    """
    ids: list[int] = []
    labels: list[int] = []
    for index, (instruction, answer) in enumerate(turns):
        opening = "USER: " if index else "\n"
        prompt = tokenizer.encode(f"{opening}{instruction} ASSISTANT:")
        whole = [*tokenizer.encode(f"{opening}{instruction} ASSISTANT: {answer}"), EOS]
        asked = [IGNORED] * len(prompt)
        if early and (found := PRESENCE.match(instruction)):
            asked[len(tokenizer.encode(f"{opening}{found[0]}"))] = whole[len(prompt)]
        ids += whole
        labels += asked + whole[len(prompt) :]
    return ids, labels


def token_weights(tokenizer: Pieces) -> Tensor:
    """How much each token counts in the loss."""
    weights = torch.ones(tokenizer.vocab_size())
    for word in (*CATEGORIES, *COLOURS, "shows", "is"):
        weights[tokenizer.piece_to_id(f"▁{word}")] = CONTENT_WEIGHT
    for word in ("Yes", "No"):
        weights[tokenizer.piece_to_id(f"▁{word}")] = ANSWER_WEIGHT
    return weights


def word_groups(tokenizer: Pieces) -> list[tuple[Tensor, Tensor]]:
    """Per kind of word: its token ids, and the word of each class of the patch labels (or -100)."""

    def piece(word: str) -> int:
        return tokenizer.piece_to_id(f"▁{word}")

    rows, columns = ("top", "middle", "bottom"), ("left", "center", "right")
    groups = [
        ([piece(word) for word in CATEGORIES], [*range(len(CATEGORIES)), IGNORED]),
        ([piece(word) for word in COLOURS], [*range(len(COLOURS)), IGNORED]),
        ([piece(word) for word in rows], [index // 3 for index in range(len(PLACES))]),
        ([piece(word) for word in columns], [index % 3 for index in range(len(PLACES))]),
        ([piece(word) for word in SETTINGS], list(range(len(SETTINGS)))),
    ]
    return [(torch.tensor(ids), torch.tensor(classes)) for ids, classes in groups]


def alignment_loss(
    embedding: nn.Embedding,
    image_tokens: Tensor,
    patch_labels: Tensor,
    groups: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """Each image token should be nearest to the words for what its patch shows."""
    losses = []
    for (ids, classes), head in zip(groups, (0, 1, 2, 2, 3), strict=True):
        likeness = image_tokens @ embedding(ids).T / WIDTH**0.5
        target = classes[patch_labels[:, head]]
        losses.append(F.cross_entropy(likeness.flatten(0, 1), target.flatten()))
    return torch.stack(losses).mean()


def answer_loss(
    model: MiniLlava,
    image_tokens: Tensor,
    talks: Sequence[Sequence[Turn]],
    weights: Tensor,
    *,
    early: bool,
) -> Tensor:
    """Weighted cross-entropy of the answers."""
    start = torch.tensor(before_image(model.tokenizer))
    pairs = [tokens(turns, model.tokenizer, early=early) for turns in talks]
    length = max(len(ids) for ids, _ in pairs)
    ids = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids, _ in pairs])
    labels = torch.tensor([[*row, *[IGNORED] * (length - len(row))] for _, row in pairs])
    prefix = model.embedding(start).expand(len(pairs), -1, -1)
    embedded = torch.cat([prefix, image_tokens, model.embedding(ids)], dim=1)
    hidden = model.language_model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    hidden = hidden[:, len(start) + image_tokens.shape[1] - 1 : -1]  # predicts `labels`
    is_labelled = labels != IGNORED
    target = labels[is_labelled]
    losses = F.cross_entropy(
        model.language_model.lm_head(hidden[is_labelled]).float(), target, reduction="none"
    )
    return (losses * weights[target]).sum() / weights[target].sum()


def train_language(
    model: Learner,
    scenes: Sequence[Scene],
    features: Tensor,
    patch_labels: Tensor,
    lesson: Lesson,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    early: bool,
) -> None:
    """Train in place on lessons about random pictures."""
    rng = random.Random(seed)
    aims = Aims(token_weights(model.tokenizer), word_groups(model.tokenizer), early)
    connector_rate = learning_rate * model.connector_speed
    parameters = [*model.connector.parameters(), *model.language_model.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": model.language_model.parameters(), "lr": learning_rate},
            {"params": model.connector.parameters(), "lr": connector_rate},
        ],
        weight_decay=0.05,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [learning_rate, connector_rate], total_steps=steps, pct_start=0.08
    )
    for step in range(steps):
        rows = [rng.randrange(len(scenes)) for _ in range(batch_size)]
        talks = [lesson(scenes[row], rng) for row in rows]
        words, aligned = model.losses(features[rows].float(), patch_labels[rows], talks, aims)
        optimizer.zero_grad()
        (words + ALIGNMENT_WEIGHT * aligned).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49 or step == 0:
            log.info("step %d words %.3f alignment %.3f", step + 1, words.item(), aligned.item())
