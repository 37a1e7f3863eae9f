"""HTTP under a time limit and a size limit, to the given host alone; keys never come back in it."""

import asyncio
import json
import re
from typing import Any

import httpx2
import openai

_MOST_BYTES = 32 << 20  # of one reply, unpacked
_FILES = ("/files", "/content")  # of batches: 50,000 requests are sent and received at once
_MORE_FOR_FILES = 32  # times as many bytes and seconds
_SECRET = (
    8  # characters: a shorter key ("none", "EMPTY") is a word, and so many in a row are a part
)


class Refused(openai.OpenAIError):
    """What the server sends is not taken; asking again would bring the same."""

    is_redirect = False


class GuardedClient(openai.DefaultAsyncHttpxClient):
    """A client whose replies are read whole, within limits, before anybody looks at them.

    The time is for connecting, sending and receiving together, of one try; the size is of an
    unpacked reply, in which the key is masked.
    """

    def __init__(self, *, seconds: float, key: str, most_bytes: int = _MOST_BYTES) -> None:
        super().__init__(timeout=seconds, follow_redirects=True)
        self._seconds, self._key, self._most = seconds, key, most_bytes
        self.event_hooks = {"response": [self._refuse_other_host]}

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The response, read; TimeoutException once time is up, Refused if it is too large."""
        options["stream"] = True
        times = _MORE_FOR_FILES if request.url.path.endswith(_FILES) else 1
        most = self._most * times
        try:
            async with asyncio.timeout(self._seconds * times):
                response = await super().send(request, **options)
                try:
                    content = bytearray()
                    async for part in response.aiter_bytes():
                        content += part
                        if len(content) > most:
                            raise Refused(f"the reply is too large: over {most >> 20} MB")
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout("time is up", request=request) from error
        unpacked = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in unpacked]
        text = mask(bytes(content).decode("utf-8", "replace"), self._key)
        return httpx2.Response(
            _status(response.status_code, text), headers=headers, content=text, request=request
        )

    async def _refuse_other_host(self, response: httpx2.Response) -> None:
        """Stop before a prompt, or a key, is sent to where nobody wanted it sent."""
        if response.has_redirect_location:
            here = response.request.url
            there = here.join(response.headers["location"])
            same = (there.scheme, there.host, there.port) == (here.scheme, here.host, here.port)
            if not same and (there.host, there.scheme) != (here.host, "https"):
                host = mask(there.host or str(there), self._key)[:100]
                error = Refused(
                    f"the server sends requests on to another host, {host}; if that is right, "
                    "name it in OPENAI_BASE_URL"
                )
                error.is_redirect = True
                raise error


def mask(text: str, key: str) -> str:
    """The text with the key, and every part of it of at least 8 characters, made unreadable."""
    parts = {key[i : i + _SECRET] for i in range(len(key) - _SECRET + 1)}
    found = [re.escape(part) for part in parts if part in text]
    if not found:
        return text
    covered = bytearray(len(text))
    for match in re.finditer(f"(?=({'|'.join(found)}))", text):
        covered[match.start() : match.start() + _SECRET] = b"\1" * _SECRET
    pieces = re.finditer(b"\1+|\0+", covered)
    return "".join("***" if m[0][0] else text[m.start() : m.end()] for m in pieces)


def _status(status: int, text: str) -> int:
    """The status that the reply should have had: some send errors inside of a 200."""
    if status != 200 or '"error"' not in text:
        return status
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return status
    if not isinstance(value, dict) or value.get("choices") or not value.get("error"):
        return status
    error = value["error"]
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isdecimal():
        code = int(code[:4])
    return code if isinstance(code, int) and 400 <= code < 600 else 502
