"""One request, or one batch, to OpenAI-compatible servers; only this room imports openai."""

import asyncio
import dataclasses
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import openai

from hadpo.chat.request import (
    ABOUT_PROMPT,
    Bill,
    ChatSettings,
    NoAnswer,
    Reply,
    Request,
    RequestFailed,
    json_value,
    read_completion,
)
from hadpo.chat.transport import GuardedClient, Refused, mask
from hadpo.records import BadInput

log = logging.getLogger(__name__)

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
# What a refusal is about, if not this one prompt: how every request is made.
_ABOUT_FORMAT = re.compile(r"response.?format|json.?(schema|object|mode)|structured|guided", re.I)
_ABOUT_LENGTH = re.compile(r"max.?(completion.?)?tokens", re.I)
_ABOUT_TEMPERATURE = re.compile(r"temperature", re.I)
_ABOUT_A_SETTING = re.compile(
    r"param|argument|field|extra|unrecogni[sz]ed|unsupported|not (supported|permitted|allowed)",
    re.I,
)
_REFUSALS = (400, 413, 422)  # statuses: the server does not take this request
_ENDED = ("completed", "failed", "expired", "cancelled")  # states of a batch
_PAUSE_SECONDS = 30.0  # that an address which failed is left alone while there are others


@dataclass(frozen=True)
class Form:
    """How a request is made: what a server does not take is left out, or named otherwise."""

    reply_format: str
    length: str = "max_tokens"
    has_temperature: bool = True

    def other(self, refusal: str, request: Request, settings: ChatSettings) -> "Form | None":
        """The form to try after a refusal (400, 422); None if it is about the prompt itself."""
        if ABOUT_PROMPT.search(refusal):
            return None
        plainer = renamed = bare = None
        if request.schema and self.reply_format in _PLAINER:
            plainer = dataclasses.replace(self, reply_format=_PLAINER[self.reply_format])
        if self.length == "max_tokens":
            renamed = dataclasses.replace(self, length="max_completion_tokens")
        if self.has_temperature and not settings.is_exact:
            bare = dataclasses.replace(self, has_temperature=False)
        ways = (
            (_ABOUT_FORMAT, plainer),
            (_ABOUT_TEMPERATURE, bare),
            (_ABOUT_LENGTH, renamed),
            *((_ABOUT_A_SETTING, way) for way in (plainer, bare, renamed)),
        )
        return next((way for about, way in ways if way and about.search(refusal)), None)

    def departures(self, settings: ChatSettings) -> list[str]:
        """In words, what is otherwise than the settings say."""
        found = []
        if self.reply_format != settings.reply_format:
            found.append(f"reply format {settings.reply_format} ({self.reply_format} instead)")
        if not self.has_temperature:
            found.append(f"temperature {settings.temperature:g} (the server's own instead)")
        if self.length != "max_tokens":
            found.append(f"max_tokens (called {self.length} instead)")
        return found


class Address:
    """A server: how it is asked, what it has under way, and until when it is left alone."""

    def __init__(self, url: str | None, form: Form) -> None:
        self.url, self.form = url, form
        self.api: openai.AsyncOpenAI
        self.lock: asyncio.Lock  # one request at a time finds out what the server takes
        self.under_way = 0
        self.resting_until = 0.0


