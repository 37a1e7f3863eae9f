"""The runs of the search and of the headline: what they are, and a process that does one."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from hadpo import config, runs
from hadpo.mini.captions import DESCRIPTION_QUESTIONS
from hadpo.records import Pair
from tools.claims import beyond, tables

log = logging.getLogger(__name__)

RATES = (1.5e-4, 3.0e-4, 6.0e-4, 1.2e-3, 2.4e-3)
LENGTHS = (60, 120)  # updates
WORLDS = (31, 32)
SEEDS = (1, 2, 3, 4, 5)  # of the training: order of the pairs, start of the adapter


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a recipe, its name, the run whose prepared pairs it reads, settings by stage."""

    recipe: str
    name: str
    earlier: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stages: tuple[str, ...] = ("train", "merge", "evaluate")
    other_prompts: tuple[str, ...] = ()  # requests that the reference reads instead of a pair's own
    target: Path  # below it the run is exported


def search() -> tuple[list[Job], list[Job]]:
    """What is prepared first, and the runs that read it."""
    recipe, target = "mini/llava-search", tables.SEARCH
    first = Job(recipe=recipe, name="search", stages=("prepare",), target=target)
    jobs = [
        Job(
            recipe=recipe,
            name=f"search-{rate * 1e5:g}e-5-{steps}",
            earlier=first.name,
            settings={"train": {"learning_rate": rate, "steps": steps}},
            target=target,
        )
        for steps in reversed(LENGTHS)
        for rate in RATES
    ]
    return [first], jobs


def confirm() -> tuple[list[Job], list[Job]]:
    """As `search`, for the worlds and seeds of the headline."""
    recipe, target = "mini/llava-worlds", tables.WORLDS
    firsts = [
        Job(
            recipe=recipe,
            name=f"world-{world}",
            settings={"prepare": {"mini_seed": world}},
            stages=("prepare",),
            target=target,
        )
        for world in WORLDS
    ]
    jobs = [
        Job(
            recipe=recipe,
            name=f"world-{world}-seed-{seed}",
            earlier=f"world-{world}",
            settings={"train": {"train_seed": seed}},
            target=target,
        )
        for seed in SEEDS
        for world in WORLDS
    ]
    return firsts, jobs


# What the originals did by mistake: how it is set. Their gradients were not exchanged: the adapter
# that was saved had seen the batches and the data of one process of n. HA-DPO's LLaVA trained its
# projector, too, through which the reference was read. MiniGPT-4's policy and reference drew one of
# four requests for a description each: in three of four cases not the same.
OTHER_PROMPT = "other-prompt-reference"
DEFECTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "unsynchronised-2": {
        "prepare": {"description_images": 150, "yes_no_pairs": 600},
        "train": {"batch_pairs": 12, "micro_batch_pairs": 4},
    },
    "unsynchronised-4": {
        "prepare": {"description_images": 75, "yes_no_pairs": 300},
        "train": {"batch_pairs": 6, "micro_batch_pairs": 2},
    },
    "drifting-reference": {"train": {"trained": "adapter+connector"}},
    OTHER_PROMPT: {"prepare": {}, "train": {"reference": "cache"}},
}


def defects() -> tuple[list[Job], list[Job]]:
    """As `confirm`: preference training alone, with each defect of the originals."""
    recipe, target = "mini/llava-worlds", tables.DEFECTS
    firsts = {
        (name, world): Job(
            recipe=recipe,
            name=f"{name}-world-{world}",
            settings={"prepare": {"mini_seed": world, **settings["prepare"]}},
            stages=("prepare",),
            target=target,
        )
        for name, settings in DEFECTS.items()
        for world in WORLDS
        if "prepare" in settings
    }
    jobs = [
        Job(
            recipe=recipe,
            name=f"{name}-world-{world}-seed-{seed}",
            earlier=firsts[name, world].name if (name, world) in firsts else f"world-{world}",
            settings={
                "train": {"train_seed": seed, "controls": "", **settings["train"]},
                "evaluate": {"models": "merged", "cut_control": False},
            },
            other_prompts=DESCRIPTION_QUESTIONS if name == OTHER_PROMPT else (),
            target=target,
        )
        for seed in SEEDS
        for name, settings in DEFECTS.items()
        for world in WORLDS
    ]
    return [*firsts.values()], jobs


# What LRV's instructions, jokes and corrected pairs do on one smaller world: recipe, settings.
_FEW = {
    "prepare": {
        "mini_train_images": 150,
        "mini_test_images": 60,
        "description_images": 150,
        "yes_no_pairs": 300,
        "gavie": "${WORLD}/gavie/evaluation_set.json",
    },
    "train": {"steps": 80, "controls": ""},
    "evaluate": {
        "models": "base,merged",
        "benchmark_names": "pope,shr,gavie",
        "gavie_max_new_tokens": 60,
        "cut_control": False,
    },
}
_POSITIVE = {"prepare": {"instruction_kinds": "positive"}}
ABLATIONS: Mapping[str, tuple[str, Mapping[str, Mapping[str, Any]]]] = {
    "lrv-v1-llama2": ("mini/lrv-v1-llama2", {}),
    "lrv-v1-llama2-positive": ("mini/lrv-v1-llama2", _POSITIVE),
    "hic-llama2": ("mini/hic-llama2", {}),
    "minigpt4": ("mini/minigpt4", _FEW),
    "lrv-v2": ("mini/lrv-v2", {}),
    "lrv-v2-positive": ("mini/lrv-v2", _POSITIVE),
    "mplug-owl": ("mini/mplug-owl", _FEW),
}


