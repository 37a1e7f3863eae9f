"""One request, or one batch, to an OpenAI-compatible server; only this file imports openai."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import openai
from openai.types.chat import ChatCompletion

from hadpo.chat.request import ChatSettings, NoAnswer, Reply, Request, RequestFailed
from hadpo.records import BadInput

_ADDRESS = "OPENAI_BASE_URL"
_KEY = "OPENAI_API_KEY"
_ENDPOINT = "/v1/chat/completions"
# Errors of the account or the set-up: the next request would fail alike.
_HOPELESS = (
    openai.AuthenticationError,
    openai.PermissionDeniedError,
    openai.NotFoundError,
)
_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")
_PLAINER = {"json_schema": "json_object", "json_object": "text"}
_FORMAT_WORDS = ("response_format", "json_schema", "json_object")
_ENDED = ("completed", "failed", "expired", "cancelled")  # states of a batch


class Client:
    """Sends requests; the openai package repeats what may pass, and honours retry-after.

    `async with client:` opens its connections, and closes them. A client may be opened again.
    """

    def __init__(self, settings: ChatSettings) -> None:
        """Take address and key from the environment.

        Raises:
            BadInput: there is no key.
        """
        self._key = os.environ.get(_KEY, "")
        if not self._key:
            raise BadInput(
                f"the judge needs a key in the environment variable {_KEY} (any text will do for a "
                f"local server, whose address goes into {_ADDRESS}); judge 'replay' needs none"
            )
        self.settings = settings
        self._format: str = settings.reply_format  # the server may know only a plainer one
        self._api: openai.AsyncOpenAI

    async def __aenter__(self) -> Self:
        self._api = openai.AsyncOpenAI(
            api_key=self._key,
            timeout=self.settings.timeout_seconds,
            max_retries=self.settings.retries,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()

    async def send(self, request: Request) -> Reply:
        """The reply to a request, with a plainer reply format if the server refuses the first one.

        Raises:
            RequestFailed: an error of the server, of the network or of the account.
            NoAnswer: a refusal or a reply that was cut off.
        """
        while True:
            form = self._format
            try:
                with _translated(self.settings):
                    value: Any = await self._api.chat.completions.create(**self._body(request))
                return _read(value, request.key(self.settings))
            except RequestFailed as error:
                is_about_format = any(word in str(error).lower() for word in _FORMAT_WORDS)
                if form == "text" or not (error.is_malformed and is_about_format):
                    raise
                if self._format == form:  # else another request has found out already
                    self._format = _PLAINER[form]

    async def hand_in(self, requests: Sequence[Request], mark: str) -> str:
        """Hand a batch in; its id. `mark` is stored with it, so that `find` finds it.

        Raises:
            RequestFailed: the server did not take it.
        """
        lines = [
            {
                "custom_id": request.key(self.settings),
                "method": "POST",
                "url": _ENDPOINT,
                "body": self._body(request),
            }
            for request in requests
        ]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with _translated(self.settings):
            file = await self._api.files.create(
                file=(f"{mark}.jsonl", content.encode()), purpose="batch"
            )
            batch = await self._api.batches.create(
                input_file_id=file.id,
                endpoint=_ENDPOINT,
                completion_window="24h",
                metadata={"hadpo": mark},
            )
        return batch.id

    async def find(self, mark: str) -> str | None:
        """The id of the batch that was handed in with `mark`; None if there is none."""
        with _translated(self.settings):
            async for batch in self._api.batches.list(limit=100):
                if (batch.metadata or {}).get("hadpo") == mark:
                    return batch.id
        return None

    async def collect(
        self, batch_id: str
    ) -> tuple[str, dict[str, Reply | NoAnswer | RequestFailed] | None]:
        """The state of a batch and, once it has ended, what became of its requests, by key."""
        results: dict[str, Reply | NoAnswer | RequestFailed] = {}
        with _translated(self.settings):
            batch = await self._api.batches.retrieve(batch_id)
            if batch.status not in _ENDED:
                return batch.status, None
            for file in filter(None, (batch.output_file_id, batch.error_file_id)):
                content = await self._api.files.content(file)
                for line in content.text.splitlines():
                    if line.strip():
                        key, result = _of_line(line)
                        results[key] = result
        return batch.status, results

    def _body(self, request: Request) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": request.messages(),
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        if self._format == "json_schema" and request.schema:
            schema = {"name": "reply", "strict": True, "schema": dict(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self._format == "json_object" and request.schema:
            body["response_format"] = {"type": "json_object"}
        return body


@contextmanager
def _translated(settings: ChatSettings) -> Iterator[None]:
    """Errors of the server, the network and the account as `RequestFailed`."""
    try:
        yield
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        raise RequestFailed(f"refused as malformed: {_short(error)}", is_malformed=True) from error
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


def _of_line(line: str) -> tuple[str, Reply | NoAnswer | RequestFailed]:
    """Key and result of a line of a batch's output."""
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


def _read(value: Any, key: str) -> Reply:
    """The reply in what the server sent; raises RequestFailed or NoAnswer if there is none."""
    if not isinstance(value, ChatCompletion) or not value.choices:
        raise RequestFailed(
            f"no chat completion but {str(value)[:80]!r}; is {_ADDRESS} the server's /v1 address?"
        )
    choice, usage = value.choices[0], value.usage
    reply = Reply(
        key=key,
        text=(choice.message.content if choice.message else None) or "",
        model=value.model or "",
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


def _short(error: BaseException) -> str:
    """An error in one line without the key."""
    text = " ".join(str(error).split()) or type(error).__name__
    key = os.environ.get(_KEY, "")
    return (text.replace(key, "***") if key else text)[:200]
