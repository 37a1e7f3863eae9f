"""Parameters that cannot matter: a given one that the resolved recipe does not read is refused."""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hadpo.config.settings import Recipe
from hadpo.records import BadInput


@dataclass(frozen=True)
class _Switch:
    """What must hold for some settings to be read at all."""

    section: str
    name: str
    holds: Callable[[Any, Any], bool]
    value: Any
    says: str  # how to make it hold


_MINED = _Switch("prepare", "pair_source", operator.eq, "mined", "pair_source=mined")
_CORRECTING_MODEL = _Switch("prepare", "corrector", operator.eq, "llm", "corrector=llm")
_PUBLISHED = _Switch("prepare", "pair_source", operator.eq, "published", "pair_source=published")
_WORLD = _Switch("data", "mini_seed", operator.gt, 0, "mini_seed above 0")
_READING_JUDGE = _Switch("evaluate", "judge", operator.ne, "oracle", "judge=llm")
_NAMED_RUNS = _Switch("compare", "run_names", operator.ne, "", "run_names")
_AUXILIARY = _Switch("train", "gamma", operator.gt, 0, "gamma above 0")
_SEVERAL = _Switch("train", "processes", operator.gt, 1, "processes above 1")
_FITTING = _Switch("evaluate", "batch_questions", operator.eq, 0, "batch_questions=0")
_DPO = _Switch("train", "objective", operator.eq, "dpo", "objective=dpo")
_INSTRUCTED = _Switch("data", "instructions", operator.ne, "", "instructions")
_GRADED = _Switch("data", "gavie", operator.ne, "", "gavie")
_SFT = _Switch("train", "objective", operator.eq, "sft", "objective=sft")
_ADAPTER = _Switch("train", "trained", operator.ne, "connector", "trained=adapter")
_COSINE = _Switch(
    "train",
    "schedule",
    lambda found, wanted: found in wanted,
    ("cosine", "cosine_from_start"),
    "schedule=cosine",
)
_WARMUP = _Switch("train", "warmup_steps", operator.gt, 0, "warmup_steps above 0")
_PUBLISHED_ADAPTER = _Switch("merge", "adapter_folder", operator.ne, "", "adapter_folder")
_BY_EPOCHS = _Switch("train", "steps", operator.eq, 0, "steps=0")

MATTERS_WITH = {  # setting -> what must hold for it to be read
    "description_images": _MINED,
    "yes_no_pairs": _MINED,
    "sampled_share": _MINED,
    "temperature": _MINED,
    "max_new_tokens": _MINED,
    "corrector": _MINED,
    "corrector_model": _CORRECTING_MODEL,
    "corrector_format": _CORRECTING_MODEL,
    "corrector_temperature": _CORRECTING_MODEL,
    "corrector_max_tokens": _CORRECTING_MODEL,
    "corrector_concurrency": _CORRECTING_MODEL,
    "corrector_input_price": _CORRECTING_MODEL,
    "corrector_output_price": _CORRECTING_MODEL,
    "corrector_max_cost_usd": _CORRECTING_MODEL,
    "rewrites": _CORRECTING_MODEL,
    "pairs_schema": _PUBLISHED,
    "pairs_folder": _PUBLISHED,
    "mini_train_images": _WORLD,
    "mini_test_images": _WORLD,
    "instruction_kinds": _INSTRUCTED,
    "gavie_regions": _GRADED,
    "epochs": _BY_EPOCHS,
    "parallel": _SEVERAL,
    "batch_memory_gib": _FITTING,
    "gamma_on": _AUXILIARY,
    **dict.fromkeys(("beta", "gamma", "loss", "label_smoothing", "reference", "controls"), _DPO),
    **dict.fromkeys(("description_share", "repeat_description", "repeat_pope"), _DPO),
    **dict.fromkeys(("mean_over", "mixture", "caption_requests", "max_answer_tokens"), _SFT),
    **dict.fromkeys(("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"), _ADAPTER),
    "min_learning_rate": _COSINE,
    "warmup_learning_rate": _WARMUP,
    "height_bug_compat": _READING_JUDGE,
    "on_difference": _NAMED_RUNS,
    "adapter_projector": _PUBLISHED_ADAPTER,
}


# Settings that say how an update is computed, or what is watched; up to rounding it stays the same.
# A training that was interrupted may go on with others: less memory, more processes.
COMPUTED_ALIKE = frozenset(
    (
        *(
            "micro_batch_pairs",
            "activation_checkpointing",
            "attention",
            "reference",
            "vision_cache_gb",
        ),
        *("processes", "parallel", "checkpoint_every", "log_every", "eval_every", "trackers"),
    )
)


def refuse_without_effect(recipe: Recipe, given: Iterable[str], *, where: str) -> None:
    """Refuse given parameters that nothing would read; what a recipe itself says may lie unused.

    Raises:
        BadInput: one line a parameter, with the switch that makes it matter.
    """
    problems = []
    for name in given:
        switch = MATTERS_WITH.get(name)
        if switch is None:
            continue
        value = getattr(getattr(recipe, switch.section), switch.name)
        if not switch.holds(value, switch.value):
            problems.append(
                f"{where}: parameter {name!r} has no effect while {switch.name} is {value!r}; "
                f"leave it out, or set {switch.says} too"
            )
    if problems:
        raise BadInput("\n".join(problems))