def families() -> tuple[list[Job], list[Job]]:
    """As `search`: corrected pairs with each backbone, published ones, ablations of three seeds."""
    firsts, jobs = [], []
    corrected = "llava-corrected"
    for name in (corrected, "minigpt4", "minigpt4-vicuna0", "instructblip", "mplug-owl", "hf"):
        recipe, run = f"mini/{name}", f"mini-{name}"
        firsts.append(Job(recipe=recipe, name=run, stages=("prepare",), target=tables.WORLDS))
        jobs.append(Job(recipe=recipe, name=run, target=tables.WORLDS))
    alone = {"train": {"controls": ""}, "evaluate": {"models": "base,merged"}}
    jobs += [
        Job(
            recipe=f"mini/{name}",
            name=f"mini-{name}-seed{seed}",
            earlier=f"mini-{name}",
            settings={**more, "train": {**more.get("train", {}), "train_seed": seed}},
            target=tables.WORLDS,
        )
        for name, seeds, more in (
            (corrected, (1, 2), {}),
            ("minigpt4", (1, 2), {}),
            ("hf", (43, 44), alone),
        )
        for seed in seeds
    ]
    published = Job(
        recipe="mini/llava-corrected",
        name="mini-llava-published",
        settings={
            "prepare": {"pair_source": "published"},
            "train": {"controls": ""},
            "evaluate": {"models": "base,merged", "cut_control": False},
        },
        stages=("prepare", "train", "merge", "evaluate"),
        target=tables.WORLDS,
    )
    jobs.append(published)
    for name, (recipe, settings) in ABLATIONS.items():
        first = Job(
            recipe=recipe,
            name=f"few-{name}",
            settings=settings,
            stages=("prepare",),
            target=tables.WORLDS,
        )
        firsts.append(first)
        jobs += [
            Job(
                recipe=recipe,
                name=f"{first.name}-seed-{seed}",
                earlier=first.name,
                settings={**settings, "train": {**settings.get("train", {}), "train_seed": seed}},
                target=tables.WORLDS,
            )
            for seed in SEEDS[:3]
        ]
    return firsts, jobs


def work(job: Job) -> str:
    """Run a job's stages in this process, on one thread."""
    import torch

    from hadpo import adapter, benchmarks, doctor, pairs, trainer

    torch.set_num_threads(1)

    def prepare(run: runs.Run) -> None:
        doctor.inputs(run)
        pairs.prepare(run)

    def train(run: runs.Run) -> None:
        if job.other_prompts:
            read_otherwise(run, job.other_prompts)
        list(trainer.train(run))

    def evaluate(run: runs.Run) -> None:
        benchmarks.evaluate(run)
        if "base" in run.settings.models and "claims" in run.settings.benchmark_names:
            beyond.measure(run)

    does: Mapping[str, Callable[[runs.Run], Any]] = {
        "prepare": prepare,
        "train": train,
        "merge": adapter.merge_run,
        "evaluate": evaluate,
    }
    for stage in job.stages:
        run = runs.open_run(
            stage, job.recipe, job.name, job.settings.get(stage, {}), earlier=job.earlier
        )
        if not run.is_done:
            does[stage](run)
            run.finish()
    return job.name


def read_otherwise(run: runs.Run, prompts: Sequence[str]) -> None:
    """Fill the reference's cache: each description pair is read after a request that is drawn.

    The pair's own request is drawn, too, as often as each other. Yes/no pairs keep their questions.
    """
    from hadpo.trainer import read_records, reference, stage

    settings, folder = run.recipe.train, stage.cache_folder(run)
    pairs, held_out = read_records(run)
    own = [pair for pair in (*pairs, *held_out) if isinstance(pair, Pair)]
    others = [
        replace(pair, instruction=Random(pair.pair_id).choice(prompts))
        if pair.kind == "description"
        else pair
        for pair in own
    ]
    backbone = stage.load_backbone(run)
    read = reference.prepare(backbone, others, settings, folder.with_name(f"{folder.name}-others"))
    kept = reference.prepare(backbone, own, settings, folder)  # by the hashes of the own requests
    kept.logps = read.of(list(kept.pairs))
    kept.add({}, kept.logps[:, :0], writes=True)
    changed = sum(a != b for a, b in zip(own, others, strict=True))
    run.note(reference_prompts=list(prompts), reference_of_another_prompt=changed)


def run_all(firsts: list[Job], jobs: list[Job], *, workers: int) -> None:
    """Jobs in processes of one thread each; those of the second list need the first's."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for some in (firsts, jobs):
            for done in as_completed([pool.submit(work, job) for job in some]):
                log.info("%s is done", done.result())


def export(jobs: Iterable[Job]) -> None:
    """Export the runs of jobs that are there; what is measured beyond benchmarks lies beside."""
    folder = config.runs_folder()
    for job in jobs:
        if (folder / job.name).is_dir():
            runs.export(job.name, job.target / job.name, runs_folder=folder)
        found = folder / job.name / "evaluate" / beyond.FILE
        if found.is_file():
            shutil.copyfile(found, tables.TABLES / f"{job.name}.{beyond.FILE}")
