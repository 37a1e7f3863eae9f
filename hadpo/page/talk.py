"""A conversation: questions about pictures, the answers of both sides, and which parts are true."""

import base64
import html
import io
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from hadpo import judges
from hadpo.generation import Decoding, Turn
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import BadInput, Case, Evidence, Verdict
from hadpo.text import article, sentences, yes_no_strict

_TONES = {"correct": "true", "hallucination": "invented"}
# As hadpo.figures has them; importing that would load matplotlib for three letters.
SIGNS = {"true": "✓", "invented": "✗", "unknown": "?"}
_SAYS = {"true": "true", "invented": "wrong", "unknown": "not to be judged"}
_TEMPLATE = Environment(autoescape=True).from_string(
    Path(__file__).with_name("talk.html.j2").read_text(encoding="utf-8"),
    globals={"tones": _TONES, "signs": SIGNS, "says": _SAYS, "sentences": sentences},
)
SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Picture:
    """What is asked about; `evidence` is what is known of it, if anything is."""

    name: str
    image: Image.Image
    evidence: Evidence | None = None

    def to_html(self, width: int = 260) -> str:
        """The picture as a data URL: the page loads no file."""
        small = self.image.copy()
        if max(small.size) > width:
            small.thumbnail((width, width))
        else:
            small = small.resize(
                [round(side * width / max(small.size)) for side in small.size],  # pyright: ignore[reportArgumentType]
                Image.Resampling.NEAREST,
            )
        file = io.BytesIO()
        small.save(file, format="PNG")
        data = base64.b64encode(file.getvalue()).decode()
        alt = html.escape(f"the picture that is asked about: {self.describe()}")
        return f'<img src="data:image/png;base64,{data}" alt="{alt}" style="max-width:100%">'

    def describe(self) -> str:
        """Text for those who do not see it."""
        if self.evidence is None:
            return f"{self.name}, {self.image.width} x {self.image.height} pixels"
        things = self.evidence.objects or [r.phrase for r in self.evidence.regions[:5]]
        return f"{self.name}, a scene with {', '.join(things)}"


@dataclass(eq=False)
class Exchange:
    """One question and what each side answered; `finish` says how each answer ended."""

    picture: Picture
    question: str
    decoding: Decoding
    remembers: bool  # the models know what was asked and answered before
    answers: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SIDES, ""))
    finish: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SIDES, "running"))
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)  # why a side has no verdicts

    def stop(self) -> None:
        """Mark the answers that are still running as stopped."""
        stopped = {side: "stopped" for side, how in self.finish.items() if how == "running"}
        self.finish |= stopped


@dataclass(eq=False)
class Conversation:
    """Everything that belongs to one visitor; it ends with the tab."""

    picture: Picture | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    is_stopped: bool = False

    def turns(self, side: str) -> list[Turn]:
        """The turns that one side sees: as many as it remembers, the open question last."""
        turns: list[Turn] = []
        picture = None
        begins = [at for at, exchange in enumerate(self.exchanges) if not exchange.remembers]
        for exchange in self.exchanges[begins[-1] if begins else 0 :]:
            image = None if exchange.picture is picture else exchange.picture.image
            turns.append(Turn(exchange.question, image, exchange.answers[side]))
            picture = exchange.picture
        return turns

    def to_jsonl(self, titles: Mapping[str, str]) -> str:
        """A line for each question and side: the question, the answer, and the judge's verdicts."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lines = []
        for number, exchange in enumerate(self.exchanges, start=1):
            for side in SIDES:
                row: dict[str, Any] = {
                    "turn": number,
                    "model": titles[side],
                    "picture": exchange.picture.name,
                    "question": exchange.question,
                    "remembers": exchange.remembers,
                    "answer": exchange.answers[side],
                    "finish": exchange.finish[side],
                    "decoding": vars(exchange.decoding),
                    "verdicts": [vars(v) for v in exchange.verdicts.get(side, ())],
                    "not_judged": exchange.unjudged.get(side, ""),
                    "exported": now,
                }
                lines.append(json.dumps(row, ensure_ascii=False))
        return "".join(line + "\n" for line in lines)

    def to_html(self, side: str) -> str:
        """The answers of one side, for the page; an answer that still grows has no marks yet."""
        return _TEMPLATE.render(exchanges=self.exchanges, side=side)


def rule(
    exchange: Exchange, side: str, judge: Callable[[], judges.Judge], words: Vocabulary
) -> None:
    """Note a judge's verdicts on the answer of a side, sentence by sentence, or why there are none.

    `judge` makes the judge; if that fails, or it gets no reply, the reason is noted. `words` say
    what a bare yes or no claims.
    """
    evidence = exchange.picture.evidence
    if evidence is None:
        exchange.unjudged[side] = "nothing is known of this picture"
        return
    question, answer = exchange.question, exchange.answers[side]
    try:
        ruler = judge()
        known = None if isinstance(ruler, judges.AskingJudge) else words
        claims = claims_of(question, answer, known)
        case = Case(case_id=evidence.image_id, model=side, claims=tuple(claims), evidence=evidence)
        exchange.verdicts[side] = judges.rule_all(ruler, [case])
    except (judges.Unfinished, BadInput, sqlite3.Error) as error:  # no reply, no key, no cache
        exchange.unjudged[side] = str(error)


def claims_of(question: str, answer: str, known: Vocabulary | None) -> Sequence[str]:
    """What an answer claims: a bare yes or no claims what the question asks about.

    With the words that are `known` it is a sentence of its own; without (a language model rules) it
    quotes the question.
    """
    claims, yes_no = sentences(answer), yes_no_strict(answer)
    if yes_no is None or len(claims) > 1:
        return claims
    if known is None:
        return [f'The answer to "{question}" is {yes_no}']
    names = [mention.name for mention in known.read(question).mentions]
    if yes_no == "no":
        return [f"There is no {name}" for name in names] or claims
    return [f"There is {article(name)} {name}" for name in names] or claims
