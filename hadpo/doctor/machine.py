"""What this machine has: Python, torch and its GPU, room on the disk."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence

from hadpo import config
from hadpo.doctor.report import Check

_GIB = 1 << 30


def capability() -> tuple[int, int] | None:
    """Of the GPU that `device: auto` takes; None where there is none."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def look() -> Iterator[Check]:
    """Packages, device, disk and hub."""
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
