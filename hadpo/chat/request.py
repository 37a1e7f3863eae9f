"""What is asked of a language model, how, and what became of it."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hadpo.chat.picture import data_url, picture_hash, picture_tokens
from hadpo.records import BadInput, read_text, value_hash
from hadpo.text import fill, without_thoughts

ABOUT_PROMPT = re.compile(
    r"content.?(filter|management|policy)|moderat|safety|harm|usage polic|context.?length"
    r"|context window|too (long|large|many tokens)|reduce the|maximum (context|length|tokens)"
    r"|exceed|image",
    re.IGNORECASE,
)
_CHARACTERS_PER_TOKEN = 3.0  # of English it is 4; an estimate should not be too low


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
        """The messages in the API's form; pictures travel inside, as data URLs.

        Raises:
            BadInput: a picture that cannot be read.
        """
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
        """The prompt of a file; `parts` fill the slots that are the same in all requests.

        Raises:
            BadInput: no such file, empty, or no UTF-8.
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