class Client:
    """Sends requests; the openai package repeats what may pass, and honours retry-after.

    `async with client:` opens its connections, and closes them. A client may be opened again. The
    environment may name several addresses, separated by blanks or commas: they share the requests,
    and one that fails leaves its share to the others for a while.
    """

    def __init__(self, settings: ChatSettings, bill: Bill) -> None:
        """Take addresses and key from the environment; BadInput if there is no key."""
        self._key = os.environ.get(_KEY, "")
        if not self._key:
            raise BadInput(
                f"the judge needs a key in the environment variable {_KEY} (any text will do for a "
                f"local server, whose address goes into {_ADDRESS}), as does engine 'server'; "
                "judge 'replay' needs none"
            )
        if not self._key.isprintable() or not self._key.isascii():
            raise BadInput(
                f"{_KEY}: a key is one line of ASCII letters and signs; found a line break, a "
                "curly quote or the like (the key is not shown)"
            )
        self.settings, self._bill = settings, bill
        form = Form(settings.reply_format)
        urls = re.split(r"[\s,]+", os.environ.get(_ADDRESS, "").strip())
        strange = [url for url in urls if url and not re.match(r"https?://[^/]", url)]
        if strange:
            raise BadInput(
                f"{_ADDRESS}: found {', '.join(strange)}; expected addresses such as "
                "http://127.0.0.1:8000/v1"
            )
        self._addresses = [Address(url or None, form) for url in urls]

    @property
    def _api(self) -> openai.AsyncOpenAI:
        return self._addresses[0].api  # batches live on one server

    @property
    def not_taken(self) -> list[str]:
        """Settings that a server refused, and what it gets instead."""
        forms = dict.fromkeys(address.form for address in self._addresses)
        return list(dict.fromkeys(way for form in forms for way in form.departures(self.settings)))

    async def __aenter__(self) -> Self:
        for address in self._addresses:
            address.lock = asyncio.Lock()
            address.api = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=address.url,
                timeout=self.settings.timeout_seconds,
                max_retries=self.settings.retries,
                http_client=GuardedClient(seconds=self.settings.timeout_seconds, key=self._key),
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for address in self._addresses:
            await address.api.close()

    async def send(self, request: Request) -> Reply:
        """The reply to a request, made in another form if the server does not take the first one.

        Raises:
            RequestFailed: an error of the server, of the network or of the account.
            NoAnswer: a refusal or a reply that was cut off.
            BadInput: a picture that cannot be read.
        """
        messages = request.messages()
        untried = list(self._addresses)
        while True:
            now = time.monotonic()
            address = min(untried, key=lambda a: (a.resting_until > now, a.under_way))
            untried.remove(address)
            address.under_way += 1
            try:
                return await self._send_to(address, request, messages, is_last=not untried)
            except RequestFailed as error:
                if error.refusal or error.is_paid or not untried:
                    raise
                place = self._addresses.index(address) + 1
                log.warning("address %d of %d: %s", place, len(self._addresses), error)
                address.resting_until = time.monotonic() + _PAUSE_SECONDS
            finally:
                address.under_way -= 1

    async def _send_to(
        self, address: Address, request: Request, messages: list[dict[str, Any]], *, is_last: bool
    ) -> Reply:
        """The reply of one server; others than the last are tried once."""
        api = address.api if is_last else address.api.with_options(max_retries=0)
        old = address.form
        try:
            return await self._once(api, request, messages, old)
        except RequestFailed as error:
            form = old.other(error.refusal, request, self.settings)
            if form is None:
                raise
        async with address.lock:  # one request finds out what the server takes
            if address.form != old:  # another has
                form = address.form
            while True:
                try:
                    reply = await self._once(api, request, messages, form)
                except RequestFailed as error:
                    form = form.other(error.refusal, request, self.settings)
                    if form is None:
                        raise
                else:
                    if form != address.form:
                        address.form = form
                        said = "; ".join(form.departures(self.settings))
                        log.warning("the server does not take: %s", said)
                    return reply

    async def _once(
        self,
        api: openai.AsyncOpenAI,
        request: Request,
        messages: list[dict[str, Any]],
        form: Form,
    ) -> Reply:
        with _translated(self.settings):
            body = self._body(request, messages, form)
            raw = await api.chat.completions.with_raw_response.create(**body)
            text = raw.text
        return self._read(json_value(text), request)

    def _read(self, value: Any, request: Request) -> Reply:
        try:
            reply, is_estimated = read_completion(value, request, self.settings)
        except NoAnswer as error:
            self._bill.usage_estimated += error.is_estimated
            raise
        self._bill.usage_estimated += is_estimated
        return reply

    async def hand_in(self, requests: Sequence[Request], mark: str) -> str:
        """Hand a batch in, with a `mark` for `find`; its id. RequestFailed if it is not taken."""
        lines = [
            {
                "custom_id": request.key(self.settings),
                "method": "POST",
                "url": _ENDPOINT,
                "body": self._body(request, request.messages(), self._addresses[0].form),
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
        self, batch_id: str, requests: Mapping[str, Request]
    ) -> tuple[str, dict[str, Reply | NoAnswer | RequestFailed] | None]:
        """The state of a batch and, once it has ended, what became of the wanted requests, by key.

        Raises RequestFailed if the server does not say.
        """
        results: dict[str, Reply | NoAnswer | RequestFailed] = {}
        with _translated(self.settings):
            batch = await self._api.batches.retrieve(batch_id)
            if batch.status not in _ENDED:
                return batch.status, None
            for file in filter(None, (batch.output_file_id, batch.error_file_id)):
                content = await self._api.files.content(file)
                for line in content.text.splitlines():
                    key, result = self._of_line(line, requests)
                    if key:
                        results[key] = result
        return batch.status, results

    def _of_line(
        self, line: str, requests: Mapping[str, Request]
    ) -> tuple[str, Reply | NoAnswer | RequestFailed]:
        """Key and result of a line of a batch's output; "" for a line that is nobody's."""
        key = ""
        try:
            value = json_value(line)
            key = value["custom_id"]
            request, response = requests[key], value.get("response") or {}
            status = response.get("status_code")
            if value.get("error") or status != 200:
                why = json.dumps(value.get("error") or response.get("body") or "no reply")
                is_refused = status in _REFUSALS
                return key, RequestFailed(
                    f"the batch says: {why[:200]}", refusal=why if is_refused else ""
                )
            return key, self._read(response.get("body"), request)
        except (RequestFailed, NoAnswer) as error:
            return key, error
        except (KeyError, TypeError, AttributeError):
            if key in requests:
                return key, RequestFailed(f"no chat completion in the batch's output: {line[:80]}")
            return "", RequestFailed("")

    def _body(self, request: Request, messages: list[dict[str, Any]], form: Form) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {"model": settings.model, "messages": messages}
        if form.has_temperature:
            body["temperature"] = settings.temperature
        body[form.length] = settings.max_tokens
        if form.reply_format == "json_schema" and request.schema:
            schema = {"name": "reply", "strict": True, "schema": dict(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form.reply_format == "json_object" and request.schema:
            body["response_format"] = {"type": "json_object"}
        return body


@contextmanager
def _translated(settings: ChatSettings) -> Iterator[None]:
    """Errors of the server, the network and the account as `RequestFailed`."""
    try:
        yield
    except openai.RateLimitError as error:
        is_quota = error.code in _QUOTA
        why = "the account's quota is used up" if is_quota else "too many requests (429)"
        raise RequestFailed(f"{why}: {_short(error)}", is_hopeless=is_quota) from error
    except _HOPELESS as error:
        raise RequestFailed(_short(error), is_hopeless=True) from error
    except Refused as error:
        raise RequestFailed(_short(error), is_hopeless=error.is_redirect) from error
    except openai.APITimeoutError as error:
        seconds = settings.timeout_seconds
        raise RequestFailed(f"no reply within {seconds:g} s") from error
    except openai.APIConnectionError as error:
        cause = _short(error.__cause__ or error)
        raise RequestFailed(f"the connection failed: {cause}") from error
    except openai.APIStatusError as error:
        said, why = error.response.text, _short(error)
        if said and why == f"Error code: {error.status_code}":
            why = f"{why} - {_one_line(said)}"
        if error.status_code not in _REFUSALS:
            raise RequestFailed(why) from error
        raise RequestFailed(f"refused as malformed: {why}", refusal=said or why) from error
    except (openai.OpenAIError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RequestFailed(_short(error)) from error


def _short(error: BaseException) -> str:
    """An error in one line without the key."""
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return mask(" ".join(text.split()), os.environ.get(_KEY, ""))[:200]
