"""A real HTTP server on loopback that speaks, and breaks, the chat completions protocol."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "judge-as-served",
}


class JudgeServer:
    """`behave(body, number)` gives the reply's text, or a function of the request handler.

    `log` has a line per request as it came; `peak` is the most that were open at once.
    """

    def __init__(self, behave, *, seconds=0.0):
        self.behave, self.seconds = behave, seconds
        self.log, self.answered = [], []
        self.peak = self._open = 0
        self._lock = threading.Lock()
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                length = int(self.headers["content-length"])
                outer.serve(self, json.loads(self.rfile.read(length)))

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, handler, body):
        with self._lock:
            number = len(self.log)
            text = body["messages"][0]["content"]
            self.log.append(
                {
                    "path": handler.path,
                    "key": handler.headers.get("authorization"),
                    "retry": int(handler.headers.get("x-stainless-retry-count", 0)),
                    "text": text,
                    "format": (body.get("response_format") or {}).get("type", "text"),
                    "time": time.monotonic(),
                }
            )
            self._open += 1
            self.peak = max(self.peak, self._open)
        try:
            time.sleep(self.seconds)
            said = self.behave(body, number)
            if callable(said):
                said(handler)
            else:
                reply(handler, said)
                self.answered.append(text)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self._open -= 1

    @property
    def times_asked(self):
        return Counter(entry["text"] for entry in self.log)

    def close(self):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


def send(handler, status, content, kind="application/json", headers=()):
    data = content.encode()
    handler.send_response(status)
    handler.send_header("content-type", kind)
    handler.send_header("content-length", str(len(data)))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def reply(handler, text, *, finish="stop", refusal=None, tokens=(100, 10)):
    message = {"role": "assistant", "content": text, "refusal": refusal}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": 110}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    send(handler, 200, json.dumps(COMPLETION | {"choices": choices, "usage": usage}))


def error(status, message="broken", code=None, headers=()):
    content = json.dumps({"error": {"message": message, "code": code, "type": code}})
    return lambda handler: send(handler, status, content, headers=headers)


def too_many(seconds="0.01"):
    return error(429, "slow down", "rate_limit_exceeded", headers=[("retry-after", seconds)])


def html(handler):
    send(handler, 200, "<html><body>Log in</body></html>", "text/html")


def malformed(handler):
    send(handler, 200, '{"id": "chatcmpl-1", "choices": [')


def closes_midway(handler):
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"id": "chat')
    handler.wfile.flush()
    handler.connection.close()
    handler.close_connection = True
