"""What is asked of a language model, how, and what became of it: whatever it sends has a name."""

import base64
import dataclasses
import functools
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hadpo.images import ORIENTATION, open_image, to_rgb
from hadpo.records import BadInput, file_hash, read_text, value_hash
from hadpo.text import fill, integer, without_thoughts

ABOUT_PROMPT = re.compile(
    r"content.?(filter|management|policy)|moderat|safety|harm|usage polic|context.?length"
    r"|context window|too (long|large|many tokens)|reduce the|maximum (context|length|tokens)"
    r"|exceed|image",
    re.IGNORECASE,
)
_CHARACTERS_PER_TOKEN = 3.0  # of English it is 4; an estimate should not be too low
_SENT_AS_IT_IS = ("JPEG", "PNG", "WEBP")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # 8 bits a channel at most
# One token for each 28 x 28 pixels (Qwen-VL), and as many as GPT-4o counts for a large picture.
_PIXELS_PER_TOKEN = 28 * 28
_LEAST_TOKENS = 1105
_TEXT_PARTS = ("text", "output_text")
_MOST_TOKENS = 10_000_000  # more than any model reads or writes at once


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How a server is asked. Prices are dollars per million tokens; 0: unknown.

    `prefix` is what the names of these settings begin with where the user sets them: messages of
    errors name them so.
    """

    model: str
    temperature: float = 0.0
    max_tokens: int = 800
    reply_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    delivery: Literal["direct", "batch"] = "direct"  # batch: handed in now, collected later
    concurrency: int = 8  # requests at a time
    timeout_seconds: float = 60.0  # of one try of one request
    retries: int = 4  # of one request, on errors that may pass
    input_price: float = 0.0
    output_price: float = 0.0
    max_cost_usd: float = 0.0  # of one start; 0: no limit
    is_exact: bool = False  # a server that refuses the temperature is not asked without it
    prefix: InitVar[str] = ""

    def __post_init__(self, prefix: str) -> None:
        if not self.model:
            raise BadInput(
                "no model is named: asking a language model needs "
                f"{prefix}model, the name of a model of the server"
            )
        low = {"concurrency": self.concurrency, "max_tokens": self.max_tokens}
        wrong = [f"{prefix}{name}={value}" for name, value in low.items() if value < 1]
        if self.timeout_seconds <= 0 or self.retries < 0 or wrong:
            raise BadInput(
                "concurrency and max_tokens start at 1, timeout_seconds is positive, retries not "
                f"negative; found {', '.join(wrong) or (self.timeout_seconds, self.retries)}"
            )
        if self.max_cost_usd > 0 and not self.has_prices:
            raise BadInput(
                f"{prefix}max_cost_usd is {self.max_cost_usd:g}, but what {self.model} costs is "
                f"not known; set {prefix}input_price and {prefix}output_price, in dollars per "
                "million tokens"
            )

    @classmethod
    def of_section(cls, section: object, prefix: str, **more: Any) -> "ChatSettings":
        """The settings that a section of a recipe has as `<prefix><name>`.

        `more` are others, and what neither says keeps its default; `reply_format` is called
        `<prefix>format` there.

        Raises:
            BadInput: no model, a value out of range, or a limit of the cost without prices.
        """
        names = {f.name: prefix + f.name for f in dataclasses.fields(cls)}
        names["reply_format"] = prefix + "format"
        values = {name: getattr(section, n) for name, n in names.items() if hasattr(section, n)}
        return cls(**values | more, prefix=prefix)

    @property
    def has_prices(self) -> bool:
        """Whether a cost can be computed."""
        return self.input_price > 0 or self.output_price > 0

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars for so many tokens; 0 if the prices are unknown."""
        total = input_tokens * self.input_price + output_tokens * self.output_price
        return total / 1e6


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to the model; `name` is chosen by the caller, who finds the reply by it."""

    name: str
    text: str  # the rendered prompt: one user message
    prompt_version: str  # hash of the prompt's files
    attempt: int = 0  # the same text again is another request
    schema: Mapping[str, Any] | None = None  # what a JSON reply looks like
    system: str | None = None  # the message before the user's
    images: tuple[Path, ...] = ()  # pictures that the model is shown, before the text
    takes_cut: bool = False  # a reply that max_tokens cut off, or an empty one, is a reply, too

    @property
    def tokens(self) -> float:
        """Estimated length of the prompt."""
        texts = (len(self.text) + len(self.system or "")) / _CHARACTERS_PER_TOKEN
        return texts + sum(map(picture_tokens, self.images))

    def most_tokens(self, settings: ChatSettings) -> tuple[int, int]:
        """Tokens of the prompt and of the longest reply, estimated."""
        return int(self.tokens) + 1, settings.max_tokens

    def messages(self) -> list[dict[str, Any]]:
        """The messages in the API's form, pictures as data URLs; BadInput if one cannot be read."""
        content: str | list[dict[str, Any]] = self.text
        if self.images:
            urls = [{"type": "image_url", "image_url": {"url": data_url(p)}} for p in self.images]
            content = [*urls, {"type": "text", "text": self.text}]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": content}]

    def key(self, settings: ChatSettings) -> str:
        """Hash of everything that may change the reply; BadInput for an image that is not there."""
        facts: dict[str, Any] = {
            "model": settings.model,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "reply_format": settings.reply_format,
            "text": self.text,
            "prompt_version": self.prompt_version,
            "attempt": self.attempt,
            "schema": self.schema,
        }
        if self.system is not None:
            facts["system"] = self.system
        if self.takes_cut:
            facts["takes_cut"] = True
        if self.images:
            facts["images"] = [picture_hash(path) for path in self.images]
        content = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        return value_hash(content)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text with slots such as {claims}; `version` is its hash, and part of each request's key."""

    template: str

    @classmethod
    def read(cls, path: Path, **parts: str) -> "Prompt":
        """The prompt of a file; `parts` fill slots that are the same in all requests.

        Raises BadInput.
        """
        template = read_text(path, expected="expected a prompt").strip()
        for slot, text in parts.items():
            template = template.replace("{" + slot + "}", text)
        return cls(template=template)

    @property
    def version(self) -> str:
        """SHA-256 of the template."""
        return value_hash(self.template)

    def request(
        self,
        name: str,
        slots: Mapping[str, str],
        *,
        schema: Mapping[str, Any] | None = None,
        attempt: int = 0,
    ) -> Request:
        """The request with this prompt, its slots filled; see `Request` for the rest."""
        return Request(
            name=name,
            text=fill(self.template, **slots),
            prompt_version=self.version,
            attempt=attempt,
            schema=schema,
        )


