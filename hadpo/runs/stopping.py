"""SIGTERM, which a cluster sends before it takes a machine away: work is saved, then it ends."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hadpo.records import BadInput
from hadpo.runs.manifest import read_manifest
from hadpo.runs.process import is_alive


class Stopped(KeyboardInterrupt):
    """SIGTERM came: the message says what was saved, and that the same command goes on."""


class Notice:
    """Whether SIGTERM has come; `remember` is what to do when it does."""

    def __init__(self, tell: Callable[[], Any]) -> None:
        self._tell = tell
        self._has_come = False

    def __call__(self) -> bool:
        return self._has_come

    def remember(self, *_: Any) -> None:
        """Note it, and tell whoever is to know."""
        self._has_come = True
        self._tell()


@contextmanager
def noticed(tell: Callable[[], Any] = lambda: None) -> Iterator[Notice]:
    """Within it, SIGTERM does not end the process: it is remembered, and `tell` is called.

    Outside the main thread Python cannot listen: there it never comes.
    """
    notice = Notice(tell)
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = signal.signal(signal.SIGTERM, notice.remember)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, before)


def pass_on(folder: Path) -> None:
    """Send SIGTERM to the process that works on a stage's folder, if it is another one."""
    try:
        manifest = read_manifest(folder)
    except BadInput:  # it cannot be read: nobody is known to be told
        return
    if manifest is None or manifest.status != "running" or manifest.is_elsewhere:
        return
    if manifest.pid != os.getpid() and is_alive(manifest.pid, manifest.pid_started):
        os.kill(manifest.pid, signal.SIGTERM)
