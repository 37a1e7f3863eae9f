"""Which process works on a stage: its host, its number and when it started."""

import os
import platform
from pathlib import Path


def host() -> str:
    """Name of this machine."""
    return platform.node()


def started_at(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where the system does not say."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0  # field 22 of proc(5); these begin with the third


def is_alive(pid: int, started: int = 0) -> bool:
    """Whether a process of this number runs here; one that only waits to be reaped does not.

    Args:
        pid: its number.
        started: what `started_at` said of it; 0: unknown. A later process that was given the
            same number started at another time.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as somebody else
        pass
    fields = _stat(pid)
    if not fields:  # no Linux
        return True
    # A killed process may stay as a zombie where nobody reaps it.
    return fields[0] != "Z" and started in (0, int(fields[19]))


def _stat(pid: int) -> list[str]:
    """Fields of `/proc/<pid>/stat` from the third on; [] where there is no such file."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
