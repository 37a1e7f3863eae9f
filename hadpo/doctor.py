"""What is here, what is missing, what will fit, and the command that mends it."""

import html
import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hadpo import config, plugins
from hadpo.records import BadInput
from hadpo.runs import Run

_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at; `mend` says what to do where `status` is not ok."""

    what: str
    status: str  # ok, missing, broken, warning
    found: str
    mend: str = ""


class Report:
    """Checks in the order they were made; shows itself as text and as a table in a notebook."""

    def __init__(self, checks: list[Check]) -> None:
        self.checks = checks
        self.rows = [asdict(check) for check in checks]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is missing or broken; warnings do not count."""
        return all(check.status in ("ok", "warning") for check in self.checks)

    def to_text(self) -> str:
        """One line a check, and below it what to do."""
        lines = []
        for check in self.checks:
            lines.append(f"{check.status:8} {check.what:24} {check.found}")
            if check.mend:
                lines.append(f"{'':33} -> {check.mend}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row.values()) + "</tr>"
            for row in self.rows
        )
        return (
            "<table><tr><th>what</th><th>status</th><th>found</th><th>what to do</th></tr>"
            f"{cells}</table>"
        )


def check(recipe_name: str = "") -> Report:
    """Look at this machine and, where a recipe is named, at the files that it needs."""
    checks = list(_machine())
    if recipe_name:
        recipe = config.load_recipe(recipe_name)
        checks += _files(recipe, run_folder=None)
    return Report(checks)


def inputs(run: Run) -> Report:
    """The files that a run needs; a mini recipe's world is drawn here, into the run's own folder.

    Raises:
        BadInput: something is missing; all of it is listed at once, with what to do.
    """
    data = run.recipe.data
    if data.mini_seed > 0:
        from hadpo import mini

        mini.build(
            run.folder / "world",
            seed=data.mini_seed,
            train_images=data.mini_train_images,
            test_images=data.mini_test_images,
        )
    report = Report(list(_files(run.recipe, run_folder=run.folder)))
    if not report.is_healthy:
        lines = [
            f"  {c.what}: {c.status}, {c.found}; {c.mend}"
            for c in report.checks
            if c.status != "ok"
        ]
        raise BadInput(f"recipe {run.recipe.name} lacks files:\n" + "\n".join(lines))
    return report


def _machine() -> Iterator[Check]:
    import platform

    yield Check(what="python", status="ok", found=platform.python_version())
    for package, extra in (("torch", ""), ("transformers", ""), ("bitsandbytes", "qlora")):
        if importlib.util.find_spec(package) is None:
            status = "warning" if extra else "missing"
            mend = f"pip install -e '.[{extra}]'" if extra else "make test builds the environment"
            yield Check(what=package, status=status, found="not installed", mend=mend)
            continue
        version = importlib.metadata.version(package)
        yield Check(what=package, status="ok", found=version)
    yield from _device()
    folder = config.runs_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GIB
    yield Check(
        what="disk",
        status="ok" if free > 5 else "warning",
        found=f"{free:.0f} GiB free at {folder}",
        mend="" if free > 5 else "set HADPO_RUNS to a larger disk",
    )
    offline = os.environ.get("HF_HUB_OFFLINE", "0")
    yield Check(what="hub", status="ok", found="offline" if offline == "1" else "online allowed")


def _device() -> Iterator[Check]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        found = f"no GPU; {torch.get_num_threads()} threads; float32"
        yield Check(what="device", status="ok", found=found)
        return
    major, minor = torch.cuda.get_device_capability()
    name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1] / _GIB
    dtype = "bfloat16" if major >= 8 else "float16"
    found = f"{name}, capability {major}.{minor}, {memory:.0f} GiB, {dtype}, attention sdpa"
    problem, mend = missing_kernels((major, minor), torch.cuda.get_arch_list())
    if problem:
        yield Check(what="device", status="broken", found=f"{found}; {problem}", mend=mend)
    else:
        yield Check(what="device", status="ok", found=found)


def missing_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> tuple[str, str]:
    """What keeps a torch from running on a GPU, and what to do; two empty texts where nothing does.

    Args:
        capability: the GPU's, for example (7, 0).
        built_for: `torch.cuda.get_arch_list()`, for example ["sm_80", "sm_90a", "compute_120"]:
            sm_80 runs on 8.x from 8.0 on, sm_90a on 9.0 alone, compute_120 on all from 12.0 on.
    """
    builds = []
    for text in built_for:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", text)
        if found:
            builds.append((found[1], (int(found[2]), int(found[3])), found[4]))
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
    mend = "make demo TORCH_INDEX=https://download.pytorch.org/whl/cu126"
    return f"this torch has no kernels for it ({shown})", mend


def _files(recipe: config.Recipe, *, run_folder: Path | None) -> Iterator[Check]:
    """The files of the backbone and of the data sets that the recipe's stages read."""
    if recipe.model is not None and set(recipe.stages) - {"compare"}:
        family = recipe.model.backbone.partition("/")[0]
        parts = plugins.load("hadpo.backbones", family).PARTS
        for part, text in recipe.model.files.items():
            yield _file(
                f"{recipe.model.backbone}: {part}", text, run_folder, "see README, real data"
            )
        for part, meaning in parts.items():
            if part not in recipe.model.files:
                yield Check(
                    what=part,
                    status="missing",
                    found="not in the recipe",
                    mend=f"set it: {meaning}",
                )
    if "prepare" not in recipe.stages:
        return
    for what, text, mend in _data_files(recipe.data):
        if run_folder is None and "${WORLD}" in text:
            yield Check(what=what, status="ok", found="drawn by the prepare stage")
            continue
        yield _file(what, text, run_folder, mend)


def _data_files(data: Any) -> Iterator[tuple[str, str, str]]:
    wanted = (
        ("Visual Genome", data.visual_genome, ("image_data.json", "region_descriptions.json")),
        ("HA-DPO pairs", data.pairs_folder, ("desc_data.json", "pope_data.json")),
        ("COCO val2014", data.coco, ("val2014",)),
        (
            "POPE",
            data.pope,
            tuple(f"coco_pope_{s}.json" for s in ("random", "popular", "adversarial")),
        ),
        (
            "SHR",
            data.shr,
            ("val_images_final.json", *(f"shr_factual_part{part}.jsonl" for part in (1, 2))),
        ),
        ("GAVIE", data.gavie, ("",)),
        ("GQA", data.gqa, ("",)),
        ("CHAIR synonyms", data.chair_synonyms, ("",)),
        ("vocabulary", data.vocabulary, ("",)),
    )
    for what, folder, names in wanted:
        for name in names if folder else ():
            mend = f"put it there, or set the recipe's path; see README, real data ({what})"
            yield f"{what} {name}".strip(), f"{folder}/{name}".rstrip("/"), mend


def _file(what: str, text: str, run_folder: Path | None, mend: str) -> Check:
    path = config.resolve_path(text, run_folder=run_folder)
    if not path.exists():
        if "${HADPO_SHARED}" in text:
            mend = "set HADPO_SHARED to the folder with golden/ and data/"
        return Check(what=what, status="missing", found=str(path), mend=mend)
    return Check(what=what, status="ok", found=str(path))
