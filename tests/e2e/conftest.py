"""A user's hands: Debian's Chromium, driven by Playwright, on servers of this machine.

Pictures of what was seen go to `HADPO_SCREENSHOTS`, else to the test's own folder.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.extra)


class Visitor:
    """A tab of its own session, and what it noticed."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(60_000)
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.context.on("request", self._note)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note(self, request):
        if not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:|about:", request.url):
            self.outside.append(request.url)


@pytest.fixture
def visit(chromium) -> Iterator[Callable[..., Visitor]]:
    """Opens a tab; at the end, no tab may have failed or have asked anybody else for anything."""
    visitors: list[Visitor] = []

    def new(**options) -> Visitor:
        visitors.append(Visitor(chromium, **options))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()
    assert [v.outside for v in visitors if v.outside] == []
    assert [v.errors for v in visitors if v.errors] == []


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures of the screen are kept."""
    folder = Path(os.environ.get("HADPO_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Server:
    """A process that serves on this machine, and the address that it printed."""

    def __init__(self, command: list[str], wanted: str, log: Path, **environment: str) -> None:
        self.started = time.monotonic()
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | environment,
                start_new_session=True,
            )
        self.address = self._wait(wanted)
        self.seconds = time.monotonic() - self.started

    def _wait(self, wanted: str) -> str:
        for _ in range(1200):
            if found := re.search(wanted, self._log.read_text()):
                return found[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        raise AssertionError(f"no server: {self._log.read_text()[-2000:]}")

    def stop(self) -> int:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()


@pytest.fixture(scope="session")
def page_server(tmp_path_factory) -> Iterator[Server]:
    """`hadpo page`, as a user starts it, with nothing named."""
    pytest.importorskip("gradio", reason="the extra page is absent: pip install -e '.[page]'")
    folder = tmp_path_factory.mktemp("page")
    server = Server(
        [sys.executable, "-m", "hadpo", "page", "--port", "0"],
        r"http://127\.0\.0\.1:\d+/",
        folder / "log.txt",
        TMPDIR=str(folder),
    )
    server.folder = folder  # type: ignore[attr-defined]
    yield server
    server.stop()
    assert list(folder.glob("hadpo-page-*")) == []
