"""Every setting of every stage, as strict dataclasses; recipes are YAML files that fill them in.

A recipe has a few top-level facts and one section per dataclass below. A stage reads the sections that
`SECTIONS` lists for it; their scalar fields are also the parameters of the stage's notebook. Unknown,
misspelt and mistyped settings are errors that name the nearest setting. `extends:` names the recipe
whose settings hold wherever this one is silent.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic.dataclasses import dataclass

from hadpo.plugins import choices
from hadpo.records import BadInput

PACKAGE = Path(__file__).parent
RECIPES = PACKAGE / "recipes"
_STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelConfig:
    """Which backbone, from which files, in which numbers, on which device."""

    backbone: str  # family/variant, for example llava/1.5-7b
    files: dict[str, str] = field(default_factory=dict)  # named parts of the backbone -> path or hub id
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: what the device does well
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataConfig:
    """Where the data sets lie, each in its official layout; an empty path means: not used."""

    mini_seed: int = 0  # > 0: draw the synthetic world with this seed into the run folder
    mini_train_images: int = 0  # images of the synthetic world to mine pairs from
    mini_test_images: int = 0  # held-out images of the synthetic world to evaluate on
    visual_genome: str = ""  # folder with image_data.json, VG_100K, VG_100K_2
    pairs_folder: str = ""  # folder with desc_data.json and pope_data.json, one of the three schemas
    pairs_schema: Literal["llava-v1.5", "minigpt4", "instructblip"] = "llava-v1.5"
    coco: str = ""  # folder with val2014 and objects.json
    pope: str = ""  # folder with coco_pope_{random,popular,adversarial}.json
    shr: str = ""  # folder with val_images_final.json and shr_factual_part{1,2}.jsonl
    vocabulary: str = ""  # JSON of the words that the oracle judge knows; empty: taken from the evidence


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PrepareConfig:
    """Where the preference pairs come from, and the questions of the evaluation."""

    pairs: Literal["published", "mined"] = "published"  # published files, or the model's own answers
    description_images: int = 0  # mined: images the model describes
    yes_no_pairs: int = 0  # mined: question pairs to keep
    sampled_share: float = 0.5  # mined: share of the descriptions that are sampled, the rest greedy
    temperature: float = 0.7  # mined: of the sampled descriptions
    max_new_tokens: int = 100  # mined: per description
    limit: int = 0  # at most this many pairs of each kind; 0: all
    on_bad: Literal["error", "skip"] = "error"  # a broken record: stop, or skip and count it
    prepare_seed: int = 42  # draws prompts, rewrites and samples


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainConfig:
    """Hallucination-aware DPO with LoRA on the language model."""

    beta: float = 0.1  # strength of the reference, DPO Eq. 7
    gamma: float = 0.0  # weight of the auxiliary language-modelling term on the chosen text
    loss: Literal["sigmoid", "ipo"] = "sigmoid"  # preference loss
    label_smoothing: float = 0.0  # share of labels assumed to be wrong (sigmoid only)
    learning_rate: float = 2.0e-6  # peak
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up
    warmup_steps: int = 0  # linear, from 0; no hidden ratio
    epochs: float = 1.0  # passes over the pairs; steps > 0 wins
    steps: int = 0  # optimizer updates; 0: from epochs
    batch_pairs: int = 16  # pairs per optimizer update
    micro_batch_pairs: int = 4  # pairs per backward pass
    description_share: float = -1.0  # of each batch; -1: as they lie in the pair file
    repeat_description: int = 1  # copies of each description pair
    repeat_pope: int = 1  # copies of each question pair
    weight_decay: float = 0.0  # of AdamW
    max_grad_norm: float = 1.0  # clip; 0: never
    lora_rank: int = 64  # r
    lora_alpha: float = 16.0  # scale is alpha / r
    lora_dropout: float = 0.0  # 0 as the originals really ran (they set every dropout to 0)
    lora_targets: str = "q_proj,k_proj,v_proj"  # modules inside the language model
    max_length: int = 2048  # positions of prefix and one answer; longer answers are cut and counted
    activation_checkpointing: bool = False  # recompute instead of keeping activations
    controls: str = ""  # sft: also finetune on the chosen texts only, as a control
    checkpoint_every: int = 50  # updates between checkpoints
    log_every: int = 1  # updates between metric lines
    train_seed: int = 42  # order of the pairs and start of the adapter


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MergeConfig:
    """Adapter into weights, and the proof that both say the same."""

    merged_dtype: Literal["float32", "bfloat16", "float16"] = "float16"  # of the files on disk
    check_pairs: int = 3  # pairs on which merged and adapter must agree


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvaluateConfig:
    """Which models answer which benchmarks, how they decode, and who judges."""

    benchmarks: str = "pope,shr"  # module names in hadpo/benchmarks
    models: str = "base,merged"  # of base, merged, and the controls that were trained
    prompt: Literal["evaluate", "train"] = "evaluate"  # which of the backbone's two prompts
    pope_beams: int = 1  # 1: greedy
    pope_max_new_tokens: int = 512  # LLaVA's own setting
    shr_beams: int = 5  # the papers' setting
    shr_max_new_tokens: int = 512  # LLaVA's own setting
    repetition_penalty: float = 1.0  # over generated tokens only
    batch_questions: int = 16  # questions answered at once
    judge: str = "oracle"  # module name in hadpo/judges
    cut_control: bool = False  # also score the base's text, cut to the tuned model's sentence count
    questions_limit: int = 0  # at most this many questions of each split; 0: all
    bootstrap_samples: int = 1000  # resampled image sets behind each interval
    evaluate_seed: int = 42  # of the bootstrap


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CompareConfig:
    """Which runs stand beside which published numbers."""

    runs: str = ""  # names, comma separated; empty: this run alone
    reported: str = "hadpo"  # systems in papers_results/reported, comma separated; empty: none
    reported_backbone: str = ""  # keep only the published rows of this backbone; empty: all


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
_TYPES = {
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
        for f in dataclasses.fields(_TYPES[section]):
            if f.type is not dict and not str(f.type).startswith("dict"):
                found[f.name] = (section, f.type)
    return found


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None, *, stage: str = "") -> Recipe:
    """The recipe `name` (a path below `recipes/`, or a path to a user's own YAML), checked.

    Args:
        name: for example "mini/llava", or "my/recipe.yaml".
        overrides: setting -> value; values of None are left to the recipe.
        stage: accept overrides of this stage only; "" accepts those of any stage.

    Raises:
        BadInput: no such recipe, or an unknown, misspelt or mistyped setting.
    """
    values = _read(name, seen=())
    known: dict[str, str] = {}
    for each in (stage,) if stage else SECTIONS:
        known |= {setting: section for setting, (section, _) in parameters(each).items()}
    for key, value in (overrides or {}).items():
        if value is None:
            continue
        if key not in known:
            place = f"stage {stage}" if stage else "any stage"
            raise BadInput(f"unknown parameter {key!r} for {place}; {choices(key, known)}")
        values.setdefault(known[key], {})[key] = value
    recipe = _check(Recipe, {"name": name} | values, where=f"recipe {name}")
    return recipe


def recipe_names() -> list[str]:
    """Names of the recipes that the package brings (parts that start with _ are bases to extend)."""
    paths = (p.relative_to(RECIPES).with_suffix("") for p in RECIPES.rglob("*.yaml"))
    return sorted(p.as_posix() for p in paths if not any(x.startswith("_") for x in p.parts))


def as_dict(recipe: Any) -> dict[str, Any]:
    """Plain nested values, for a manifest."""
    return dataclasses.asdict(recipe)


def resolve_path(text: str, *, run_folder: Path | None = None) -> Path:
    """A path from a recipe: `${HADPO_SHARED}`, `${HADPO_DATA}`, `${HADPO_MODELS}`, `${PACKAGE}`, `${WORLD}`.

    `${WORLD}` is the folder of the synthetic world of the run. The variables default to `../shared`,
    `data`, `models` of the working directory.
    """
    known = {
        "HADPO_SHARED": os.environ.get("HADPO_SHARED", "../shared"),
        "HADPO_DATA": os.environ.get("HADPO_DATA", "data"),
        "HADPO_MODELS": os.environ.get("HADPO_MODELS", "models"),
        "PACKAGE": str(PACKAGE),
        "WORLD": str(run_folder / "world") if run_folder else "",
    }
    for key, value in known.items():
        text = text.replace("${" + key + "}", value)
    if "${" in text:
        raise BadInput(f"path {text!r} uses an unknown variable; known: {', '.join(known)}")
    return Path(text).expanduser()


def _read(name: str, *, seen: tuple[str, ...]) -> dict[str, Any]:
    """Values of a recipe file, laid over those it extends."""
    if name in seen:
        raise BadInput(f"recipe {name} extends itself: {' -> '.join([*seen, name])}")
    path = RECIPES / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    if not path.is_file():
        raise BadInput(f"no recipe {name!r} ({path} is no file); {choices(name, recipe_names())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected settings, found {type(values).__name__}")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    return _lay_over(_read(parent, seen=(*seen, name)), values)


def _lay_over(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != "files"
        merged[key] = _lay_over(merged[key], value) if both else value
    return merged


def _check(kind: type, values: Mapping[str, Any], *, where: str) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        raise BadInput("\n".join(_explain(e, where) for e in error.errors())) from error


def _explain(error: Any, where: str) -> str:
    *section, name = [str(part) for part in error["loc"]] or [""]
    place = f"{where}: {'.'.join([*section, name])}"
    if error["type"] == "unexpected_keyword_argument":
        kind = _TYPES[section[0]] if section else Recipe
        return f"{place}: unknown setting; {choices(name, [f.name for f in dataclasses.fields(kind)])}"
    return f"{place}: {error['msg']} (found {error['input']!r})"
