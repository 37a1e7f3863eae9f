"""What is asked of a language model, how, and what it said."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hadpo.records import BadInput

_CHARACTERS_PER_TOKEN = 3.0  # of English it is 4; an estimate should not be too low


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How a server is asked. Prices are dollars per million tokens; 0: unknown."""

    model: str
    temperature: float = 0.0
    max_tokens: int = 800
    reply_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    delivery: Literal["direct", "batch"] = "direct"  # batch: handed in now, collected later
    concurrency: int = 8
    timeout_seconds: float = 60.0
    retries: int = 4  # of one request, on errors that may pass
    input_price: float = 0.0
    output_price: float = 0.0
    max_cost_usd: float = 0.0  # of one start; 0: no limit

    def __post_init__(self) -> None:
        if not self.model:
            raise BadInput("no judge model is named: set judge_model to a model of the server")
        low = {"concurrency": self.concurrency, "max_tokens": self.max_tokens}
        wrong = [f"{name}={value}" for name, value in low.items() if value < 1]
        if self.timeout_seconds <= 0 or self.retries < 0 or wrong:
            raise BadInput(
                "concurrency and max_tokens start at 1, timeout_seconds is positive, retries not "
                f"negative; found {', '.join(wrong) or (self.timeout_seconds, self.retries)}"
            )
        if self.max_cost_usd > 0 and not self.has_prices:
            raise BadInput(
                f"max_cost_usd is {self.max_cost_usd}, but what {self.model} costs is not known; "
                "set judge_input_price and judge_output_price, in dollars per million tokens"
            )

    @property
    def has_prices(self) -> bool:
        """Whether a cost can be computed."""
        return self.input_price > 0 or self.output_price > 0

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars for so many tokens; 0 where prices are unknown."""
        total = input_tokens * self.input_price + output_tokens * self.output_price
        return total / 1e6


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to the model; `name` is the asker's own."""

    name: str
    text: str  # the rendered prompt: one user message
    prompt_version: str  # hash of the prompt's files
    attempt: int = 0  # asking again is another request
    schema: Mapping[str, Any] | None = None  # what a JSON reply looks like

    @property
    def tokens(self) -> float:
        """Estimated length of the prompt."""
        return len(self.text) / _CHARACTERS_PER_TOKEN

    def key(self, settings: ChatSettings) -> str:
        """Hash of everything that may change the reply."""
        facts = {
            "model": settings.model,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "reply_format": settings.reply_format,
            "text": self.text,
            "prompt_version": self.prompt_version,
            "attempt": self.attempt,
            "schema": self.schema,
        }
        content = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the model said; the line of a file of replies, which `replay` reads."""

    key: str  # of the request
    text: str
    model: str = ""  # as the server calls the one that answered
    input_tokens: int = 0
    output_tokens: int = 0
