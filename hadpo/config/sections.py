"""One strict dataclass a section of a recipe; a field's comment is its documentation.

The comment stands in the lines above a field or behind it; `hadpo settings` prints it.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from hadpo import plugins

SECTIONS: dict[str, tuple[str, ...]] = {  # stage -> sections it reads
    "prepare": ("model", "data", "prepare"),
    "train": ("model", "train"),
    "merge": ("model", "merge"),
    "evaluate": ("model", "evaluate"),
    "compare": ("compare",),
}

# What the sections' fields are made of: strictness, and ranges that stand in the types.

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


def vanishes(text: str) -> bool:
    """Whether a number that is not 0 is so small that float64 reads it as 0."""
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        return False
    return not value and any(digit in "123456789" for digit in text.lower().partition("e")[0])


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")  # Python would take True for 1
    if isinstance(value, str) and vanishes(value):
        raise ValueError("expected 0, or a number that float64 can tell from 0")
    return value


_Integer = Annotated[int, pydantic.BeforeValidator(_no_truth), Field(lt=2**63)]
_Number = Annotated[float, pydantic.BeforeValidator(_no_truth)]
Count = Annotated[_Integer, Field(ge=0)]
AtLeastOne = Annotated[_Integer, Field(ge=1)]
Amount = Annotated[_Number, Field(ge=0)]
Positive = Annotated[_Number, Field(gt=0)]
Share = Annotated[_Number, Field(ge=0, le=1)]
ShareBelowOne = Annotated[_Number, Field(ge=0, lt=1)]
ShareBelowHalf = Annotated[_Number, Field(ge=0, lt=0.5)]


def _minus_one_or_share(value: float) -> float:
    if value != -1 and not 0 <= value <= 1:
        raise ValueError("expected -1 or 0 to 1")
    return value


ShareOrMinusOne = Annotated[_Number, pydantic.AfterValidator(_minus_one_or_share)]


def names(setting: str) -> list[str]:
    """The names in a comma-separated setting, as they stand."""
    return [name.strip() for name in setting.split(",") if name.strip()]


def named(setting: str) -> dict[str, str]:
    """What a setting "name=text, name=text" says, by name.

    Raises:
        ValueError: not of that form, or a name that stands twice.
    """
    found: dict[str, str] = {}
    for part in names(setting):
        name, _, text = (piece.strip() for piece in part.partition("="))
        if not name or not text or name in found:
            raise ValueError(f'found {part!r}, expected "name=text, name=text", each name once')
        found[name] = text
    return found


def amounts(setting: str) -> dict[str, float]:
    """The numbers of a setting "name=number, name=number"; of a number alone, that of "".

    Raises:
        ValueError: not of that form, or a name that stands twice.
    """
    found: dict[str, float] = {}
    for part in names(setting):
        name, _, number = (text.strip() for text in part.rpartition("="))
        if name in found:
            raise ValueError(f"{name or 'a number alone'} stands twice")
        found[name] = float(number)
    return found


def _at_least_one(setting: str) -> str:
    if not names(setting):
        raise ValueError("expected one name or more, comma separated")
    return setting


def _each_of(known: Callable[[], Iterable[str]], pattern: str = "$^") -> pydantic.AfterValidator:
    """Check that every name of a comma-separated setting is known, or matches `pattern`."""

    def check(setting: str) -> str:
        for name in names(setting):
            if name not in known() and not re.fullmatch(pattern, name):
                raise ValueError(f"no {name!r}; {plugins.choices(name, known())}")
        return setting

    return pydantic.AfterValidator(check)


def _check_stages(stages: tuple[str, ...]) -> tuple[str, ...]:
    for stage in stages:
        if stage not in SECTIONS:
            raise ValueError(f"no stage {stage!r}; {plugins.choices(stage, SECTIONS)}")
    if list(stages) != [stage for stage in SECTIONS if stage in stages] or not stages:
        raise ValueError(f"expected one or more of {', '.join(SECTIONS)}, once and in this order")
    return stages


INSTRUCTION_KINDS = ("positive", "negative", "chart", "caption")
_Kinds = Annotated[str, _each_of(lambda: INSTRUCTION_KINDS)]
RANKED_CONTROLS = ("sft_true", "sft_flawless")  # their texts come from ranking
CONTROLS = ("sft", *RANKED_CONTROLS, "dpo_alone")
_Controls = Annotated[str, _each_of(lambda: CONTROLS)]


def _by_control(setting: Any) -> Any:
    """A number for all controls, or some by name, as the text that `amounts` reads."""
    if isinstance(setting, int | float) and not isinstance(setting, bool):
        setting = f"{setting:g}"
    if not isinstance(setting, str):
        raise ValueError('expected a number, or "sft=number, sft_true=number"')
    for name, number in amounts(setting).items():
        if name and name not in CONTROLS:
            raise ValueError(f"no {name!r}; {plugins.choices(name, CONTROLS)}")
        if not 0 < number < float("inf"):
            raise ValueError(f"found {number:g}, expected a number above 0")
    return setting


_ByControl = Annotated[str, pydantic.BeforeValidator(_by_control)]
_Trackers = Annotated[str, _each_of(lambda: ("tensorboard", "wandb"))]
SERVED = "served"  # a model beside those of this machine, on a server
_MODELS = ("base", "merged", SERVED, *CONTROLS)


def _served(setting: str) -> str:
    for name in named(setting):
        if name not in _MODELS:
            raise ValueError(f"no {name!r}; {plugins.choices(name, _MODELS)}")
    return setting


_Served = Annotated[str, pydantic.AfterValidator(_served)]
_Names = Annotated[str, pydantic.AfterValidator(_at_least_one)]
_Models = Annotated[_Names, _each_of(lambda: (*_MODELS, "step-<n>"), r"step-\d+")]
_Benchmarks = Annotated[str, _each_of(lambda: plugins.available("hadpo.benchmarks"))]
_Judge = Annotated[str, _each_of(lambda: plugins.available("hadpo.judges"))]


@dataclasses.dataclass(frozen=True)
class When:
    """Metadata of a field: it is read only if another setting has a certain value.

    Whoever gives it as a parameter otherwise is refused; what a recipe itself says may lie unused.
    """

    section: str
    name: str
    holds: Callable[[Any], bool]
    cure: str  # how to make it hold

    @classmethod
    def one_of(cls, section: str, name: str, *values: Any) -> "When":
        """The other setting has one of `values`."""
        return cls(section, name, lambda value: value in values, f"{name}={values[0]}")

    @classmethod
    def above_zero(cls, section: str, name: str) -> "When":
        """The other setting is above 0."""
        return cls(section, name, lambda value: value > 0, f"{name} above 0")

    @classmethod
    def given(cls, section: str, name: str) -> "When":
        """The other setting is not empty."""
        return cls(section, name, bool, name)


_WORLD = When.above_zero("data", "mini_seed")
_PUBLISHED = When.one_of("prepare", "pair_source", "published")
_MINED = When.one_of("prepare", "pair_source", "mined", "ranked")
_RANKED = When.one_of("prepare", "pair_source", "ranked")
_CORRECTED = When.one_of("prepare", "pair_source", "mined")
_LLM = When.one_of("prepare", "corrector", "llm")
_INSTRUCTED = When.given("data", "instructions")
_DPO = When.one_of("train", "objective", "dpo")
_SFT = When.one_of("train", "objective", "sft")
_CONTROLLED = When.given("train", "controls")
_ADAPTER = When.one_of("train", "trained", "adapter", "adapter+connector")
_COSINE = When.one_of("train", "schedule", "cosine", "cosine_from_start")
_BY_EPOCHS = When.one_of("train", "steps", 0)
_SERVER = When.one_of("model", "engine", "server")
_SEVERAL = When("train", "processes", lambda count: count > 1, "processes above 1")
READING_JUDGE = When("evaluate", "judge", lambda judge: judge != "oracle", "judge=llm")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the data sets lie, each in its official layout; an empty path means: not used."""

    # Above 0: draw the synthetic world with this seed into the run folder; 0: real images.
    mini_seed: Count = 0
    mini_train_images: Annotated[Count, _WORLD] = 0  # images of that world to mine pairs from
    mini_test_images: Annotated[Count, _WORLD] = 0  # held-out images of that world to evaluate on
    visual_genome: str = ""  # folder with image_data.json, VG_100K, VG_100K_2
    # Folder with HA-DPO's desc_data.json and pope_data.json.
    pairs_folder: Annotated[str, _PUBLISHED] = ""
    # For which model's answers those files were written: their layouts differ.
    pairs_schema: Annotated[Literal["llava-v1.5", "minigpt4", "instructblip"], _PUBLISHED] = (
        "llava-v1.5"
    )
    instructions: str = ""  # to finetune on, comma separated: LRV's .json, .jsonl, caption folders
    coco: str = ""  # folder with val2014 and objects.json
    vocabulary: str = ""  # JSON of the words the oracle judge knows; empty: from the evidence


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """Which backbone, from which files, in which dtype, on which device, or on which server."""

    # family/variant, for example llava/1.5-7b; empty: every model is on a server.
    backbone: str = ""
    files: dict[str, str] = field(default_factory=dict)  # part of the backbone -> path
    language_model: str = ""  # a folder or hub id, in the place of the one in files
    # Of hf: arguments of the chat template, for example {enable_thinking: false}.
    template: dict[str, bool | int | str] = field(default_factory=dict)
    # Of hf: sizes of the published model, for estimates before its files are here (hadpo/cost.py).
    sizes: dict[str, int] = field(default_factory=dict)
    # Of the weights. auto: float32 on a CPU, bfloat16 on a GPU that has it, else float16.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if there is a GPU
    # Of the language model's weights, the rest stays as it is; needs bitsandbytes and a GPU.
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"
    # Of the language model. fused: liger-kernel's, one for a norm, a rotary embedding or a SwiGLU
    # (LLaMA, Qwen3-VL; a GPU from 8.0, extra fused); plain: transformers' modules, the reference.
    kernels: Annotated[Literal["plain", "fused"], When.one_of("model", "engine", "local")] = "plain"
    # Of picture files. upright: turned as EXIF says; as_stored: not, as the originals read them.
    exif: Annotated[Literal["upright", "as_stored"], When.one_of("model", "engine", "local")] = (
        "upright"
    )
    # Who answers: this machine; or, for the models in server_models, an OpenAI-compatible server
    # (vLLM, SGLang, Ollama, OpenAI) at OPENAI_BASE_URL; several addresses share the load.
    engine: Literal["local", "server"] = "local"
    # Their names on the server: "base=Qwen/Qwen2.5-VL-7B-Instruct, merged=tuned"; served is one
    # beside base and merged of this machine. Pairs are mined from base.
    server_models: Annotated[_Served, _SERVER] = ""
    server_concurrency: Annotated[AtLeastOne, _SERVER] = 16  # requests at a time
    server_timeout_seconds: Annotated[Positive, _SERVER] = 120.0  # of one request
    server_retries: Annotated[Count, _SERVER] = 4  # of a request whose error may pass
    server_input_price: Annotated[Amount, _SERVER] = 0.0  # dollars per million tokens; 0: unknown
    server_output_price: Annotated[Amount, _SERVER] = 0.0  # dollars per million tokens; 0: unknown
    # By estimate, no start of a stage costs more, with the prices above; 0: no limit.
    server_max_cost_usd: Annotated[Amount, _SERVER] = 0.0

    @pydantic.model_validator(mode="after")
    def _is_somewhere(self) -> "ModelConfig":
        if self.language_model:
            object.__setattr__(self, "files", self.files | {"language_model": self.language_model})
        if self.engine == "local" and not self.backbone:
            raise ValueError("backbone: expected family/variant, for example llava/1.5-7b")
        if self.engine == "server" and not self.server_models:
            raise ValueError(
                "engine server needs server_models: the names of models on the server, for example "
                "'base=Qwen/Qwen2.5-VL-7B-Instruct'"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrepareConfig:
    """Where the preference pairs come from, and the questions of the evaluation."""

    # published: the authors' files; mined: the model's own answers, corrected; ranked: the model's
    # own answers, the best against the worst of each image, nothing corrected; none: no pairs, but
    # instructions; questions: nothing to train on, only what the evaluation asks.
    pair_source: Literal["published", "mined", "ranked", "none", "questions"] = "published"
    # Which instructions are used, comma separated; negative ones ask for things that are not there.
    instruction_kinds: Annotated[_Kinds, _INSTRUCTED] = ",".join(INSTRUCTION_KINDS)
    description_images: Annotated[Count, _MINED] = 0  # images that the model describes
    yes_no_pairs: Annotated[Count, _MINED] = 0  # pairs about a yes/no question that are used
    # Of the descriptions, those that are sampled; the rest is greedy. Sampled ones invent more.
    sampled_share: Annotated[Share, _CORRECTED] = 0.5
    # Descriptions of each image that are ranked; more of them lie farther apart. Usual: 4 to 8.
    samples_per_image: Annotated[Annotated[_Integer, Field(ge=2)], _RANKED] = 4
    temperature: Annotated[Amount, _MINED] = 0.7  # of the sampled descriptions; 0: greedy
    max_new_tokens: Annotated[AtLeastOne, _MINED] = 100  # of one description
    # Who finds false sentences, and corrects them if pairs are mined: oracle knows the images'
    # objects, llm is asked.
    corrector: Annotated[Literal["oracle", "llm"], _MINED] = "oracle"
    corrector_model: Annotated[str, _LLM] = ""  # its name on the server at OPENAI_BASE_URL
    # Of the replies: json_object for servers that do not follow a schema.
    corrector_format: Annotated[Literal["json_schema", "json_object"], _LLM] = "json_schema"
    corrector_temperature: Annotated[Amount, _LLM] = 0.0  # above 0: rewrites of a text differ more
    corrector_max_tokens: Annotated[AtLeastOne, _LLM] = 1500  # of a reply; a longer one is cut off
    corrector_concurrency: Annotated[AtLeastOne, _LLM] = 8  # requests at a time
    corrector_input_price: Annotated[Amount, _LLM] = 0.0  # dollars per million tokens; 0: unknown
    corrector_output_price: Annotated[Amount, _LLM] = 0.0  # dollars per million tokens; 0: unknown
    # No start asks for more than this by estimate, with the prices above; 0: no limit.
    corrector_max_cost_usd: Annotated[Amount, _LLM] = 0.0
    # Of chosen and of rejected, both in one style, so that style is not learnt; HA-DPO's have 3.
    rewrites: Annotated[Count, _LLM] = 0
    limit: Count = 0  # at most this many pairs or instructions of each kind; 0: all
    on_bad: Literal["error", "skip"] = "error"  # a broken record: stop, or skip and count it
    # Of the pairs' images: those whose pairs are not trained on, but watched. Usual: 0.05 to 0.1;
    # 0: none, then there are no held-out curves and no early stop.
    held_out_share: Share = 0.0
    on_overlap: Literal["error", "count"] = "error"  # images both trained on and evaluated
    prepare_seed: Count = 42  # draws prompts, rewrites and samples


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """What is trained on what, and how: DPO on pairs, or finetuning on instructions."""

    objective: Literal["dpo", "sft"] = "dpo"  # dpo: on pairs of answers; sft: on instructions
    # What learns, the rest is frozen: LoRA in the language model, the layer between vision and
    # language, or both. dpo trains the adapter: switched off, it is the reference.
    trained: Literal["adapter", "connector", "adapter+connector"] = "adapter"
    # How strongly the model is held to the reference (DPO, Eq. 7). Usual: 0.1 to 0.5. Near 0 it
    # may drift far and its text decays; at 0 the pairs teach nothing; high, it hardly moves.
    beta: Annotated[Amount, _DPO] = 0.1
    # Weight of the auxiliary language-modelling loss beside DPO's. Above 0 (MiniGPT-4: 0.5) it
    # keeps fluent text likely; 0: DPO alone, under which both answers may become unlikely.
    gamma: Annotated[Amount, _DPO] = 0.0
    # Its texts: the chosen answers, or instructions apart from the pairs.
    gamma_on: Annotated[Literal["chosen", "instructions"], When.above_zero("train", "gamma")] = (
        "chosen"
    )
    # sigmoid: DPO's; ipo: a squared distance to a fixed margin, which overfits clean pairs less.
    loss: Annotated[Literal["sigmoid", "ipo"], _DPO] = "sigmoid"
    # Share of pairs assumed to be the wrong way round, sigmoid only; 0: none. Noisy pairs: 0.1.
    label_smoothing: Annotated[ShareBelowHalf, _DPO] = 0.0
    # At its peak. Usual for LoRA: 1e-6 to 1e-4 with dpo, 1e-5 to 2e-4 with sft. Too high, answers
    # turn short or repeat themselves; 0: nothing is learnt.
    learning_rate: Amount = 2.0e-6
    # After the warm-up; cosine_from_start begins its cosine at the first update, as MiniGPT-4 does.
    schedule: Literal["cosine", "cosine_from_start", "linear", "constant"] = "cosine"
    min_learning_rate: Annotated[Amount, _COSINE] = 0.0  # where a cosine ends
    # Where the warm-up begins.
    warmup_learning_rate: Annotated[Amount, When.above_zero("train", "warmup_steps")] = 0.0
    warmup_steps: Count = 0  # updates of a linear warm-up; 0: none, or those of warmup_share
    # Of all updates, rounded up, as transformers' warmup_ratio; 0: none (there is no hidden one).
    warmup_share: Annotated[ShareBelowOne, When.one_of("train", "warmup_steps", 0)] = 0.0
    epochs: Annotated[Amount, _BY_EPOCHS] = 1.0  # passes over the pairs; steps above 0 wins
    steps: Count = 0  # optimizer updates; 0: from epochs
    # Pairs (sft: instructions) per optimizer update, over all processes.
    batch_pairs: AtLeastOne = 16
    # Pairs per backward pass: costs memory, changes no number but by rounding.
    micro_batch_pairs: AtLeastOne = 4
    # Above 1: so many pairs of one image share a packed row, which is faster, and an update.
    pairs_per_row: AtLeastOne = 1
    # adapter_off: computed in each step with the adapter off; cache: once, kept beside the pairs.
    reference: Annotated[Literal["adapter_off", "cache"], _DPO] = "adapter_off"
    # Of descriptions in each batch, the rest are questions; -1: as they lie in the pair file.
    description_share: Annotated[ShareOrMinusOne, _DPO] = -1.0
    repeat_description: Annotated[Count, _DPO] = 1  # copies of each description pair; 0: none
    repeat_pope: Annotated[Count, _DPO] = 1  # copies of each question pair; 0: none
    # AdamW; the others are bitsandbytes' with smaller states and need a GPU.
    optimizer: Literal["adamw", "paged_adamw_32bit", "adamw_8bit"] = "adamw"
    weight_decay: Amount = 0.0  # of AdamW
    max_grad_norm: Amount = 1.0  # gradients are scaled down to this norm; 0: never
    # Of float32 products on a GPU: 10 bits of a mantissa, and faster; a CPU has no TF32.
    allow_tf32: bool = False
    # Of LoRA's two matrices. Usual: 8 to 128; a higher one can learn more and costs more memory.
    lora_rank: Annotated[AtLeastOne, _ADAPTER] = 64
    # The adapter is scaled by alpha / rank; usual: rank to 2 * rank; at 0 nothing is learnt.
    lora_alpha: Annotated[Amount, _ADAPTER] = 16.0
    # Learning rate of B over that of A (LoRA+); 1: one rate for both; usual above: 4 to 16.
    lora_b_rate_ratio: Positive = 1.0
    # 0 as the originals really ran: they set every dropout to 0.
    lora_dropout: Annotated[ShareBelowOne, _ADAPTER] = 0.0
    # Layers inside the language model that get LoRA, comma separated.
    lora_targets: Annotated[_Names, Field(pattern=r"^[\w., ]+$"), _ADAPTER] = "q_proj,k_proj,v_proj"
    # Positions of prefix and one answer; what is cut is counted. One image alone takes 16 or more.
    max_length: Annotated[_Integer, Field(ge=16)] = 2048
    attention: Literal["dense", "segments"] = "dense"  # packed rows in one masked call, or in parts
    # Of an answer with its end marker; 0: no limit of its own.
    max_answer_tokens: Annotated[Count, _SFT] = 0
    activation_checkpointing: bool = False  # recompute activations: less memory, slower
    # What counts alike in an update's loss; with tokens, long answers weigh more.
    mean_over: Annotated[Literal["answers", "tokens"], _SFT] = "answers"
    mixture: Annotated[str, _SFT] = ""  # "source=share, ..." of what is drawn; empty: as they lie
    # Requests for captions that have none of their own.
    caption_requests: Annotated[Literal["detailed", "humour"], _SFT] = "detailed"
    early_stop: Count = 0  # stop after so many looks without a better held-out loss; 0: never
    # Also train, on the same updates: sft, finetuning on the chosen texts; sft_true, on their
    # sentences that were judged true; sft_flawless, on texts without a false sentence (both with
    # pair_source: ranked); dpo_alone, dpo with gamma 0. What dpo gains must be more than that.
    controls: Annotated[_Controls, _DPO] = ""
    # Of the controls, at its peak: every method needs the rate that suits it, or the comparison
    # says nothing. A number, or numbers by name: "sft=0.001, sft_true=0.0012"; empty: the run's.
    control_learning_rate: Annotated[_ByControl, _CONTROLLED] = ""
    # Of the controls: updates, a number or numbers by name; empty: as many as the run.
    control_steps: Annotated[_ByControl, _CONTROLLED] = ""
    checkpoint_every: AtLeastOne = 50  # updates between checkpoints
    keep_steps: bool = False  # keep what was trained at each checkpoint, to evaluate it as step-50
    log_every: AtLeastOne = 1  # updates between metric lines
    eval_every: Count = 0  # updates between looks at the held-out pairs; 0: at checkpoints
    trackers: _Trackers = ""  # tensorboard, wandb (comma separated), through accelerate
    processes: AtLeastOne = 1  # processes that share each update, one on each GPU
    # What they share: ddp nothing, the others weights, gradients and states (fsdp2, zero3), or
    # gradients and states (zero2).
    parallel: Annotated[Literal["ddp", "fsdp2", "zero2", "zero3"], _SEVERAL] = "ddp"
    vision_cache_gb: Amount = 0.0  # image features kept on disk, at most so many GB; 0: none
    train_seed: Count = 42  # order of the pairs and start of the adapter


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MergeConfig:
    """Adapter into weights, and the proof that both say the same."""

    merged_dtype: Literal["float32", "bfloat16", "float16"] = "float16"  # of the files on disk
    check_pairs: AtLeastOne = 3  # pairs on which merged and adapter must agree
    save_transformers: bool = True  # also a folder for transformers, beside merged/
    # A published adapter, or a whole model saved with its LoRA inside; empty: that of the training.
    adapter_folder: str = ""
    # Whose connector: LLaVA's published adapters bring their own.
    adapter_projector: Annotated[
        Literal["adapter", "base"], When.given("merge", "adapter_folder")
    ] = "adapter"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateConfig:
    """Which models answer which benchmarks, how they decode, and who judges."""

    benchmark_names: _Benchmarks = "pope,shr"  # comma separated, of hadpo/benchmarks
    # Comma separated: base, merged, step-<n> (train.keep_steps), sft (train.controls).
    models: _Models = "base,merged"
    prompt: Literal["evaluate", "train"] = "evaluate"  # which of the backbone's two prompts
    # Over generated tokens only. 1: none; usual above: 1.1 to 1.5, which changes the scores.
    repetition_penalty: Positive = 1.0
    # Questions answered at once, halved if memory runs out; 0: as many as fit.
    batch_questions: Count = 0
    # What they may take beside the weights, in GiB; 0: 80 % of what is free.
    batch_memory_gib: Annotated[Amount, When.one_of("evaluate", "batch_questions", 0)] = 0.0
    # Share the images, each with the model on its own device; 0: started elsewhere, on a cluster.
    answer_processes: Count = 1
    # In which the models answer: as section model says (model), or as a paper evaluated them.
    answer_dtype: Annotated[
        Literal["model", "float32", "bfloat16", "float16"], When.one_of("model", "engine", "local")
    ] = "model"
    # Of the language model while it answers; none: a merge is not quantised again.
    answer_quantization: Annotated[
        Literal["model", "none", "nf4", "fp4", "int8"], When.one_of("model", "engine", "local")
    ] = "model"
    exact: bool = False  # one question at a time, nothing shared: slow, and the reference
    # Who rules on sentences: oracle knows the objects, llm is asked, replay reads kept replies.
    judge: _Judge = "oracle"
    judge_model: str = ""  # llm, replay: the model's name on the server at OPENAI_BASE_URL
    judge_prompts: str = ""  # folder of your own prompts (shr.txt, gavie.txt); empty: ours
    # Of the replies on sentences; upstream reads as the original script, mistakes included.
    judge_reader: Literal["tolerant", "upstream"] = "tolerant"
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
    # Also score the base's text, cut to the tuned model's sentence count: is the gain mere brevity?
    cut_control: bool = False
    questions_limit: Count = 0  # at most this many questions of each split; 0: all
    # Resampled image sets behind each interval; below some hundreds its ends wobble.
    bootstrap_samples: AtLeastOne = 1000
    evaluate_seed: Count = 42  # of the bootstrap


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompareConfig:
    """Which runs stand beside which published numbers."""

    run_names: str = ""  # names, comma separated; empty: this run alone
    reported: str = "hadpo"  # systems in papers_results/reported, comma separated; empty: none
    reported_backbone: str = ""  # only the published rows of this backbone; empty: all
    # Runs with other questions, reading or judge: refuse them, or say so in a note.
    on_difference: Annotated[Literal["error", "note"], When.given("compare", "run_names")] = "error"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """One reproducible experiment; `name` is the file's path below the recipes folder."""

    name: str
    title: str
    notes: str = ""
    is_mini: bool = False  # the synthetic world: it teaches, it is not a result
    stages: Annotated[tuple[str, ...], pydantic.AfterValidator(_check_stages)] = tuple(SECTIONS)
    model: ModelConfig | None = None
    data: DataConfig = field(default_factory=DataConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)


# Stage -> what people turn: its notebook's parameter cell names it, its report always shows it.
MAIN: dict[str, tuple[str, ...]] = {
    "prepare": (
        *("pair_source", "description_images", "yes_no_pairs", "corrector", "limit"),
        *("held_out_share", "on_bad", "prepare_seed"),
    ),
    "train": (
        *("beta", "gamma", "learning_rate", "epochs", "steps", "batch_pairs", "micro_batch_pairs"),
        *("lora_rank", "lora_alpha", "train_seed"),
    ),
    "merge": ("merged_dtype", "check_pairs", "save_transformers", "adapter_folder"),
    "evaluate": (
        *("benchmark_names", "models", "prompt", "batch_questions", "judge", "judge_model"),
        *("cut_control", "questions_limit", "bootstrap_samples", "evaluate_seed"),
    ),
    "compare": ("run_names", "reported", "reported_backbone", "on_difference"),
}
# Settings that say how an update is computed, or what is watched; up to rounding it stays the same.
# A training that was interrupted may go on with others: less memory, more processes.
COMPUTED_ALIKE = frozenset(
    (
        *("micro_batch_pairs", "activation_checkpointing", "attention", "reference"),
        *("vision_cache_gb", "processes", "parallel", "checkpoint_every", "log_every"),
        *("eval_every", "trackers", "allow_tf32"),
    )
)
