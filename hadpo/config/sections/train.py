"""Section `train`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config.sections.ranges import (
    STRICT,
    Amount,
    AtLeastOne,
    Count,
    Positive,
    ShareBelowHalf,
    ShareBelowOne,
    ShareOrMinusOne,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """What is trained on what, and how: DPO on pairs, or finetuning on instructions."""

    objective: Literal["dpo", "sft"] = "dpo"  # pairs of answers, or instructions and their answers
    trained: Literal["adapter", "connector", "adapter+connector"] = "adapter"  # the rest is frozen
    beta: Amount = 0.1  # strength of the reference, DPO Eq. 7
    gamma: Amount = 0.0  # weight of the auxiliary language-modelling term
    gamma_on: Literal["chosen", "instructions"] = "chosen"  # its texts: of the pairs, or apart
    loss: Literal["sigmoid", "ipo"] = "sigmoid"  # preference loss
    label_smoothing: ShareBelowHalf = 0.0  # share of labels assumed to be wrong (sigmoid only)
    learning_rate: Amount = 2.0e-6  # peak
    schedule: Literal["cosine", "cosine_from_start", "linear", "constant"] = "cosine"  # see order
    min_learning_rate: Amount = 0.0  # where a cosine ends
    warmup_learning_rate: Amount = 0.0  # where the warm-up begins
    warmup_steps: Count = 0  # linear; no hidden ratio
    epochs: Amount = 1.0  # passes over the pairs; steps > 0 wins
    steps: Count = 0  # optimizer updates; 0: from epochs
    batch_pairs: AtLeastOne = 16  # pairs per optimizer update
    micro_batch_pairs: AtLeastOne = 4  # pairs per backward pass
    pairs_per_row: AtLeastOne = 1  # > 1: pairs of one image share a packed row, and an update
    reference: Literal["adapter_off", "cache"] = "adapter_off"  # cache: kept beside the pairs
    description_share: ShareOrMinusOne = -1.0  # of each batch; -1: as they lie in the pair file
    repeat_description: Count = 1  # copies of each description pair
    repeat_pope: Count = 1  # copies of each question pair
    optimizer: Literal["adamw", "paged_adamw_32bit", "adamw_8bit"] = "adamw"  # of bitsandbytes: GPU
    weight_decay: Amount = 0.0  # of AdamW
    max_grad_norm: Amount = 1.0  # clip; 0: never
    lora_rank: AtLeastOne = 64  # r
    lora_alpha: Amount = 16.0  # scale is alpha / r
    lora_b_rate_ratio: Positive = 1.0  # learning rate of B over that of A; 1: one rate for both
    lora_dropout: ShareBelowOne = 0.0  # 0 as the originals really ran (they set every dropout to 0)
    lora_targets: str = "q_proj,k_proj,v_proj"  # modules inside the language model
    max_length: AtLeastOne = 2048  # positions of prefix and one answer; what is cut is counted
    attention: Literal["dense", "segments"] = "dense"  # packed rows in one masked call, or in parts
    max_answer_tokens: Count = 0  # sft: of an answer with its end marker; 0: no limit of its own
    activation_checkpointing: bool = False  # recompute instead of keeping activations
    mean_over: Literal["answers", "tokens"] = "answers"  # sft: what counts alike in a loss
    mixture: str = ""  # sft: "source=share, ..." of what is drawn; empty: all, as they lie
    caption_requests: Literal["detailed", "humour"] = "detailed"  # sft: of records without one
    early_stop: Count = 0  # stop after so many looks without a better held-out loss; 0: never
    controls: str = ""  # sft: also finetune on the chosen texts only, as a control
    checkpoint_every: AtLeastOne = 50  # updates between checkpoints
    keep_steps: bool = False  # what was trained at each checkpoint stays, to be evaluated: step-50
    log_every: AtLeastOne = 1  # updates between metric lines
    eval_every: Count = 0  # updates between looks at the held-out pairs; 0: at checkpoints
    trackers: str = ""  # tensorboard, wandb (comma separated), through accelerate; empty: none
    processes: AtLeastOne = 1  # processes that share each update, one on each GPU
    parallel: Literal["ddp", "fsdp2", "zero2", "zero3"] = "ddp"  # what they share out
    vision_cache_gb: Amount = 0.0  # image features kept on disk, at most so many GB; 0: none
    train_seed: Count = 42  # order of the pairs and start of the adapter
