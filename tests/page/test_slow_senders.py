"""A visitor who sends a request byte by byte: the page's server hangs up, and serves the others."""

import asyncio
import socket
import threading

import pytest

pytest.importorskip("uvicorn", reason="the page's extra is absent: pip install -e '.[page]'")

from hadpo.page import server_of
from hadpo.page.uploads import Gate

pytestmark = pytest.mark.extra
LIMIT = 0.3  # seconds for a request to arrive
HEAD = b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n"
BODY = b'\r\n{"data": [7]}'


async def page(scope, receive, send):
    body = (await receive())["body"]
    await asyncio.sleep(2 * LIMIT)  # what takes long is the answer, which has no limit
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"heard " + body})


@pytest.fixture(scope="module")
def address():
    listening, ready = socket.create_server(("127.0.0.1", 0)), threading.Event()
    server = server_of(Gate(page), ready.set, seconds=LIMIT)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    assert ready.wait(20)
    yield listening.getsockname()
    server.should_exit = True
    thread.join(20)


def hears(sender: socket.socket) -> bytes:
    """What comes until the server hangs up or has answered; b"" if it only hangs up."""
    heard = b""
    while not (b"heard" in heard and heard.endswith(b"0\r\n\r\n")):
        try:
            piece = sender.recv(1000)
        except ConnectionResetError:
            return heard
        if not piece:
            return heard
        heard += piece
    return heard


@pytest.mark.parametrize(
    ("at_once", "drop"),
    [
        (b"", b""),  # nothing at all
        (b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"),
        (b"G", b"E"),
        (HEAD + b"\r\n", b" "),
        (HEAD.replace(b"13", b"1000000") + b"\r\n", b"a"),
        (
            HEAD.replace(b"Content-Length: 13", b"Transfer-Encoding: chunked") + b"\r\n",
            b"1\r\na\r\n",
        ),
    ],
    ids=["silence", "lines", "first line", "body", "long body", "chunks"],
)
def test_a_request_that_drips_is_left(address, at_once, drop):
    with socket.create_connection(address, timeout=20) as sender:
        sender.sendall(at_once)
        done = threading.Event()

        def drip() -> None:
            try:
                while not done.wait(LIMIT / 4):
                    sender.sendall(drop)
            except OSError:  # it has hung up
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        heard = hears(sender)
        done.set()
        thread.join()
    assert b"heard" not in heard


def test_one_connection_serves_whole_requests_and_leaves_the_next_that_drips(address):
    with socket.create_connection(address, timeout=20) as sender:
        for _ in range(2):
            sender.sendall(HEAD)
            sender.sendall(BODY)
            assert hears(sender).count(b'heard {"data": [7]}') == 1
        sender.sendall(HEAD)
        assert hears(sender) == b""
