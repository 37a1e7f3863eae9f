"""The page as HTTP requests see it: real server, real model, many visitors."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page's extra is absent: pip install -e '.[page]'")

from tests.page.test_uploads import BAD, picture, sent

pytestmark = pytest.mark.extra

ROOT = Path(__file__).parents[2]


class Page:
    def __init__(self, folder: Path):
        self.folder = folder
        log = folder / "log.txt"
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hadpo", "page", "--port", "0"],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
            )
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.1)
        self.url = found[0]

    def files(self) -> list[Path]:
        """Files below the page's own folder that visitors could have brought."""
        return sorted(p for p in self.folder.rglob("*") if p.is_file() and p.name != "log.txt")

    def memory_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", text)[1])  # type: ignore[index]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    found = Page(tmp_path_factory.mktemp("page"))
    yield found
    found.process.send_signal(signal.SIGINT)
    assert found.process.wait(20) in (0, 130)
    assert found.files() == []  # nothing outlives the page
    assert not list(found.folder.glob("hadpo-page-*"))


def send(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_other_hosts_are_turned_away_and_nothing_outside_is_allowed(page):
    request = urllib.request.Request(page.url + "/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=20)
    assert error.value.code == 400
    with urllib.request.urlopen(page.url + "/", timeout=20) as reply:
        assert "default-src 'self'" in reply.headers["content-security-policy"]


def functions(page: Page) -> dict[str, int]:
    """Which number the page's functions have, by name."""
    with urllib.request.urlopen(page.url + "/config", timeout=20) as reply:
        found = json.load(reply)["dependencies"]
    return {entry["api_name"]: entry["id"] for entry in found}


def call(page: Page, number: int, data: list, session: str) -> list:
    """What a tab does: join the queue, listen until its event is done; the last output."""
    event = {"data": data, "fn_index": number, "session_hash": session}
    status, text = send(
        f"{page.url}/gradio_api/queue/join",
        json.dumps(event).encode(),
        {"Content-Type": "application/json"},
    )
    assert status == 200, text
    output: list = []
    address = f"{page.url}/gradio_api/queue/data?session_hash={session}"
    with urllib.request.urlopen(address, timeout=300) as reply:
        for line in reply:
            if not line.startswith(b"data:"):
                continue
            message = json.loads(line[5:])
            if message["msg"] == "process_completed":
                assert message["success"], message
                return message["output"]["data"] or output
            if message["msg"] == "unexpected_error":
                raise AssertionError(message)
            if message["msg"] == "process_generating":
                output = message["output"]["data"]
    raise AssertionError("the answer never ended")


@pytest.mark.slow
def test_two_hundred_questions_of_eight_visitors_lose_none_and_memory_stays(page, record_property):
    number = functions(page)["ask"]
    things = ["kite", "ball", "car", "lamp", "fish"]
    lost, answered = [], []
    memory = []

    def visitor(name: str, count: int) -> None:
        for at in range(count):
            question = f"Is there a {things[at % 5]} in the image?"
            try:
                data = [None, question, "greedy", 0, 16, False]
                said = call(page, number, data, f"s-{name}")
                answered.append((name, at))
                sides = [text for text in said if isinstance(text, str)]
                for text in sides:
                    assert question in text, text
            except (OSError, AssertionError) as error:
                lost.append((name, at, repr(error)))

    def round_of(questions: int) -> None:
        threads = [
            threading.Thread(target=visitor, args=(str(i), questions // 8)) for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        memory.append(page.memory_bytes())

    round_of(40)  # warm
    answered.clear()
    started = time.monotonic()
    round_of(200)
    record_property("seconds", round(time.monotonic() - started, 1))
    assert lost == []
    assert len(answered) == 200
    round_of(200)
    record_property("memory_bytes", memory)
    sys.stderr.write(f"memory {[m // 2**20 for m in memory]} MiB after 40, 240, 440 questions\n")
    assert memory[2] - memory[1] < 40 * 2**20


def listen(page: Page, number: int, data: list) -> dict:
    """As `call`; what the page says at the end, whatever it is."""
    session = f"t{time.monotonic_ns()}"
    event = {"data": data, "fn_index": number, "session_hash": session}
    kind = {"Content-Type": "application/json"}
    url = f"{page.url}/gradio_api/queue"
    status, text = send(f"{url}/join", json.dumps(event).encode(), kind)
    if status != 200:
        return {"status": status, "text": text}
    with urllib.request.urlopen(f"{url}/data?session_hash={session}", timeout=60) as reply:
        for line in reply:
            if line.startswith(b"data:") and b"process_completed" in line:
                return json.loads(line[5:])
    raise AssertionError("it never ended")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_upload_leaves_no_file(page, name):
    before = page.files()
    file, content, reason = BAD[name]
    said = listen(page, functions(page)["upload"], [None, sent(file, content)])
    assert reason in said["output"]["error"] if len(content) < 20_000_000 else said["status"] == 400
    assert page.files() == before


@pytest.mark.slow
def test_an_own_upload_is_shown_and_no_file_is_read(page, tmp_path):
    number = functions(page)["upload"]
    secret, before = tmp_path / "secret.png", page.files()
    secret.write_bytes(picture("PNG"))
    for named in (secret, Path("/etc/hostname"), page.folder / "log.txt"):
        for value in ({"path": str(named), "meta": {"_type": "gradio.FileData"}}, str(named)):
            said = listen(page, number, [None, value])
            assert said.get("status") == 403 or said["success"] is False, said
            assert "<img" not in json.dumps(said)
    said = listen(page, number, [None, sent("mine.png", picture("PNG"))])
    assert said["success"] and "mine.png, 40 x 30 pixels" in json.dumps(said["output"])
    assert page.files() == before


@pytest.mark.slow
def test_no_request_ends_in_an_internal_error(page):
    number, kind = functions(page), {"Content-Type": "application/json"}
    ask = {"fn_index": number["ask"], "session_hash": "s"}
    bodies: list = [{}, {"data": []}, {"data": [], "fn_index": 999, "session_hash": "s"}]
    bodies += [{"data": [], **ask}, {"data": [None] * 6, **ask}]
    bodies += [{"data": [None], "fn_index": number["pick"], "event_data": {"index": 999}}]
    for path in ("queue/join", "run/predict"):
        for body in bodies:
            status, _ = send(f"{page.url}/gradio_api/{path}", json.dumps(body).encode(), kind)
            assert status in (200, 400, 422), (path, body)
    said = listen(page, number["ask"], [None, None, "greedy", 0, 16, False])
    assert said["output"]["error"] == "Type a question first, or choose one."
