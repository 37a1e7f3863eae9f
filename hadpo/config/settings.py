"""Every setting of every stage, as strict dataclasses: unknown and mistyped settings are errors."""

import dataclasses
from dataclasses import field
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

_STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

# Ranges stand in the types, so that a value out of range is refused before anything runs.
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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelConfig:
    """Which backbone, from which files, in which numbers, on which device."""

    backbone: str  # family/variant, for example llava/1.5-7b
    files: dict[str, str] = field(default_factory=dict)  # part of the backbone -> path
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: fits the device
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataConfig:
    """Where the data sets lie, each in its official layout; an empty path means: not used."""

    mini_seed: Count = 0  # > 0: draw the synthetic world with this seed into the run folder
    mini_train_images: Count = 0  # images of the synthetic world to mine pairs from
    mini_test_images: Count = 0  # held-out images of the synthetic world to evaluate on
    visual_genome: str = ""  # folder with image_data.json, VG_100K, VG_100K_2
    pairs_folder: str = ""  # folder with HA-DPO's desc_data.json and pope_data.json
    pairs_schema: Literal["llava-v1.5", "minigpt4", "instructblip"] = "llava-v1.5"  # of these files
    coco: str = ""  # folder with val2014 and objects.json
    pope: str = ""  # folder with coco_pope_{random,popular,adversarial}.json
    shr: str = ""  # folder with val_images_final.json and shr_factual_part{1,2}.jsonl
    gavie: str = ""  # GAVIE's evaluation_set.json: questions about Visual Genome images
    chair_synonyms: str = ""  # file of CHAIR's synonyms; with it, COCO's photos are described
    vocabulary: str = ""  # JSON of the words the oracle judge knows; empty: from the evidence


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PrepareConfig:
    """Where the preference pairs come from, and the questions of the evaluation."""

    pair_source: Literal["published", "mined"] = "published"  # files, or the model's own answers
    description_images: Count = 0  # mined: images the model describes
    yes_no_pairs: Count = 0  # mined: question pairs to keep
    sampled_share: Share = 0.5  # mined: share of the descriptions that are sampled, the rest greedy
    temperature: Amount = 0.7  # mined: of the sampled descriptions
    max_new_tokens: AtLeastOne = 100  # mined: per description
    limit: Count = 0  # at most this many pairs of each kind; 0: all
    on_bad: Literal["error", "skip"] = "error"  # a broken record: stop, or skip and count it
    held_out_share: Share = 0.0  # of the pairs' images, kept from training to watch it; 0: none
    on_overlap: Literal["error", "count"] = "error"  # images both trained on and evaluated
    prepare_seed: Count = 42  # draws prompts, rewrites and samples


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainConfig:
    """Hallucination-aware DPO with LoRA on the language model."""

    beta: Amount = 0.1  # strength of the reference, DPO Eq. 7
    gamma: Amount = 0.0  # weight of the auxiliary language-modelling term on the chosen text
    loss: Literal["sigmoid", "ipo"] = "sigmoid"  # preference loss
    label_smoothing: ShareBelowHalf = 0.0  # share of labels assumed to be wrong (sigmoid only)
    learning_rate: Amount = 2.0e-6  # peak
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up
    warmup_steps: Count = 0  # linear, from 0; no hidden ratio
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
    lora_dropout: ShareBelowOne = 0.0  # 0 as the originals really ran (they set every dropout to 0)
    lora_targets: str = "q_proj,k_proj,v_proj"  # modules inside the language model
    max_length: AtLeastOne = 2048  # positions of prefix and one answer; what is cut is counted
    activation_checkpointing: bool = False  # recompute instead of keeping activations
    controls: str = ""  # sft: also finetune on the chosen texts only, as a control
    checkpoint_every: AtLeastOne = 50  # updates between checkpoints
    log_every: AtLeastOne = 1  # updates between metric lines
    train_seed: Count = 42  # order of the pairs and start of the adapter


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MergeConfig:
    """Adapter into weights, and the proof that both say the same."""

    merged_dtype: Literal["float32", "bfloat16", "float16"] = "float16"  # of the files on disk
    check_pairs: AtLeastOne = 3  # pairs on which merged and adapter must agree


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvaluateConfig:
    """Which models answer which benchmarks, how they decode, and who judges."""

    benchmark_names: str = "pope,shr"  # module names in hadpo/benchmarks
    models: str = "base,merged"  # of base, merged, and the controls that were trained
    prompt: Literal["evaluate", "train"] = "evaluate"  # which of the backbone's two prompts
    pope_beams: AtLeastOne = 1  # 1: greedy
    pope_max_new_tokens: AtLeastOne = 512  # LLaVA's own setting
    pope_stop_at_period: bool = False  # end answers at the first period, POPE reads no further
    shr_beams: AtLeastOne = 5  # the papers' setting
    shr_max_new_tokens: AtLeastOne = 512  # LLaVA's own setting
    gavie_beams: AtLeastOne = 1  # 1: greedy
    gavie_max_new_tokens: AtLeastOne = 512  # an answer to one instruction
    height_bug_compat: bool = False  # GAVIE's judge sees each box as high as wide, as published
    chair_beams: AtLeastOne = 1  # 1: greedy
    chair_max_new_tokens: AtLeastOne = 512  # a description
    repetition_penalty: Positive = 1.0  # over generated tokens only
    batch_questions: AtLeastOne = 16  # questions answered at once; halved where memory runs out
    exact: bool = False  # one question at a time, nothing shared: slow, and the reference
    judge: str = "oracle"  # module name in hadpo/judges: oracle, llm or replay
    judge_model: str = ""  # llm, replay: the model's name on the server at OPENAI_BASE_URL
    judge_prompts: str = ""  # folder of your own prompts (shr.txt, gavie.txt); empty: ours
    judge_reader: Literal["tolerant", "upstream"] = "tolerant"  # of the replies on sentences
    judge_format: Literal["json_schema", "json_object", "text"] = "json_schema"  # of the replies
    judge_temperature: Amount = 0.0  # the paper's SHR judge had 0.7
    judge_max_tokens: AtLeastOne = 800  # per reply; a longer one is cut off and unreadable
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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CompareConfig:
    """Which runs stand beside which published numbers."""

    run_names: str = ""  # names, comma separated; empty: this run alone
    reported: str = "hadpo"  # systems in papers_results/reported, comma separated; empty: none
    reported_backbone: str = ""  # keep only the published rows of this backbone; empty: all
    on_difference: Literal["error", "note"] = "error"  # other questions, reading or judge: refuse


@dataclass(frozen=True, kw_only=True, config=_STRICT)
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
SECTION_TYPES = {
    "model": ModelConfig,
    "data": DataConfig,
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "merge": MergeConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
}


def parameters(stage: str) -> dict[str, tuple[str, Any]]:
    """Scalar settings of a stage: name -> (section, type); the parameters of its notebook."""
    found = {}
    for section in SECTIONS[stage]:
        for f in dataclasses.fields(SECTION_TYPES[section]):
            if f.type is not dict and not str(f.type).startswith("dict"):
                is_ranged = get_origin(f.type) is Annotated
                found[f.name] = (section, get_args(f.type)[0] if is_ranged else f.type)
    return found
