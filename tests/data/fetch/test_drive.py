"""Files from Google Drive, through gdown as it is: its host, played by loopback behind a proxy."""

import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hadpo.data.fetch import FetchFailed, Patience
from hadpo.data.fetch.hosts import drive_file, drive_folder

CONTENT = bytes(range(256)) * 6000  # gdown writes half a MiB at a time
ID = "1RY9jV0dyqLX-o38LrumkKRh6Jtaop58R"
QUICK = Patience(retries=2, timeout_seconds=5.0)
QUOTA = (
    "<html><head><title>Google Drive - Quota exceeded</title></head><body>\n"
    '<p class="uc-error-caption">Sorry</p>\n<p class="uc-error-subcaption">Too many users have '
    "viewed or downloaded this file "
    "recently. Please try accessing the file again later.</p>\n</body></html>"
)
CONFIRM = (
    "<html><body><p>Google Drive can't scan this file for viruses.</p>\n"
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    f'<input type="hidden" name="id" value="{ID}"><input type="hidden" name="confirm" value="t">'
    "</form>\n</body></html>"
)


class Drive:
    """A proxy that answers every TLS connection itself; `answer(handler)` plays Google."""

    def __init__(self, folder):
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        names = "DNS:drive.google.com,DNS:docs.google.com,DNS:drive.usercontent.google.com"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=drive.google.com", "-addext", f"subjectAltName={names}"),
                *("-keyout", key, "-out", certificate),
            ],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.certificate, self.log, self.answer = certificate, [], None
        outer = self

        class Google(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.log.append((self.headers["Host"], self.path, self.headers.get("Range")))
                outer.answer(self)

            def give(self, body, *, status=200, kind="text/html", **headers):
                content = body if isinstance(body, bytes) else body.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        class Proxy(BaseHTTPRequestHandler):
            def do_CONNECT(self):
                self.send_response(200)
                self.end_headers()
                Google(context.wrap_socket(self.connection, server_side=True), ("", 0), None)
                self.close_connection = True

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def drive(tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("no openssl here to make a certificate for the played host")
    folder = tmp_path / "played"
    folder.mkdir()
    played = Drive(folder)
    monkeypatch.setenv("HTTPS_PROXY", played.url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(played.certificate))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    yield played
    played.close()


def send(handler, *, cut=None):
    start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
    headers = {"Content_Disposition": 'attachment; filename="weights.pth"'}
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
    body = CONTENT[start:]
    if cut is None:
        kind = "application/octet-stream"
        handler.give(body, status=206 if start else 200, kind=kind, **headers)
        return
    handler.send_response(206 if start else 200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Type", "application/octet-stream")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:cut])
    handler.close_connection = True


def test_a_file_behind_the_page_that_asks_to_confirm(drive, tmp_path):
    def answer(handler):
        return send(handler) if "confirm=t" in handler.path else handler.give(CONFIRM)

    drive.answer = answer
    target = tmp_path / "weights.pth"
    told = []
    drive_file(
        ID,
        target,
        size=len(CONTENT),
        patience=QUICK,
        progress=lambda done, total: told.append((done, total)),
    )
    assert target.read_bytes() == CONTENT and told[-1] == (len(CONTENT), len(CONTENT))
    assert [host for host, *_ in drive.log][-1] == "drive.usercontent.google.com"
    assert {p.name for p in tmp_path.iterdir()} == {"weights.pth", "played"}


def test_it_goes_on_after_a_cut(drive, tmp_path):
    cuts = iter([700_000])
    drive.answer = lambda handler: send(handler, cut=next(cuts, None))
    drive_file(ID, tmp_path / "a", size=len(CONTENT), patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert any(entry[2] and entry[2] != "bytes=0-" for entry in drive.log)


def test_a_quota_page_is_recognised(drive, tmp_path):
    drive.answer = lambda handler: handler.give(QUOTA)
    with pytest.raises(FetchFailed, match=r"quota for this file is used up .*24 hours") as error:
        drive_file(ID, tmp_path / "a", patience=QUICK)
    assert f"https://drive.google.com/file/d/{ID}/view" in str(error.value)
    assert str(tmp_path / "a") in str(error.value) and not (tmp_path / "a").exists()


def test_a_file_that_is_no_longer_public(drive, tmp_path):
    drive.answer = lambda handler: handler.give("<html>Sign in</html>")
    with pytest.raises(FetchFailed, match="Drive does not give it"):
        drive_file(ID, tmp_path / "a", patience=QUICK)
    drive.answer = lambda handler: handler.give("gone", status=404)
    with pytest.raises(FetchFailed, match="Drive does not give it"):
        drive_file(ID, tmp_path / "a", patience=QUICK)


def test_another_file_than_published_is_deleted(drive, tmp_path):
    drive.answer = send
    with pytest.raises(FetchFailed, match="published are 7"):
        drive_file(ID, tmp_path / "a", size=7, patience=QUICK)
    with pytest.raises(FetchFailed, match="wrong checksum"):
        drive_file(ID, tmp_path / "a", sha256="0000", patience=QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["played"]


def test_a_folder_that_lists_nothing(drive, tmp_path):
    drive.answer = lambda handler: handler.give("<html></html>", status=404)
    with pytest.raises(FetchFailed, match="folders/1BDuUcMeaWrFD8TwgHLhFPkuAwmoHaVNQ"):
        drive_folder("1BDuUcMeaWrFD8TwgHLhFPkuAwmoHaVNQ", tmp_path / "hic")
