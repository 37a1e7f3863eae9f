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
        self.batch_api = BatchApi(self)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                content = self.rfile.read(int(self.headers["content-length"]))
                if self.path.endswith(("/files", "/batches")):
                    outer.batch_api.post(self, content)
                else:
                    outer.serve(self, json.loads(content))

            def do_GET(self):
                outer.batch_api.get(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, handler, body):
        with self._lock:
            number = len(self.log)
            text = text_of(body)
            self.log.append(
                {
                    "path": handler.path,
                    "key": handler.headers.get("authorization"),
                    "retry": int(handler.headers.get("x-stainless-retry-count", 0)),
                    "text": text,
                    "body": body,
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
            self.log[number]["is_over"] = True
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self._open -= 1

    def answered_bodies(self):
        """What was asked and got its reply, as JSON."""
        return [json.dumps(entry["body"]) for entry in self.log if "is_over" in entry]

    @property
    def times_asked(self):
        return Counter(entry["text"] for entry in self.log)

    def close(self):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class BatchApi:
    """The files and batches of the server: what was handed in, and what is ready.

    `status` is that of every batch. `log` has a line per request; `handed_in` the requests of each
    batch. Lines of the output come in another order than they were handed in.
    """

    def __init__(self, server):
        self.server, self.status = server, "in_progress"
        self.files, self.batches, self.handed_in, self.log = {}, {}, {}, []
        self.takes_none = False

    def post(self, handler, content):
        self.log.append(("POST", handler.path))
        if handler.path.endswith("/files"):
            boundary = handler.headers["content-type"].partition("boundary=")[2].encode()
            [part] = [p for p in content.split(b"--" + boundary) if b'name="file"' in p]
            key = f"file-{len(self.files)}"
            self.files[key] = part.partition(b"\r\n\r\n")[2].strip().decode()
            facts = {"id": key, "object": "file", "bytes": 1, "created_at": 1, "filename": "x"}
            send(handler, 200, json.dumps(facts | {"purpose": "batch", "status": "processed"}))
            return
        if self.takes_none:
            error(400, "no batches today")(handler)
            return
        body, key = json.loads(content), f"batch_{len(self.batches)}"
        lines = self.files[body["input_file_id"]].splitlines()
        self.handed_in[key] = [json.loads(line) for line in lines]
        self.batches[key] = body["metadata"]
        send(handler, 200, json.dumps(self._facts(key)))

    def get(self, handler):
        self.log.append(("GET", handler.path))
        name = handler.path.partition("?")[0].removeprefix("/v1/")
        if name == "batches":
            found = [self._facts(key) for key in self.batches]
            page = {"object": "list", "data": found, "has_more": False}
            send(handler, 200, json.dumps(page))
        elif name.startswith("batches/"):
            send(handler, 200, json.dumps(self._facts(name.removeprefix("batches/"))))
        else:
            key = name.split("/")[1].removeprefix("output-")
            lines = [self._line(each, n) for n, each in enumerate(self.handed_in[key])]
            send(handler, 200, "\n".join(lines[::-1]), "application/jsonl")

    def _facts(self, key):
        facts = {"id": key, "object": "batch", "endpoint": "/v1/chat/completions", "created_at": 1}
        facts |= {"input_file_id": "file-0", "completion_window": "24h", "status": self.status}
        facts |= {"metadata": self.batches[key]}
        return facts | {"output_file_id": f"output-{key}" if self.status == "completed" else None}

    def _line(self, each, number):
        said = self.server.behave(each["body"], number)
        line = {"id": f"r{number}", "custom_id": each["custom_id"], "error": None}
        if isinstance(said, dict):
            return json.dumps(line | said)
        return json.dumps(line | {"response": {"status_code": 200, "body": completion(said)}})


def text_of(body):
    """The text of the user's message, whether pictures stand before it or not."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def completion(text, *, finish="stop", refusal=None, tokens=(100, 10)):
    message = {"role": "assistant", "content": text, "refusal": refusal}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": 110}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return COMPLETION | {"choices": choices, "usage": usage}


def send(handler, status, content, kind="application/json", headers=()):
    data = content.encode()
    handler.send_response(status)
    handler.send_header("content-type", kind)
    handler.send_header("content-length", str(len(data)))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def reply(handler, text, **options):
    send(handler, 200, json.dumps(completion(text, **options)))


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
