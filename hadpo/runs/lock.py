"""One worker a stage: who works on its folder, and a lock that keeps every other process out."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from hadpo.records import BadInput

_held: dict[Path, FileLock] = {}  # by this process
_LEFTOVER_SECONDS = 5.0  # that children of a killed holder have to end
_CLOCK_SECONDS = 2  # by which a process's start may seem to move when the clock is set


def host() -> str:
    """Name of this machine."""
    return platform.node()


def started_at(pid: int) -> int:
    """When a process started, in seconds since 1970; 0 if it does not run."""
    try:
        return int(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0


def is_alive(pid: int, started: int = 0) -> bool:
    """Whether a process of this number runs here; one that only waits to be reaped does not.

    Args:
        pid: its number.
        started: what `started_at` said of it; 0: unknown. A later process that was given the
            same number started at another time.
    """
    try:
        process = psutil.Process(pid) if pid > 0 else None
        if process is None or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started == 0 or abs(process.create_time() - started) <= _CLOCK_SECONDS
    except psutil.AccessDenied:  # it runs, as somebody else
        return True
    except psutil.NoSuchProcess:
        return False


def take(folder: Path) -> bool:
    """Keep all other processes from working on a stage's folder until `give_back`, or our end.

    A process that an owner of the lock started works for it: it is let in.

    Returns:
        Whether this process holds the lock anew; False if it or an ancestor has it already.

    Raises:
        BadInput: another process works on it; says which, where and since when.
        OSError: the folder above cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"  # beside it: --force deletes the folder
    if path in _held:
        return False
    lock = FileLock(path, thread_local=False)
    until = time.monotonic() + _LEFTOVER_SECONDS
    while not lock.is_locked:
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            pid, where, since, started = _holder(path)
            if where == host() and pid in {p.pid for p in psutil.Process().parents()}:
                return False
            is_gone = where == host() and not is_alive(pid, started)
            if not is_gone or time.monotonic() > until:
                raise BadInput(working(folder, pid, where, since)) from error
            time.sleep(0.1)
    _held[path] = lock
    now = datetime.now(UTC).isoformat(timespec="seconds")
    path.write_text(json.dumps([os.getpid(), host(), now, started_at(os.getpid())]))
    return True


def give_back(folder: Path) -> None:
    """Let others work on the folder; nothing happens if this process does not hold its lock."""
    lock = _held.pop(folder.parent / f".{folder.name}.lock", None)
    if lock is not None:
        lock.release()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it, no other process works on the folder; raises as `take` does."""
    is_new = take(folder)
    try:
        yield
    finally:
        if is_new:
            give_back(folder)


def working(folder: Path, pid: int, where: str, since: str) -> str:
    """The message that somebody else works on a folder."""
    begun = f" since {since}" if since else ""
    who = f"{folder} is being worked on by process {pid} on host {where or host()}{begun}"
    if where in ("", host()):
        return f"{who}; wait for it, or stop it"
    return (
        f"{who}, which cannot be looked at from {host()}; wait for it, or, if it is gone for good, "
        f'write "interrupted" for "running" in {folder / "manifest.json"}'
    )


def _holder(path: Path) -> tuple[int, str, str, int]:
    """Who holds a lock: pid, host, since when, start of the process; zeros before it is written."""
    with suppress(OSError, ValueError):
        pid, where, since, started = json.loads(path.read_text())
        return pid, where, since, started
    return 0, "", "", 0