def object_schema(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the model said; the line of a file of replies, which `replay` reads."""

    key: str  # of the request
    text: str
    model: str = ""  # the model that answered, as the server names it
    input_tokens: int = 0
    output_tokens: int = 0
    finish: Literal["stop", "length"] = "stop"  # length: max_tokens cut it off

    @property
    def said(self) -> str:
        """The text without the model's thoughts, which are no answer."""
        return without_thoughts(self.text)


class RequestFailed(Exception):
    """No usable reply to one request.

    Attributes:
        is_hopeless: no other request can get a reply either (key, quota, unknown model).
        refusal: the server does not take this request (400, 422): what it says, whole.
        is_paid: a reply came, which nobody can read.
    """

    def __init__(
        self, why: str, *, is_hopeless: bool = False, refusal: str = "", is_paid: bool = False
    ) -> None:
        super().__init__(why)
        self.is_hopeless, self.refusal, self.is_paid = is_hopeless, refusal, is_paid

    @property
    def is_about_prompt(self) -> bool:
        """Whether the server says that it refuses this prompt: its content, or its length."""
        return bool(ABOUT_PROMPT.search(self.refusal))


class NoAnswer(Exception):
    """The model refused, or was cut off: paid for, but no value; never cached."""

    def __init__(self, why: str, reply: Reply, is_estimated: bool = False) -> None:
        super().__init__(why)
        self.reply, self.is_estimated = reply, is_estimated


class Unfinished(RuntimeError):
    """Some requests got no reply; what was paid for is kept, and a rerun asks for the others."""


@dataclass
class Bill:
    """What a start has asked and used; goes into the manifest."""

    cached: int = 0
    asked: int = 0
    failed: int = 0
    refused_or_cut: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    estimated_usd: float = 0.0  # before the first request, with replies of full length
    with_thoughts: int = 0  # replies whose thoughts before the answer were taken away
    usage_estimated: int = 0  # replies whose tokens the server did not say, or said wrongly
    not_taken: list[str] = field(default_factory=list)  # settings that the server refused

    def add(self, input_tokens: int, output_tokens: int, settings: ChatSettings) -> None:
        """Count the tokens of a reply."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost_usd = settings.cost_usd(self.input_tokens, self.output_tokens)


@dataclass
class ChatResult:
    """What became of requests, by their names; each request is in one of the three."""

    replies: dict[str, Reply] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)  # refused or cut off: why
    missing: dict[str, str] = field(default_factory=dict)  # to be asked again: why

    def refuse_missing(self, requests: str) -> None:
        """Raise Unfinished if a request got no reply; `requests` is what the message calls them."""
        if self.missing:
            total = sum(map(len, (self.replies, self.without, self.missing)))
            common = Counter(self.missing.values()).most_common(3)
            why = "; ".join(f"{number} x {reason}" for reason, number in common)
            raise Unfinished(
                f"{len(self.missing)} of {total} {requests} got no reply ({why}); nothing that was "
                "paid for is lost, the same command goes on from there"
            )


# Pictures inside of requests


def data_url(path: Path) -> str:
    """The picture as a data URL: the file's own bytes, or an upright PNG of the same pixels.

    Files that servers read differently (turned by EXIF, of other formats) become a PNG. BadInput
    for no picture, or one of more than 8 bits a channel.
    """
    with open_image(path) as image:
        kind, mode = image.format or "", image.mode
        if mode not in _MODES:
            raise BadInput(
                f"a picture of mode {mode!r}; a server is sent pictures of 8 bits a channel: "
                "convert it"
            )
        turned = image.getexif().get(ORIENTATION, 1) != 1
        image.load()
        content = path.read_bytes()
        if kind not in _SENT_AS_IT_IS or mode in ("CMYK", "YCbCr") or turned:
            file = io.BytesIO()
            to_rgb(image).save(file, "PNG")
            kind, content = "PNG", file.getvalue()
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"


def picture_tokens(path: Path) -> float:
    """Estimated tokens of a picture; 0 for one that is not there, which is never sent."""
    try:
        with open_image(path) as image:
            return max(_LEAST_TOKENS, image.width * image.height / _PIXELS_PER_TOKEN)
    except BadInput:
        return 0.0


def picture_hash(path: Path) -> str:
    """SHA-256 of a picture's file, read once while it stays the same; BadInput if it is absent."""
    try:
        status = path.stat()
        return _hash(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise BadInput(f"{path}: no readable image ({error}); replace or remove it") from error


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, size: int, changed: int) -> str:
    return file_hash(path)


# What a server sent


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
