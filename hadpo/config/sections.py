"""One strict dataclass a section of a recipe; a field's comment is its documentation."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from hadpo import plugins
from hadpo.records import BadInput

# What the sections' fields are made of: strictness, and ranges that stand in the types.

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
ShareBelowHalf = Annotated[float, Field(ge=0, lt=0.5)]


def _minus_one_or_share(value: float) -> float:
    if value != -1 and not 0 <= value <= 1:
        raise ValueError("expected -1 or 0 to 1")
    return value


ShareOrMinusOne = Annotated[float, pydantic.AfterValidator(_minus_one_or_share)]


# Section `data`.


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the data sets lie, each in its official layout; an empty path means: not used."""

    mini_seed: Count = 0  # > 0: draw the synthetic world with this seed into the run folder
    mini_train_images: Count = 0  # images of the synthetic world to mine pairs from
    mini_test_images: Count = 0  # held-out images of the synthetic world to evaluate on
    visual_genome: str = ""  # folder with image_data.json, VG_100K, VG_100K_2
    pairs_folder: str = ""  # folder with HA-DPO's desc_data.json and pope_data.json
    pairs_schema: Literal["llava-v1.5", "minigpt4", "instructblip"] = "llava-v1.5"  # of these files
    instructions: str = ""  # to finetune on, comma separated: LRV's .json, .jsonl, caption folders
    coco: str = ""  # folder with val2014 and objects.json
    vocabulary: str = ""  # JSON of the words the oracle judge knows; empty: from the evidence


# Section `model`.


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """Which backbone, from which files, in which numbers, on which device."""

    backbone: str  # family/variant, for example llava/1.5-7b
    files: dict[str, str] = field(default_factory=dict)  # part of the backbone -> path
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: fits the device
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"  # of the LM; needs bitsandbytes


# Section `prepare`.


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrepareConfig:
    """Where the preference pairs come from, and the questions of the evaluation."""

    pair_source: Literal["published", "mined", "none"] = "published"  # files, or its own answers
    instruction_kinds: str = "positive,negative,chart,caption"  # which instructions are kept
    description_images: Count = 0  # mined: images the model describes
    yes_no_pairs: Count = 0  # mined: question pairs to keep
    sampled_share: Share = 0.5  # mined: share of the descriptions that are sampled, the rest greedy
    temperature: Amount = 0.7  # mined: of the sampled descriptions
    max_new_tokens: AtLeastOne = 100  # mined: per description
    corrector: Literal["oracle", "llm"] = "oracle"  # mined: who finds and corrects false sentences
    corrector_model: str = ""  # llm: the model's name on the server at OPENAI_BASE_URL
    corrector_format: Literal["json_schema", "json_object"] = "json_schema"  # llm: of the replies
    corrector_temperature: Amount = 0.0  # llm: above 0, rewrites of one text differ more
    corrector_max_tokens: AtLeastOne = 1500  # llm: per reply; a longer one is cut off
    corrector_concurrency: AtLeastOne = 8  # llm: requests at a time
    corrector_input_price: Amount = 0.0  # llm: dollars per million tokens of prompts; 0: unknown
    corrector_output_price: Amount = 0.0  # llm: dollars per million tokens of replies; 0: unknown
    corrector_max_cost_usd: Amount = 0.0  # llm: by estimate, no start costs more; 0: no limit
    rewrites: Count = 0  # llm: of chosen and of rejected, in one style; HA-DPO's files have 3
    limit: Count = 0  # at most this many pairs or instructions of each kind; 0: all
    on_bad: Literal["error", "skip"] = "error"  # a broken record: stop, or skip and count it
    held_out_share: Share = 0.0  # of the pairs' images, kept from training to watch it; 0: none
    on_overlap: Literal["error", "count"] = "error"  # images both trained on and evaluated
    prepare_seed: Count = 42  # draws prompts, rewrites and samples


# Section `train`.


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


# Section `merge`.


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MergeConfig:
    """Adapter into weights, and the proof that both say the same."""

    merged_dtype: Literal["float32", "bfloat16", "float16"] = "float16"  # of the files on disk
    check_pairs: AtLeastOne = 3  # pairs on which merged and adapter must agree
    save_transformers: bool = True  # LLaVA only: also a folder for transformers, beside merged/
    adapter_folder: str = ""  # a published adapter; empty: the one of the train stage
    adapter_projector: Literal["adapter", "base"] = (
        "adapter"  # LLaVA's published ones bring their own
    )


