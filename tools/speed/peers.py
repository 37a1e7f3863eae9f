"""What others do with a pair: two rows, the image encoded for each, the reference all over again.

TRL is its own trainer object on transformers' LLaVA. Liger gives a loss only; like the original
style it runs here on our own modules, in two rows, with the masks that transformers makes.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tokenizers
import torch
import transformers
from accelerate import init_empty_weights
from jaxtyping import Float, Int
from peft import LoraConfig
from torch import Tensor

from hadpo import adapter, loss
from hadpo.backbones import llava
from hadpo.batch import Example
from hadpo.vlm import checkpoint
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.prompt import IMAGE
from tools.speed import models
from tools.speed.models import Geometry

BETA = 0.1
_NOT_SCORED = -100  # label of a position that is no answer's


class TwoRows:
    """Pairs as everybody else packs them: chosen rows, then rejected ones, padded on the right."""

    def __init__(self, examples: Sequence[Example], device: torch.device) -> None:
        rows = [(e, e.chosen) for e in examples] + [(e, e.rejected) for e in examples]
        longest = max(len(e.prefix) + len(answer) for e, answer in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full_like(ids, _NOT_SCORED)
        for r, (example, answer) in enumerate(rows):
            full = [*example.prefix, *answer]
            ids[r, : len(full)] = torch.tensor(full)
            labels[r, len(example.prefix) : len(full)] = torch.tensor(answer)
        lengths = torch.tensor([len(e.prefix) + len(answer) for e, answer in rows])
        self.ids = ids.to(device)
        self.labels = labels.to(device)
        self.real = (torch.arange(longest) < lengths[:, None]).to(device)
        images = list(dict.fromkeys(e.image for e in examples))
        self.image_of = [images.index(e.image) for e in examples]

    def pixels(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "rows 3 s s"]:
        """The image of each row: every image stands there twice."""
        return images[self.image_of * 2]


def hidden_states(
    backbone: Backbone, rows: TwoRows, pixels: Float[Tensor, "images 3 side side"]
) -> Float[Tensor, "rows length width"]:
    """Encode the image of every row, and read every row."""
    tokens = backbone.image_tokens(rows.pixels(pixels), [""] * len(rows.ids))
    embeds = backbone.embed(rows.ids, tokens)
    # As transformers' users do it: no mask where there is no padding, so the causal kernel runs.
    mask = None if bool(rows.real.all()) else rows.real.long()
    model = backbone.language_model.model
    return model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state


def full_logps(
    head: Float[Tensor, "vocab width"],
    hidden: Float[Tensor, "rows length width"],
    labels: Int[Tensor, "rows length"],
) -> Float[Tensor, " rows"]:
    """As the originals: float32 logits and log_softmax of all positions."""
    logits = hidden @ head.T
    logps = (logits if logits.dtype == torch.float64 else logits.float())[:, :-1].log_softmax(-1)
    targets = labels[:, 1:]
    picked = logps.gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return (picked * (targets != _NOT_SCORED)).sum(-1)


def fused_logps(
    head: Float[Tensor, "vocab width"],
    hidden: Float[Tensor, "rows length width"],
    labels: Int[Tensor, "rows length"],
) -> Float[Tensor, " rows"]:
    """Our output layer on two rows: answer positions only, nothing of vocabulary size is kept."""
    is_scored = labels[:, 1:] != _NOT_SCORED
    states, targets = hidden[:, :-1][is_scored], labels[:, 1:][is_scored]
    logps = loss.token_logps(states, head, targets)
    return logps.new_zeros(is_scored.shape).masked_scatter(is_scored, logps).sum(-1)


def original_loss(
    backbone: Backbone, rows: TwoRows, pixels: Tensor, *, logps_of: Callable[..., Tensor]
) -> Tensor:
    """Mean DPO loss; the originals keep a second whole model as reference, which is not counted."""
    head = backbone.lm_head_weight
    with torch.no_grad(), adapter.disabled(backbone):
        reference = logps_of(head, hidden_states(backbone, rows, pixels), rows.labels)
    with _training(backbone):
        hidden = hidden_states(backbone, rows, pixels)
    policy = logps_of(head, hidden, rows.labels)
    return loss.preference_loss(*policy.chunk(2), *reference.chunk(2), beta=BETA).losses.mean()


def liger_loss(backbone: Backbone, rows: TwoRows, pixels: Tensor, *, is_compiled: bool) -> Tensor:
    """Liger's fused DPO loss on the hidden states of policy and reference."""
    liger: Any = importlib.import_module("liger_kernel.chunked_loss")
    with torch.no_grad(), adapter.disabled(backbone):
        reference = hidden_states(backbone, rows, pixels)[:, :-1]
    with _training(backbone):
        hidden = hidden_states(backbone, rows, pixels)[:, :-1]
    head = backbone.lm_head_weight
    dpo = liger.LigerFusedLinearDPOLoss(beta=BETA, compute_nll_loss=False, compiled=is_compiled)
    found = dpo(head, hidden, rows.labels[:, 1:], ref_input=reference, ref_weight=head)
    return found[0] if isinstance(found, tuple) else found


