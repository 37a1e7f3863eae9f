"""What this machine has, and what a training needs: packages, device, disk, memory."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from hadpo import backbones, config, cost
from hadpo.doctor.files import Check
from hadpo.records import BadInput
from hadpo.runs import list_manifests

_GIB = 1 << 30
_CHECKPOINTS = 2  # that a training keeps


def capability() -> tuple[int, int] | None:
    """Of the GPU that `device: auto` takes; None without a GPU."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def checks() -> Iterator[Check]:
    """Packages, device, disk and hub."""
    yield Check("python", platform.python_version())
    for package in ("torch", "transformers", "bitsandbytes"):
        if importlib.util.find_spec(package) is not None:
            yield Check(package, importlib.metadata.version(package))
        elif package != "bitsandbytes":
            fix = "make test builds the environment"
            yield Check(package, "not installed", status="missing", fix=fix)
        elif capability() is None:
            yield Check(package, "not installed; models in 4 or 8 bits need it, and a GPU")
        else:
            fix = "pip install -e '.[qlora]'"
            yield Check(package, "not installed", status="warning", fix=fix)
    yield from _torchvision()
    yield from _device()
    yield disk_check(None, config.runs_folder())
    is_offline = os.environ.get("HF_HUB_OFFLINE", "0") == "1"
    yield Check("hub", "offline" if is_offline else "online allowed")