# Section `evaluate`.


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateConfig:
    """Which models answer which benchmarks, how they decode, and who judges."""

    benchmark_names: str = "pope,shr"  # module names in hadpo/benchmarks
    models: str = "base,merged"  # of base, merged, and the controls that were trained
    prompt: Literal["evaluate", "train"] = "evaluate"  # which of the backbone's two prompts
    repetition_penalty: Positive = 1.0  # over generated tokens only
    batch_questions: Count = 0  # questions at once, halved where memory runs out; 0: as many as fit
    batch_memory_gib: Amount = 0.0  # what they may take beside the weights; 0: 80 % of what is free
    answer_processes: AtLeastOne = 1  # share the images, each with the model on its own device
    exact: bool = False  # one question at a time, nothing shared: slow, and the reference
    judge: str = "oracle"  # module name in hadpo/judges: oracle, llm or replay
    judge_model: str = ""  # llm, replay: the model's name on the server at OPENAI_BASE_URL
    judge_prompts: str = ""  # folder of your own prompts (shr.txt, gavie.txt); empty: ours
    judge_reader: Literal["tolerant", "upstream"] = "tolerant"  # of the replies on sentences
    judge_format: Literal["json_schema", "json_object", "text"] = "json_schema"  # of the replies
    judge_temperature: Amount = 0.0  # the paper's SHR judge had 0.7
    judge_max_tokens: AtLeastOne = 800  # per reply; a longer one is cut off and unreadable
    judge_delivery: Literal["direct", "batch"] = "direct"  # batch: hand in, collect on a rerun
    judge_concurrency: AtLeastOne = 8  # requests at a time
    judge_timeout_seconds: Positive = 60.0  # of one request
    judge_retries: Count = 4  # of a request whose error may pass
    judge_attempts: AtLeastOne = 2  # times in all that an unreadable reply is asked for
    judge_input_price: Amount = 0.0  # dollars per million tokens of the prompts; 0: unknown
    judge_output_price: Amount = 0.0  # dollars per million tokens of the replies; 0: unknown
    judge_max_cost_usd: Amount = 0.0  # by estimate, no start costs more; 0: no limit
    judge_replies: str = ""  # replay: judge_replies.jsonl of a run; empty: the cache of all runs
    cut_control: bool = False  # also score the base's text, cut to the tuned model's sentence count
    questions_limit: Count = 0  # at most this many questions of each split; 0: all
    bootstrap_samples: AtLeastOne = 1000  # resampled image sets behind each interval
    evaluate_seed: Count = 42  # of the bootstrap


# Section `compare`.


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompareConfig:
    """Which runs stand beside which published numbers."""

    run_names: str = ""  # names, comma separated; empty: this run alone
    reported: str = "hadpo"  # systems in papers_results/reported, comma separated; empty: none
    reported_backbone: str = ""  # keep only the published rows of this backbone; empty: all
    on_difference: Literal["error", "note"] = "error"  # other questions, reading or judge: refuse


__all__ = [
    "CompareConfig",
    "DataConfig",
    "EvaluateConfig",
    "MergeConfig",
    "ModelConfig",
    "PrepareConfig",
    "TrainConfig",
]


# Parameters that cannot matter: a given one that the resolved recipe does not read is refused.


@dataclasses.dataclass(frozen=True)
class Switch:
    """What must hold for some settings to be read at all."""

    section: str
    name: str
    holds: Callable[[Any, Any], bool]
    value: Any
    says: str  # how to make it hold


_MINED = Switch("prepare", "pair_source", operator.eq, "mined", "pair_source=mined")
_CORRECTING_MODEL = Switch("prepare", "corrector", operator.eq, "llm", "corrector=llm")
_PUBLISHED = Switch("prepare", "pair_source", operator.eq, "published", "pair_source=published")
_WORLD = Switch("data", "mini_seed", operator.gt, 0, "mini_seed above 0")
_NAMED_RUNS = Switch("compare", "run_names", operator.ne, "", "run_names")
_AUXILIARY = Switch("train", "gamma", operator.gt, 0, "gamma above 0")
_SEVERAL = Switch("train", "processes", operator.gt, 1, "processes above 1")
_FITTING = Switch("evaluate", "batch_questions", operator.eq, 0, "batch_questions=0")
_DPO = Switch("train", "objective", operator.eq, "dpo", "objective=dpo")
_INSTRUCTED = Switch("data", "instructions", operator.ne, "", "instructions")
_SFT = Switch("train", "objective", operator.eq, "sft", "objective=sft")
_ADAPTER = Switch("train", "trained", operator.ne, "connector", "trained=adapter")
_COSINE = Switch(
    "train",
    "schedule",
    lambda found, wanted: found in wanted,
    ("cosine", "cosine_from_start"),
    "schedule=cosine",
)
_WARMUP = Switch("train", "warmup_steps", operator.gt, 0, "warmup_steps above 0")
_PUBLISHED_ADAPTER = Switch("merge", "adapter_folder", operator.ne, "", "adapter_folder")
_BY_EPOCHS = Switch("train", "steps", operator.eq, 0, "steps=0")