@contextlib.contextmanager
def _training(backbone: Backbone) -> Iterator[None]:
    """Train mode, in which activations are recomputed where that is wanted."""
    backbone.language_model.train()
    try:
        yield
    finally:
        backbone.language_model.eval()


def dpo_trainer(
    model: Any, tokenizer: Any, device: torch.device, *, rank: int, targets: str, **more: Any
) -> Any:
    """`trl.DPOTrainer` with a LoRA on the layers that the expression `targets` names."""
    trl: Any = importlib.import_module("trl")
    datasets: Any = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    is_gpu = device.type == "cuda"  # autocast there, as a user has it
    settings = {"gradient_checkpointing": False, "bf16": is_gpu, "use_cpu": not is_gpu, **more}
    with tempfile.TemporaryDirectory() as folder:
        return trl.DPOTrainer(
            model=model,
            args=trl.DPOConfig(output_dir=folder, beta=BETA, report_to="none", **settings),
            train_dataset=datasets.Dataset.from_dict(
                {"prompt": ["a"], "chosen": ["b"], "rejected": ["a"]}
            ),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets),
        )


class Trl:
    """`trl.DPOTrainer` on transformers' LLaVA with the weights and the adapter of `backbone`."""

    def __init__(self, backbone: llava.Llava, geometry: Geometry) -> None:
        words = {"<unk>": 0, "a": 1, "b": 2}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>")),
            unk_token="<unk>",
            eos_token="<unk>",
            pad_token="<unk>",
        )
        self.image_id = geometry.vocab - 1
        targets = geometry.targets or "q_proj,k_proj,v_proj"
        self.trainer = dpo_trainer(
            twin(backbone, geometry),
            tokenizer,
            backbone.device,
            rank=geometry.rank,
            targets=r".*language_model.*\.(" + targets.replace(",", "|") + ")",
        )
        self.model = self.trainer.model
        exact = torch.promote_types(backbone.dtype, torch.float32)
        self.lora = {
            name.partition("language_model.")[2].replace(".default.", "."): parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        for key, value in adapter.state(backbone).items():
            self.lora[key.partition("base_model.model.model.")[2]].data = value.to(exact).clone()

    def loss(self, rows: TwoRows, pixels: Tensor) -> Tensor:
        """What its training step differentiates; it counts its metrics as it always does."""
        images = rows.pixels(pixels)
        inputs = {
            "input_ids": torch.where(rows.ids == IMAGE, self.image_id, rows.ids),
            "attention_mask": rows.real.long(),
            "completion_mask": (rows.labels != _NOT_SCORED).long(),
            "pixel_values": images.to(rows.ids.device, next(iter(self.model.parameters())).dtype),
        }
        self.model.train()
        return self.trainer.compute_loss(self.model, inputs)


def twin(backbone: llava.Llava, geometry: Geometry) -> Any:
    """Transformers' LLaVA on the very same tensors."""
    config = transformers.LlavaConfig(
        vision_config=models.clip_config(geometry) | {"model_type": "clip_vision_model"},
        text_config=backbone.language_model.config.to_dict(),
        image_token_index=geometry.vocab - 1,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    with init_empty_weights(include_buffers=False):
        model: Any = transformers.LlavaForConditionalGeneration(config)
    ours = {k.replace(".base_layer.", "."): v for k, v in backbone.state_dict().items()}
    keys = llava.HUB_KEYS | {"model.vision_tower.{}": "vision.{}"}
    weights = {}
    for name, parameter in model.named_parameters():
        key = checkpoint.translate(name, keys)
        if key in ours:
            weights[name] = ours[key]
        else:  # the tower's last layer, which transformers runs though nobody looks at it
            weights[name] = torch.zeros(parameter.shape, dtype=backbone.dtype)
    model.load_state_dict(weights, strict=False, assign=True)
    return model.to(backbone.device).requires_grad_(False).eval()


@contextlib.contextmanager
def compaction(*, is_on: bool) -> Iterator[None]:
    """TRL's token compaction, which it has with Triton only, that is on GPUs.

    Without, TRL on a CPU projects every position, which flatters whoever is compared with it.
    """
    utils: Any = importlib.import_module("trl.trainer.utils")
    default = utils._use_triton
    if is_on:
        utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = default
