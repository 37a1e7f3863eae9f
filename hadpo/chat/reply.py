"""What a server sent, read as a chat completion: whatever it is, the outcome has a name."""

import json
from collections.abc import Mapping
from typing import Any

from hadpo.chat.request import ChatSettings, NoAnswer, Reply, Request, RequestFailed
from hadpo.text import integer

_TEXT_PARTS = ("text", "output_text")
_MOST_TOKENS = 10_000_000  # more than any model reads or writes at once


def json_value(text: str) -> Any:
    """The value of a JSON text; RequestFailed if it cannot be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise RequestFailed(
            "the body is no JSON that can be read: it is nested too deep"
        ) from error
    except ValueError as error:
        raise RequestFailed(
            f"no chat completion but {_quote(text)}; is OPENAI_BASE_URL the server's /v1 address?",
            is_paid=text.lstrip().startswith("{"),
        ) from error


def read_completion(value: Any, request: Request, settings: ChatSettings) -> tuple[Reply, bool]:
    """The reply in a chat completion, and whether its usage is estimated.

    A number of tokens that is missing or cannot be true counts as the estimate: of the prompt's
    length, and of the longest reply.

    Raises:
        RequestFailed: this is no completion; it may have been paid for.
        NoAnswer: a refusal, an empty reply or one that was cut off.
    """
    choices = value.get("choices") if isinstance(value, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(value, dict) or not isinstance(choice, dict):
        raise RequestFailed(
            f"no chat completion (choices with a message) but {_quote(value)}; is OPENAI_BASE_URL "
            "the server's /v1 address?",
            is_paid=isinstance(value, dict) and "choices" in value,
        )
    message = choice.get("message")
    if not isinstance(message, dict):
        raise RequestFailed(f"the first choice has no message: {_quote(choice)}", is_paid=True)
    text, usage = _text(message.get("content")), value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    asked = _tokens(usage.get("prompt_tokens"), least=1)
    said = _tokens(usage.get("completion_tokens"), least=int(bool(text.strip())))
    finish = choice.get("finish_reason")
    reply = Reply(
        key=request.key(settings),
        text=text,
        model=whole(value.get("model")),
        input_tokens=request.most_tokens(settings)[0] if asked is None else asked,
        output_tokens=request.most_tokens(settings)[1] if said is None else said,
        finish="length" if finish == "length" else "stop",
    )
    is_estimated = asked is None or said is None
    refusal = whole(message.get("refusal"))
    if refusal or finish == "content_filter":
        raise NoAnswer(f"refused: {refusal or 'content filter'}", reply, is_estimated)
    if finish == "length" and not request.takes_cut:
        raise NoAnswer("cut off at max_tokens", reply, is_estimated)
    if not text.strip() and not request.takes_cut:
        raise NoAnswer("an empty reply", reply, is_estimated)
    return reply, is_estimated


def whole(text: Any) -> str:
    """A text without halves of characters, which no file takes; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(content: Any) -> str:
    """The text of a message: a text, nothing, or a list of parts, whose texts are joined."""
    if isinstance(content, list):
        return "".join(whole(_of_part(part)) for part in content)
    if content is not None and not isinstance(content, str):
        raise RequestFailed(f"the message's content is no text but {_quote(content)}", is_paid=True)
    return whole(content)


def _of_part(part: Any) -> Any:
    if isinstance(part, Mapping):
        return part.get("text") if part.get("type", "text") in _TEXT_PARTS else ""
    return part


def _tokens(value: Any, *, least: int) -> int | None:
    """A number of tokens, also as text or 5.0; None if it cannot be one."""
    count = integer(value)
    return count if count is not None and least <= count <= _MOST_TOKENS else None


def _quote(value: Any) -> str:
    try:
        return repr(whole(value if isinstance(value, str) else json.dumps(value)))[:80]
    except RecursionError:
        return "a value that is nested too deep"
