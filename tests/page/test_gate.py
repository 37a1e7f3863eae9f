"""What stands before the page: no visitor reads, keeps or deletes a file that is not their own."""

import asyncio
import io
import json

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page's extra is absent: pip install -e '.[page]'")

from hadpo.page import uploads
from hadpo.page.uploads import LARGEST_BYTES, Gate, Uploads
from hadpo.records import BadInput

pytestmark = pytest.mark.extra
HOST = "127.0.0.1:7860"


def png(side=8, noise=False):
    file = io.BytesIO()
    if noise:
        import os

        Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(file, "PNG")
    else:
        Image.new("RGB", (side, side), "red").save(file, "PNG")
    return file.getvalue()


class Behind:
    """Stands for the page: remembers what reached it."""

    def __init__(self):
        self.bodies = []

    async def __call__(self, scope, receive, send):
        self.bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


class Site:
    def __init__(self, folder):
        self.page, self.uploads = Behind(), Uploads(folder)
        self.gate = Gate(self.page, self.uploads)

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
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run(self.gate(scope, receive, send))
        return sent[0]["status"], sent[1]["body"].decode()

    def upload(self, name="a.png", content=None, **headers):
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + (content or png()) + b"\r\n--x--\r\n"
        kind = "multipart/form-data; boundary=x"
        return self.ask("POST", "/gradio_api/upload", body, content_type=kind, **headers)

    def join(self, data, **headers):
        body = json.dumps({"data": data, "fn_index": 1, "session_hash": "s"}).encode()
        return self.ask("POST", "/gradio_api/queue/join", body, **headers)

    def files(self):
        return [path for path in self.uploads.folder.rglob("*") if path.is_file()]


@pytest.fixture
def site(tmp_path):
    (tmp_path / "uploads").mkdir()
    return Site(tmp_path / "uploads")


def file_of(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def test_a_visitor_names_what_they_uploaded_and_the_page_takes_it_once(site):
    status, text = site.upload()
    (path,) = json.loads(text)
    assert status == 200 and site.files() == [site.uploads.folder / path]
    more = {"url": "http://elsewhere.example/x.png", "orig_name": "../x", "size": 3}
    assert site.join([None, file_of(path, **more)])[0] == 200
    (body,) = site.page.bodies
    assert json.loads(body)["data"] == [None, file_of(path, orig_name="a.png")]  # nothing else
    assert site.uploads.take(path) == ("a.png", png())
    assert site.files() == []
    with pytest.raises(BadInput, match="upload it again"):
        site.uploads.take(path)
    assert site.join([None, file_of(path)])[0] == 403


@pytest.mark.parametrize(
    "way", ["outside", "link", "dots", "beside", "folder", "address", "number"]
)
def test_no_other_file_can_be_named(site, tmp_path, way):
    (path,) = json.loads(site.upload()[1])
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    (site.uploads.folder / "link.png").symlink_to(secret)
    (site.uploads.folder / "beside.png").write_bytes(png())
    named = {
        "outside": secret,
        "link": site.uploads.folder / "link.png",
        "dots": f"{path}/../../../secret.png",
        "beside": site.uploads.folder / "beside.png",
        "folder": site.uploads.folder,
        "address": "http://127.0.0.1:1/x.png",
        "number": 5,
    }[way]
    held = {"path": named, "meta": {"_type": "gradio.FileData"}}
    held |= {} if way == "number" else {"path": str(named)}
    for data in ([None, held], [[{"inner": [held]}]], [{"url": "/x", "inner": held}], [held, path]):
        assert site.join(data) == (403, "this is no picture that was uploaded here")
    assert site.page.bodies == [] and secret.is_file()
    assert site.files()


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
    assert site.upload(**headers)[0] == 403
    assert site.join([None], **headers)[0] == 403
    assert site.files() == [] and site.page.bodies == []


def test_requests_of_the_page_itself_and_of_programs_are_answered(site):
    for headers in ({}, {"origin": f"http://{HOST}", "sec_fetch_site": "same-origin"}):
        assert site.upload(**headers)[0] == 200
        assert site.join([None, "a question", 0], **headers)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run/upload"),
        ("POST", "/gradio_api/call/upload"),
        ("POST", "/gradio_api/vibe-code/"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/gradio_api/file=/tmp/x"),
        ("GET", "/gradio_api/file=http://elsewhere.example/x.png"),
        ("GET", "/gradio_api/file=pages/../x"),
        ("GET", "/gradio_api/proxy=http://elsewhere.example/x.png"),
    ],
)
def test_addresses_that_the_page_does_not_use_are_refused(site, method, path):
    assert site.ask(method, path, b"{}")[0] == 403
    assert site.page.bodies == []


def test_a_request_that_is_too_large_or_no_json_is_refused(site):
    large = site.ask("POST", "/gradio_api/queue/join", b"x" * 200_000)
    assert large == (400, "the request is too large")
    assert site.ask("POST", "/gradio_api/queue/join", b"{")[0] == 400
    assert site.ask("POST", "/gradio_api/queue/join", b"[" * 90_000)[0] == 400
    assert site.page.bodies == []


def test_what_lies_there_is_limited_in_bytes_number_and_age(site, monkeypatch):
    pictures = [png(600, noise=True) for _ in range(14)]
    paths = [json.loads(site.upload(content=one)[1])[0] for one in pictures]
    sizes = [path.stat().st_size for path in site.files()]
    assert sum(sizes) <= LARGEST_BYTES < sum(sizes) + min(map(len, pictures))
    assert site.uploads.has(paths[-1]) and not site.uploads.has(paths[0])  # the oldest went
    for _ in range(40):
        site.upload()
    assert len(site.files()) == 16
    monkeypatch.setattr(uploads, "_LONGEST_SECONDS", -1.0)
    assert not site.uploads.has(paths[-1]) and site.files() == []
    assert not list(site.uploads.folder.iterdir())


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".png", "../a.png", "a.svg", "a.png\\\\b.png", ".png"]
)
def test_a_name_that_can_be_no_files_is_refused(site, name):
    status, text = site.upload(name)
    assert status == 400 and ("rename the file" in text or "not a PNG" in text)
    assert site.files() == []
