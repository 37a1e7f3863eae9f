"""What a measurement was made with: a number without its machine is not kept."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hadpo.cost import GPUS

PACKAGES = ("hadpo", "torch", "transformers", "peft", "accelerate", "trl", "liger-kernel")


def version(package: str) -> str:
    """The installed version; empty where the package is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def describe(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Machine, versions and time, for the head of a table."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {name: version(name) or "absent" for name in PACKAGES},
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = str(torch.version.cuda)
    return found


def peak_flops(device: torch.device) -> float | None:
    """What the GPU could do at most; None where we do not know it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((gpu.peaks.tflops * 1e12 for known, gpu in GPUS.items() if known in name), None)


def processor() -> str:
    """The name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.processor()
