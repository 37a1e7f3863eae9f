"""A real HTTP server on loopback whose every answer a test chooses."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class FileServer:
    """`routes[path]` is bytes, served with ranges, or a function of the request handler.

    `log` has (method, path, range) of every request.
    """

    def __init__(self):
        self.routes, self.log = {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.log.append((self.command, self.path, self.headers.get("Range")))
                route = outer.routes.get(self.path.partition("?")[0])
                if route is None:
                    self.give(b"not here", status=404)
                elif callable(route):
                    route(self)
                else:
                    self.file(route)

            do_HEAD = do_GET  # noqa: N815 - the base class's name

            def give(self, body, *, status=200, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def file(self, content, *, cut=None, **headers):
                """Serve content with ranges; `cut`: close after so many bytes of the body."""
                found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
                start, status = int(found[1]) if found else 0, 206 if found else 200
                if found and start >= len(content):
                    self.give(b"", status=416, Content_Range=f"bytes */{len(content)}")
                    return
                if found:
                    headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                if cut is None:
                    self.give(content[start:], status=status, **headers)
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : start + cut])
                self.wfile.flush()
                self.close_connection = True

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web():
    server = FileServer()
    yield server
    server.close()
