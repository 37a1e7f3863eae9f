"""One request to an OpenAI-compatible server; the only file that knows the openai package."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from hadpo.chat.request import ChatSettings, Reply, Request
from hadpo.records import BadInput

_ADDRESS = "OPENAI_BASE_URL"
_KEY = "OPENAI_API_KEY"
# Errors of the account or the set-up: the next request would fail alike.
_HOPELESS = (
    openai.AuthenticationError,
    openai.PermissionDeniedError,
    openai.NotFoundError,
)
ENDED = ("completed", "failed", "expired", "cancelled")  # states of a batch
_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")


class RequestFailed(Exception):
    """No usable reply to one request; `is_hopeless` where none of the others can get one either."""

    def __init__(self, why: str, *, is_hopeless: bool = False) -> None:
        super().__init__(why)
        self.is_hopeless = is_hopeless


class NoAnswer(Exception):
    """The model refused, or was cut off: paid for, but no value; never cached."""

    def __init__(self, why: str, reply: Reply) -> None:
        super().__init__(why)
        self.reply = reply


class Client:
    """Sends requests; the openai package repeats what may pass, and honours retry-after."""

    def __init__(self, settings: ChatSettings) -> None:
        """Take address and key from the environment.

        Raises:
            BadInput: there is no key.
        """
        key = os.environ.get(_KEY, "")
        if not key:
            raise BadInput(
                f"the judge needs a key in the environment variable {_KEY} (any text will do for a "
                f"local server, whose address goes into {_ADDRESS}); judge 'replay' needs none"
            )
        self.settings = settings
        self._format = settings.reply_format
        self._lock = threading.Lock()
        self._client = openai.OpenAI(
            api_key=key, timeout=settings.timeout_seconds, max_retries=settings.retries
        )

    def send(self, request: Request) -> Reply:
        """The reply to a request, with a plainer reply format where the server knows no better.

        Raises:
            RequestFailed: an error of the server, of the network or of the account.
            NoAnswer: a refusal or a reply that was cut off.
        """
        while True:
            wanted = self._format
            try:
                return self._send(request, wanted)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if wanted == "text" or not _is_about_format(error):
                    raise RequestFailed(f"refused as malformed: {_short(error)}") from error
                with self._lock:
                    if self._format == wanted:
                        self._format = "json_object" if wanted == "json_schema" else "text"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def hand_in(self, requests: Sequence[Request], mark: str) -> str:
        """Hand a batch in; its id. `mark` is kept with it, and `find` finds it by that.

        Raises:
            RequestFailed: the server took none.
        """
        lines = [
            {
                "custom_id": request.key(self.settings),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": self._body(request, self._format),
            }
            for request in requests
        ]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with _translated(self.settings):
            file = self._client.files.create(
                file=(f"{mark}.jsonl", content.encode()), purpose="batch"
            )
            batch = self._client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"hadpo": mark},
            )
        return batch.id

    def find(self, mark: str) -> str | None:
        """The id of the batch that was handed in with `mark`; None: there is none."""
        with _translated(self.settings):
            for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get("hadpo") == mark:
                    return batch.id
        return None

    def collect(self, batch_id: str) -> tuple[str, dict[str, Reply | Exception]]:
        """The state of a batch and, once it has ended, what became of its requests, by key."""
        found: dict[str, Reply | Exception] = {}
        with _translated(self.settings):
            batch = self._client.batches.retrieve(batch_id)
            if batch.status not in ENDED:
                return batch.status, found
            for file in filter(None, (batch.output_file_id, batch.error_file_id)):
                for line in self._client.files.content(file).text.splitlines():
                    if line.strip():
                        key, outcome = _of_line(line)
                        found[key] = outcome
        return batch.status, found

    def _body(self, request: Request, wanted: str) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "user", "content": request.text}],
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        if wanted == "json_schema" and request.schema:
            schema = {"name": "reply", "strict": True, "schema": dict(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif wanted == "json_object" and request.schema:
            body["response_format"] = {"type": "json_object"}
        return body

    def _send(self, request: Request, wanted: str) -> Reply:
        with _translated(self.settings):
            found: Any = self._client.chat.completions.create(**self._body(request, wanted))
        return _read(found, request.key(self.settings))


@contextmanager
def _translated(settings: ChatSettings) -> Iterator[None]:
    """Errors of the server, the network and the account as `RequestFailed`; 400 and 422 pass."""
    try:
        yield
    except (openai.BadRequestError, openai.UnprocessableEntityError):
        raise
    except openai.RateLimitError as error:
        is_quota = error.code in _QUOTA
        why = "the account's quota is used up" if is_quota else "too many requests (429)"
        raise RequestFailed(f"{why}: {_short(error)}", is_hopeless=is_quota) from error
    except _HOPELESS as error:
        raise RequestFailed(_short(error), is_hopeless=True) from error
    except openai.APITimeoutError as error:
        seconds = settings.timeout_seconds
        raise RequestFailed(f"no reply within {seconds:g} s") from error
    except openai.APIConnectionError as error:
        cause = _short(error.__cause__ or error)
        raise RequestFailed(f"the connection failed: {cause}") from error
    except (openai.OpenAIError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestFailed(_short(error)) from error


def _of_line(line: str) -> tuple[str, Reply | Exception]:
    """Key and outcome of a line of a batch's output."""
    value = json.loads(line)
    key, response = str(value.get("custom_id")), value.get("response") or {}
    if value.get("error") or response.get("status_code") != 200:
        why = value.get("error") or response.get("body") or "no reply"
        return key, RequestFailed(f"the batch says: {json.dumps(why)[:200]}")
    try:
        return key, _read(ChatCompletion.model_validate(response["body"]), key)
    except (RequestFailed, NoAnswer) as error:
        return key, error
    except (KeyError, ValueError) as error:
        return key, RequestFailed(f"no chat completion in the batch's output: {_short(error)}")


def _read(found: Any, key: str) -> Reply:
    if not isinstance(found, ChatCompletion) or not found.choices:
        raise RequestFailed(
            f"no chat completion but {str(found)[:80]!r}; is {_ADDRESS} the server's /v1 address?"
        )
    choice, usage = found.choices[0], found.usage
    reply = Reply(
        key=key,
        text=(choice.message.content if choice.message else None) or "",
        model=found.model or "",
        input_tokens=(usage.prompt_tokens if usage else 0) or 0,
        output_tokens=(usage.completion_tokens if usage else 0) or 0,
    )
    refusal = getattr(choice.message, "refusal", None)
    if refusal or choice.finish_reason == "content_filter":
        raise NoAnswer(f"refused: {refusal or 'content filter'}", reply)
    if choice.finish_reason == "length":
        raise NoAnswer("cut off at max_tokens", reply)
    if not reply.text.strip():
        raise NoAnswer("an empty reply", reply)
    return reply


def _is_about_format(error: openai.APIStatusError) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("response_format", "json_schema", "json_object"))


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    key = os.environ.get(_KEY, "")
    return (text.replace(key, "***") if key else text)[:200]