def disk_check(recipe: config.Recipe | None, folder: Path) -> Check:
    """Whether the disk of the runs has room for what a recipe's stages write: weights."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GIB
    needed = _written_gib(recipe) if recipe else 0.0
    found = f"{free:.0f} GiB free at {folder}"
    if recipe is not None:
        found += f"; the runs will take {needed:.0f} GiB" if needed else "; the runs take little"
    status = "missing" if needed > free else "ok" if free > 5 else "warning"
    fix = "" if status == "ok" else "set HADPO_RUNS to a larger disk"
    return Check("disk", found, status=status, fix=fix)


def _written_gib(recipe: config.Recipe) -> float:
    """Checkpoints of the training, its cache of image features, and what the merges write."""
    if recipe.model is None or recipe.is_mini or not recipe.model.backbone:
        return 0.0
    sizes, _ = sizes_of(recipe.model)
    train, merge, size = recipe.train, recipe.merge, 0.0
    trainings = 1 + len(config.names(train.controls))
    if (
        "train" in recipe.stages
    ):  # weights and two moments, in float32; one more while it is written
        size += trainings * (_CHECKPOINTS + 1) * 12 * sizes.trained(train)
        if train.keep_steps:
            size += trainings * 4 * sizes.trained(train) * (train.steps // train.checkpoint_every)
        size += train.vision_cache_gb * 1e9
    if "merge" in recipe.stages:
        number = 4 if merge.merged_dtype == "float32" else 2
        size += (
            (trainings + merge.save_transformers)
            * number
            * (sizes.linear_weights + 2 * sizes.vocab * sizes.width)
        )
    return size / _GIB


def time_check(recipe: config.Recipe, folder: Path) -> Check:
    """How long the stages took when the recipe was last run here: the only time that is known."""
    done = [m for m in list_manifests(folder) if m.recipe == recipe.name and m.status == "done"]
    seconds = {m.stage: m.duration_seconds for m in done if m.stage in recipe.stages}
    times = ", ".join(f"{stage} {each:.0f} s" for stage, each in seconds.items())
    found = f"last run of {recipe.name} here: {times}"
    if not times and "train" in recipe.stages:
        found = "unknown until the pairs are read: stage train says it before its first update"
    elif not times:
        found = "unknown: this recipe has not been run here"
    return Check("time", found)


def _torchvision() -> Iterator[Check]:
    """Hadpo does not use it, but transformers imports it if it is there, and fails if that fails.

    It fails if torchvision was built for another torch, by version or for another CUDA.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    command = [sys.executable, "-c", "import torchvision"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        yield Check("torchvision", "imports; hadpo does not need it")
        return
    error = (done.stderr.strip().splitlines() or ["no message"])[-1]
    torch = importlib.metadata.version("torch")
    found = f"does not fit torch {torch}, so transformers cannot be imported: {error}"
    yield Check("torchvision", found, status="broken", fix="pip uninstall torchvision")


def _device() -> Iterator[Check]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        yield Check("device", f"no GPU; {torch.get_num_threads()} threads; float32")
        return
    major, minor = torch.cuda.get_device_capability()
    name, dtype = torch.cuda.get_device_name(), "bfloat16" if major >= 8 else "float16"
    found = f"{name}, capability {major}.{minor}, {_gpu_gib():.0f} GiB, {dtype}, attention sdpa"
    problem, fix = missing_kernels((major, minor), torch.cuda.get_arch_list())
    if problem:
        yield Check("device", f"{found}; {problem}", status="broken", fix=fix)
    else:
        yield Check("device", found)


def missing_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> tuple[str, str]:
    """What keeps a torch from running on a GPU, and what to do; two empty texts if it runs.

    Args:
        capability: the GPU's, for example (7, 0).
        built_for: `torch.cuda.get_arch_list()`, for example ["sm_80", "sm_90a", "compute_120"]:
            sm_80 runs on 8.x from 8.0 on, sm_90a on 9.0 alone, compute_120 on all from 12.0 on.
    """
    builds = []
    for text in built_for:
        parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", text)
        if parts:
            builds.append((parts[1], (int(parts[2]), int(parts[3])), parts[4]))
    for kind, (major, minor), only in builds:
        is_later = (major, minor) <= capability
        is_same_family = major == capability[0] or (kind == "compute" and not only)
        if (major, minor) == capability or (is_later and is_same_family and only != "a"):
            return "", ""
    shown = " ".join(built_for) or "no GPU"
    newest = max((version for _, version, _ in builds), default=(0, 0))
    if capability > newest and builds:
        newer = "install a newer torch than this one, with TORCH_INDEX if need be"
        return f"newer than this torch knows ({shown})", newer
    fix = "make demo TORCH_INDEX=https://download.pytorch.org/whl/cu126"
    return f"this torch has no kernels for it ({shown})", fix


def memory_checks(recipe: config.Recipe, capability: tuple[int, int] | None) -> Iterator[Check]:
    """In which numbers this machine would hold the model, what a training step needs, and where.

    Args:
        recipe: with the stage train; without it, only what cannot run is said of its kernels.
        capability: of the GPU here; None without a GPU.
    """
    model = recipe.model
    if model is None or not model.backbone:
        return
    here = None if model.device == "cpu" else capability
    if model.kernels == "fused":
        try:
            backbones.check_kernels(here)
        except BadInput as error:
            found, _, fix = str(error).rpartition("; ")
            yield Check("kernels", found, status="broken", fix=fix)
    if "train" not in recipe.stages:
        return
    try:
        precision = backbones.choose_precision(model.dtype, model.quantization, here)
    except BadInput as error:
        found, _, fix = str(error).rpartition("; ")
        yield Check("numbers", found, status="broken", fix=fix)
        return
    yield Check("numbers", precision.why)
    sizes, source = sizes_of(model)
    if recipe.train.max_length <= sizes.image_tokens:
        found = f"{recipe.train.max_length}, and one image takes {sizes.image_tokens} positions"
        fix = "set max_length to more than image, prompt and answer take together"
        yield Check("max_length", found, status="broken", fix=fix)
    train = recipe.train
    step = _step_memory(sizes, train, precision)
    lora, is_lora = f"rank {train.lora_rank} on {train.lora_targets}", "adapter" in train.trained
    pairs = f"{train.micro_batch_pairs} description pairs at a time"
    about = {
        "weights": f"{precision.dtype}, quantization {precision.quantization}; {source}",
        "adapter": f"{lora if is_lora else 'the connector'}, {train.optimizer}",
        "activations": pairs + ", recomputed" * train.activation_checkpointing,
        "logits": "a few tokens at a time",
        "total": "and about 10 % and 1 GB for CUDA and its allocator",
    }
    for term, text in about.items():
        yield Check(f"memory: {term}", f"{getattr(step, term) / 1e9:.3f} GB; {text}")
    fitting, refused, hours, turns = [], [], [], []
    for name, gpu in cost.GPUS.items():
        kinds = [f"{name} {gigabytes} GB" for gigabytes in gpu.gigabytes]
        try:
            precision = backbones.choose_precision(model.dtype, model.quantization, gpu.capability)
        except BadInput:
            refused += kinds
            continue
        step = _step_memory(sizes, train, precision)
        for kind, gigabytes in zip(kinds, gpu.gigabytes, strict=True):
            if cost.fits(step, gigabytes):
                fitting.append(f"{kind} ({precision.dtype})")
            elif turn := _what_fits(sizes, train, precision, gigabytes):
                turns.append(f"{kind}: {turn}")
        pairs = train.steps * train.batch_pairs if train.steps else 10_000
        seconds = cost.usual_seconds(sizes, train, gpu, dtype=precision.dtype)
        hours.append(f"{name} {pairs / train.micro_batch_pairs * seconds / 3600:.2g}")
    found = "fits " + ", ".join(fitting) if fitting else "fits none of the GPUs listed here"
    if refused:
        found += f"; not on {', '.join(refused)}: {model.dtype}, {model.quantization}"
    yield Check("GPU", found, status="ok" if fitting else "warning", fix="; ".join(turns))
    work = f"{train.steps} updates" if train.steps else "10,000 pairs"
    found = f"{', '.join(hours)}: {work} on one GPU; modelled, no GPU was timed yet"
    yield Check("hours", found)


def _what_fits(
    sizes: cost.ModelSizes,
    train: config.TrainConfig,
    precision: backbones.Precision,
    gigabytes: float,
) -> str:
    """The first of these turns with which a step fits a GPU; "" if none does."""
    single = replace(train, micro_batch_pairs=1, pairs_per_row=1)
    recomputed = replace(single, activation_checkpointing=True)
    turns: list[str] = []
    for turn, each, numbers in (
        ("micro_batch_pairs=1", single, precision),
        ("activation_checkpointing=true", recomputed, precision),
        ("quantization=nf4", recomputed, replace(precision, quantization="nf4")),
    ):
        turns.append(turn)
        if cost.fits(_step_memory(sizes, each, numbers), gigabytes):
            return ", ".join(turns)
    return ""


def merge_check(recipe: config.Recipe) -> Iterator[Check]:
    """The merge sums in float32, on the host if no GPU has room for it.

    Too little is broken on a machine that could train; one without a GPU is only warned.
    """
    if recipe.model is None or not recipe.model.backbone or "merge" not in recipe.stages:
        return
    sizes, _ = sizes_of(recipe.model)
    needed = 4 * (sizes.linear_weights + sizes.other_weights) / _GIB
    host = (psutil.virtual_memory().total + psutil.swap_memory().total) / _GIB
    found = f"{needed:.0f} GiB of the host, or of a GPU that has them free; here are {host:.0f}"
    if needed > max(host, _gpu_gib()):
        fix = "merge on a machine with more: hadpo stage merge"
        status = "warning" if capability() is None else "broken"
        yield Check("memory: merge", found, status=status, fix=fix)
    else:
        yield Check("memory: merge", found)


def _gpu_gib() -> float:
    if capability() is None:
        return 0.0
    import torch

    return torch.cuda.mem_get_info()[1] / _GIB


def _step_memory(
    sizes: cost.ModelSizes, train: config.TrainConfig, precision: backbones.Precision
) -> cost.StepMemory:
    return cost.training_memory(
        sizes, train, dtype=precision.dtype, quantization=precision.quantization
    )


def published_sizes(model: config.ModelConfig) -> cost.ModelSizes:
    """The variant's sizes, with those that the recipe says over them, whatever files are here."""
    return replace(backbones.sizes(model.backbone), **model.sizes)


def sizes_of(model: config.ModelConfig) -> tuple[cost.ModelSizes, str]:
    """The model's sizes, from its config.json if that is here, and where they come from."""
    published = published_sizes(model)
    path = config.resolve_path(model.files.get("language_model", "")) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values = values.get("text_config", values)
        sizes = replace(
            published,
            width=values["hidden_size"],
            inner=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            vocab=values.get("vocab_size", published.vocab),
        )
    except (OSError, ValueError, KeyError, AttributeError):  # not here, or not such a file
        return published, "published sizes"
    return sizes, str(path)