_MATTERS_WITH = {  # setting -> what must hold for it to be read
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


def matters_with() -> dict[str, Switch]:
    """Setting -> what must hold for it to be read, also those that benchmarks bring."""
    found = dict(_MATTERS_WITH)
    for name in plugins.available(_BENCHMARKS):
        found |= getattr(plugins.load(_BENCHMARKS, name), "MATTERS_WITH", {})
    return found


def refuse_without_effect(recipe: "Recipe", given: Iterable[str], *, where: str) -> None:
    """Refuse given parameters that nothing would read; what a recipe itself says may lie unused.

    Raises:
        BadInput: one line a parameter, with the switch that makes it matter.
    """
    problems = []
    switches = matters_with()
    for name in given:
        switch = switches.get(name)
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


# A recipe: its sections, which stage reads them, and the parameters that come of it.


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """One reproducible experiment; `name` is the file's path below the recipes folder."""

    name: str
    title: str
    notes: str = ""
    is_mini: bool = False  # the synthetic world: it teaches, it is not a result
    stages: tuple[str, ...] = ("prepare", "train", "merge", "evaluate", "compare")
    model: ModelConfig | None = None
    data: DataConfig = field(default_factory=DataConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)


SECTIONS: dict[str, tuple[str, ...]] = {  # stage -> sections it reads
    "prepare": ("model", "data", "prepare"),
    "train": ("model", "train"),
    "merge": ("model", "merge"),
    "evaluate": ("model", "evaluate"),
    "compare": ("compare",),
}
_OWN_TYPES: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "merge": MergeConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
}
_BENCHMARKS = "hadpo.benchmarks"
_ADDED_BY = {"evaluate": "Settings", "data": "Data"}  # section -> class of a benchmark's module


def section_types() -> dict[str, type]:
    """The dataclass of each section, with the settings that the benchmarks add to it.

    Raises:
        BadInput: two of them declare a setting of the same name.
    """
    return _section_types(tuple(plugins.available(_BENCHMARKS)))


def recipe_type() -> type[Recipe]:
    """`Recipe` with the sections of `section_types`."""
    return _recipe_type(tuple(plugins.available(_BENCHMARKS)))


@functools.cache
def _section_types(benchmarks: tuple[str, ...]) -> dict[str, type]:
    found = dict(_OWN_TYPES)
    owners = {f.name: name for name, kind in found.items() for f in dataclasses.fields(kind)}
    for section, added in _ADDED_BY.items():
        bases = [found[section]]
        for name in benchmarks:
            kind = getattr(plugins.load(_BENCHMARKS, name), added, None)
            for f in dataclasses.fields(kind) if kind else ():
                if owners.setdefault(f.name, f"{_BENCHMARKS}.{name}") != f"{_BENCHMARKS}.{name}":
                    raise BadInput(
                        f"benchmark {name}: its setting {f.name!r} is declared by {owners[f.name]} "
                        f"already; begin it with {name}_"
                    )
            bases += [kind] if kind else []
        # A dataclass takes its fields from the last base first.
        whole = type(found[section].__name__, tuple(reversed(bases)), {})
        found[section] = dataclass(frozen=True, kw_only=True, config=STRICT)(whole)
    return found


@functools.cache
def _recipe_type(benchmarks: tuple[str, ...]) -> type[Recipe]:
    kinds = {section: _section_types(benchmarks)[section] for section in _ADDED_BY}
    body: dict[str, Any] = {section: field(default_factory=kind) for section, kind in kinds.items()}
    whole = type("Recipe", (Recipe,), {"__annotations__": kinds} | body)
    made: Any = dataclass(frozen=True, kw_only=True, config=STRICT)(whole)
    return made


def names(setting: str) -> list[str]:
    """The names in a comma-separated setting, as they stand."""
    return [name.strip() for name in setting.split(",") if name.strip()]


def parameters(stage: str) -> dict[str, tuple[str, Any]]:
    """Scalar settings of a stage: name -> (section, type); the parameters of its notebook."""
    found = {}
    types = section_types()
    for section in SECTIONS[stage]:
        for f in dataclasses.fields(types[section]):
            if f.type is not dict and not str(f.type).startswith("dict"):
                is_ranged = get_origin(f.type) is Annotated
                found[f.name] = (section, get_args(f.type)[0] if is_ranged else f.type)
    return found
