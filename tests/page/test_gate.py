"""What stands before the page: no visitor reads, keeps or deletes a file that is not their own."""

import asyncio
import json

import pytest

pytest.importorskip("starlette", reason="the page's extra is absent: pip install -e '.[page]'")

from hadpo.page.uploads import LARGEST_BYTES, Gate

pytestmark = pytest.mark.extra
HOST = "127.0.0.1:7860"


class Behind:
    """Stands for the page: remembers what reached it; fails as it is told to."""

    def __init__(self):
        self.bodies, self.status, self.error = [], 200, None

    async def __call__(self, scope, receive, send):
        self.bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
        if self.error:
            raise self.error


class Site:
    def __init__(self):
        self.page = Behind()
        self.is_heard = False  # whether the body of a request was received
        self.gate = Gate(self.page)

    def ask(self, method, path, body=b"", **headers):
        sent = []
        named = {"host": HOST, **{k.replace("_", "-"): v for k, v in headers.items()}}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in named.items()],
        }

        async def receive():
            self.is_heard = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run(self.gate(scope, receive, send))
        return sent[0]["status"], sent[1]["body"].decode()

    def join(self, data, **headers):
        body = json.dumps({"data": data, "fn_index": 1, "session_hash": "s"}).encode()
        return self.ask("POST", "/gradio_api/queue/join", body, **headers)


@pytest.fixture
def site():
    return Site()


@pytest.mark.parametrize("path", ["/etc/hostname", "a.png", "http://127.0.0.1:1/x.png", 5, None])
def test_no_file_can_be_named(site, path):
    held = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for data in ([None, held], [[{"inner": [held]}]], [{"url": path}], [{"meta": {}}], held):
        assert site.join(data) == (403, "this page reads no file that a request names")
    assert site.page.bodies == []


def test_what_the_page_sends_reaches_it_byte_for_byte(site):
    picture = json.dumps({"name": "a.png", "size": 3, "data": "data:image/png;base64,AAAA"})
    assert site.join([None, picture])[0] == 200
    body = {"data": [None, picture], "fn_index": 1, "session_hash": "s"}
    assert site.page.bodies == [json.dumps(body).encode()]
    picked = {"index": 1, "value": {"image": {"path": "/tmp/x.png"}}}  # of the gallery
    body = json.dumps({"data": [None], "event_data": picked}).encode()
    assert site.ask("POST", "/gradio_api/queue/join", body)[0] == 200


def test_a_request_that_breaks_the_page_is_a_bad_one(site, caplog):
    site.page.status, site.page.error = 500, KeyError("fn_index")
    assert site.join([])[0] == 400
    assert "a request was refused: KeyError" in caplog.text
    with pytest.raises(KeyError):  # a page that cannot be shown is an error of its own
        site.ask("GET", "/")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://elsewhere.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "https://127.0.0.1:7860"},
        {"origin": "http://127.0.0.1:7861"},
        {"sec_fetch_site": "cross-site"},
        {"origin": f"http://{HOST}", "sec_fetch_site": "same-site"},
    ],
)
def test_requests_from_other_sites_are_refused(site, headers):
    assert site.join([None], **headers)[0] == 403
    assert site.page.bodies == []


def test_requests_of_the_page_itself_and_of_programs_are_answered(site):
    for headers in ({}, {"origin": f"http://{HOST}", "sec_fetch_site": "same-origin"}):
        assert site.join([None, "a question", 0], **headers)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run/upload"),
        ("POST", "/gradio_api/call/upload"),
        ("POST", "/gradio_api/vibe-code/"),
        ("POST", "/gradio_api/upload"),
        ("PUT", "/gradio_api/queue/join"),
        ("DELETE", "/gradio_api/file=/tmp/x"),
        ("GET", "/gradio_api/file=http://elsewhere.example/x.png"),
        ("GET", "/gradio_api/file=pages/../x"),
        ("GET", "/gradio_api/proxy=http://elsewhere.example/x.png"),
    ],
)
def test_addresses_that_the_page_does_not_use_are_refused(site, method, path):
    assert site.ask(method, path, b"{}")[0] == 403
    assert site.page.bodies == []


def test_what_is_sent_to_an_unused_address_is_heard_so_that_the_sender_hears_the_answer(site):
    assert site.ask("POST", "/gradio_api/upload", b"x" * 1_000_000)[0] == 403
    assert site.is_heard and site.page.bodies == []


def test_a_request_that_is_too_large_or_no_json_is_refused(site):
    largest = site.join([None, "x" * (LARGEST_BYTES * 4 // 3)])
    assert largest[0] == 200 and site.page.bodies.pop()
    large = site.ask("POST", "/gradio_api/queue/join", b"x" * (LARGEST_BYTES * 4 // 3 + 200_000))
    assert large == (400, "the request is too large")
    assert site.ask("POST", "/gradio_api/queue/join", b"{")[0] == 400
    assert site.ask("POST", "/gradio_api/queue/join", b"[" * 90_000)[0] == 400
    assert site.page.bodies == []
