"""A language model finds and corrects the false sentences of descriptions, and rewrites texts.

The HA-DPO method: chosen and rejected are rewritten by the same prompt, so that they differ in
truth and not in whose words they are. Replies are cached, so nothing is asked twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hadpo.chat import ChatModel, Reply, Request
from hadpo.judges import Unfinished
from hadpo.pairs.correct import replace_sentences
from hadpo.records import Evidence, value_hash
from hadpo.text import filled, json_object, said_alike, sentences

PROMPTS = Path(__file__).parent / "prompts"
_VERDICTS = ("hallucination", "correct", "cannot judge")
_TEXT = {"type": "string"}
_SENTENCE = {
    "type": "object",
    "properties": {
        "index": {"type": "integer"},
        "verdict": {"type": "string", "enum": list(_VERDICTS)},
        "reason": _TEXT,
        "corrected_sentence": _TEXT,
    },
    "required": ["index", "verdict", "reason", "corrected_sentence"],
    "additionalProperties": False,
}
_CORRECTION = {
    "type": "object",
    "properties": {"sentences": {"type": "array", "items": _SENTENCE}},
    "required": ["sentences"],
    "additionalProperties": False,
}
_REWRITE = {
    "type": "object",
    "properties": {"description": _TEXT},
    "required": ["description"],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What the model says about one sentence; `corrected` is the sentence as it should be."""

    verdict: str
    corrected: str


class Corrector:
    """Asks for corrections and rewrites; `replies` are what its work rests on."""

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat
        self.replies: dict[str, Reply] = {}
        self.prompts = {name: _prompt(name) for name in ("correct", "rewrite")}

    def correct(
        self, descriptions: Mapping[str, tuple[str, Evidence]], counts: Counter[str]
    ) -> dict[str, str]:
        """The corrected text of each description that has false sentences, by its name.

        Args:
            descriptions: name -> the model's own text, and what is known of its image.
            counts: grows: sentences by verdict, and why descriptions were left out.

        Raises:
            Unfinished: requests that got no reply; those that did are kept.
        """
        requests = self.correction_requests(descriptions)
        replies = self._ask(requests, counts)
        found: dict[str, str] = {}
        for name, (text, _) in descriptions.items():
            if name not in replies:
                counts["descriptions: no correction (refused or cut off), left out"] += 1
                continue
            claims = sentences(text)
            rulings = read_rulings(replies[name], claims)
            if rulings is None:
                counts["sentences: unreadable"] += len(claims)
                counts["descriptions: correction unreadable, left out"] += 1
                continue
            counts["sentences"] += len(claims)
            counts.update(f"sentences: {ruling.verdict}" for ruling in rulings)
            wrong = {
                claim: ruling.corrected
                for claim, ruling in zip(claims, rulings, strict=True)
                if ruling.verdict == "hallucination"
            }
            if not wrong:
                counts["descriptions: nothing false, left out"] += 1
            elif any(said_alike(claim) == said_alike(text) for claim, text in wrong.items()):
                counts["descriptions: false sentence not corrected, left out"] += 1
            else:
                counts["sentences: corrected"] += len(wrong)
                found[name] = replace_sentences(text, claims, wrong)
        return found

    def rewrite(
        self, texts: Mapping[str, str], count: int, counts: Counter[str]
    ) -> dict[str, list[str]]:
        """Up to `count` rewrites of each text, all by one prompt; unreadable ones are counted.

        Raises:
            Unfinished: as `correct`.
        """
        replies = self._ask(self.rewrite_requests(texts, count), counts)
        found: dict[str, list[str]] = {name: [] for name in texts}
        for name, some in found.items():
            for turn in range(count):
                value = json_object(replies.get(f"{name}/{turn}", "")) or {}
                text = value.get("description")
                if isinstance(text, str) and text.strip():
                    some.append(" ".join(text.split()))
                else:
                    counts["rewrites: unreadable"] += 1
        return found

    def correction_requests(
        self, descriptions: Mapping[str, tuple[str, Evidence]]
    ) -> list[Request]:
        """What is asked about descriptions."""
        template, version = self.prompts["correct"]
        found = []
        for name, (text, evidence) in descriptions.items():
            claims = [" ".join(claim.split()) for claim in sentences(text)]
            prompt = filled(
                template,
                regions=_relative_boxes(evidence) or "(none)",
                facts="\n".join(evidence.facts) or "(none)",
                sentences="\n".join(f"{i}. {claim}" for i, claim in enumerate(claims, start=1)),
            )
            found.append(
                Request(name=name, text=prompt, prompt_version=version, schema=_CORRECTION)
            )
        return found

    def rewrite_requests(self, texts: Mapping[str, str], count: int) -> list[Request]:
        """What is asked about texts to rewrite; the same text again is another request."""
        template, version = self.prompts["rewrite"]
        return [
            Request(
                name=f"{name}/{turn}",
                text=filled(template, description=text),
                prompt_version=version,
                attempt=turn,
                schema=_REWRITE,
            )
            for name, text in texts.items()
            for turn in range(count)
        ]

    def _ask(self, requests: Sequence[Request], counts: Counter[str]) -> dict[str, str]:
        outcome = self.chat.ask(requests)
        self.replies |= {reply.key: reply for reply in outcome.replies.values()}
        counts["requests to the corrector"] += len(requests)
        if outcome.missing:
            common = Counter(outcome.missing.values()).most_common(3)
            why = "; ".join(f"{number} x {reason}" for reason, number in common)
            raise Unfinished(
                f"{len(outcome.missing)} of {len(requests)} requests to the corrector got no "
                f"reply ({why}); nothing that was paid for is lost, the same command goes on"
            )
        return {name: reply.text for name, reply in outcome.replies.items()}


def read_rulings(reply: str, claims: Sequence[str]) -> list[Ruling] | None:
    """The rulings of a reply on each claim, in order; None where any of them cannot be read."""
    value = json_object(reply)
    listed = value.get("sentences") if value else None
    if not isinstance(listed, list) or len(listed) != len(claims):
        return None
    found = []
    for number, (each, claim) in enumerate(zip(listed, claims, strict=True), start=1):
        if not isinstance(each, dict) or each.get("index", number) != number:
            return None
        repeated = each.get("sentence", claim)
        if not isinstance(repeated, str) or said_alike(repeated) != said_alike(claim):
            return None  # about another description
        verdict = str(each.get("verdict", "")).strip().lower()
        corrected = each.get("corrected_sentence")
        if verdict not in _VERDICTS or not isinstance(corrected, str):
            return None
        corrected = corrected.strip().rstrip(".").strip()
        if verdict == "hallucination" and not corrected:
            return None
        found.append(Ruling(verdict=verdict, corrected=corrected))
    return found


def _prompt(name: str) -> tuple[str, str]:
    """Text and hash of a prompt."""
    text = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").strip()
    return text, value_hash(text)


def _relative_boxes(evidence: Evidence) -> str:
    """Regions as SHR shows them: corners as fractions of the image, to two decimals."""
    wide, high = evidence.width or 1, evidence.height or 1
    return "\n".join(
        f"[{r.x / wide:.2f}, {r.y / high:.2f}, {(r.x + r.width) / wide:.2f}, "
        f"{(r.y + r.height) / high:.2f}]: {r.phrase}"
        for r in evidence.regions
    )
