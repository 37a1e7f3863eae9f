"""Description pairs by a language model: false sentences corrected, both texts in one style.

The HA-DPO method: chosen and rejected are rewritten by the same prompt, so that they differ in
truth and not in wording. Replies are cached, so nothing is asked twice.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hadpo.chat import (
    Cache,
    ChatModel,
    ChatSettings,
    Prompt,
    Reply,
    Request,
    cache_file,
    object_schema,
)
from hadpo.config import PrepareConfig
from hadpo.pairs.mine import complete_descriptions, description_pair, replace_sentences
from hadpo.records import Answer, Evidence, Pair, Question, write_jsonl
from hadpo.text import fold, integer, is_refusal, json_object, sentences, words

if TYPE_CHECKING:
    from hadpo.runs import Run

Rewrites = dict[str, tuple[list[str], list[str]]]  # pair_id -> of chosen, of rejected

PROMPTS = Path(__file__).parent / "prompts"
_VERDICTS = ("hallucination", "correct", "cannot judge")
_TEXT = {"type": "string"}
_SENTENCE = object_schema(
    index={"type": "integer"},
    verdict={"type": "string", "enum": list(_VERDICTS)},
    reason=_TEXT,
    corrected_sentence=_TEXT,
)
_CORRECTION = object_schema(sentences={"type": "array", "items": _SENTENCE})
_REWRITE = object_schema(description=_TEXT)


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What the model says about one sentence; `corrected` is the sentence as it should be."""

    verdict: str
    corrected: str


class Corrector:
    """Asks for corrections and rewrites; `replies` are what its work rests on."""

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat
        self.replies: dict[str, Reply] = {}  # by key
        names = ("correct", "rewrite")
        self.prompts = {name: Prompt.read(PROMPTS / f"{name}.txt") for name in names}

    def correct(
        self, descriptions: Mapping[str, tuple[str, Evidence]], counts: Counter[str]
    ) -> dict[str, str]:
        """The corrected text of each description (text, what is known) that has false sentences.

        `counts` grows: sentences by verdict, and why descriptions were left out.

        Raises:
            Unfinished: requests that got no reply; the others are kept.
        """
        replies = self._ask(self.correction_requests(descriptions), counts)
        corrections: dict[str, str] = {}
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
            elif any(is_refusal(text) for text in wrong.values()):
                counts["descriptions: correction is a refusal, left out"] += 1
            elif any(fold(claim) == fold(text) for claim, text in wrong.items()):
                counts["descriptions: false sentence not corrected, left out"] += 1
            else:
                counts["sentences: corrected"] += len(wrong)
                corrections[name] = replace_sentences(text, claims, wrong)
        return corrections

    def rewrite(
        self, texts: Mapping[str, str], count: int, counts: Counter[str]
    ) -> dict[str, list[str]]:
        """Up to `count` rewrites of each text, all by one prompt; Unfinished as `correct`.

        Unreadable ones, refusals and those that lost a sentence are left out and counted.
        """
        replies = self._ask(self.rewrite_requests(texts, count), counts)
        rewrites: dict[str, list[str]] = {name: [] for name in texts}
        for name, versions in rewrites.items():
            for turn in range(count):
                value = json_object(replies.get(f"{name}/{turn}", ""), "description") or {}
                text = value.get("description")
                if not isinstance(text, str) or not text.strip():
                    counts["rewrites: unreadable"] += 1
                elif is_refusal(text):
                    counts["rewrites: a refusal, left out"] += 1
                elif _has_lost(text, texts[name]):
                    counts["rewrites: sentences lost, left out"] += 1
                else:
                    versions.append(" ".join(text.split()))
        return rewrites

    def correction_requests(
        self, descriptions: Mapping[str, tuple[str, Evidence]]
    ) -> list[Request]:
        """What is asked about descriptions."""
        requests = []
        for name, (text, evidence) in descriptions.items():
            claims = [" ".join(claim.split()) for claim in sentences(text)]
            slots = {
                "regions": _relative_boxes(evidence) or "(none)",
                "facts": "\n".join(evidence.facts) or "(none)",
                "sentences": "\n".join(f"{i}. {claim}" for i, claim in enumerate(claims, start=1)),
            }
            requests.append(self.prompts["correct"].request(name, slots, schema=_CORRECTION))
        return requests

    def rewrite_requests(self, texts: Mapping[str, str], count: int) -> list[Request]:
        """What is asked about texts to rewrite; the same text again is another request."""
        prompt = self.prompts["rewrite"]
        return [
            prompt.request(f"{name}/{turn}", {"description": text}, schema=_REWRITE, attempt=turn)
            for name, text in texts.items()
            for turn in range(count)
        ]

    def _ask(self, requests: Sequence[Request], counts: Counter[str]) -> dict[str, str]:
        outcome = self.chat.ask(requests)
        self.replies |= {reply.key: reply for reply in outcome.replies.values()}
        counts["requests to the corrector"] += len(requests)
        outcome.refuse_missing("requests to the corrector")
        return {name: reply.said for name, reply in outcome.replies.items()}


def _has_lost(rewrite: str, text: str) -> bool:
    """Whether a rewrite has fewer sentences than its text, and no words that make up for them."""
    before, after = len(sentences(text)), len(sentences(rewrite))
    return after < before and len(words(rewrite)) < (1 - 0.5 / before) * len(words(text))


def read_rulings(reply: str, claims: Sequence[str]) -> list[Ruling] | None:
    """The rulings of a reply on each claim, in order; None if any of them cannot be read."""
    value = json_object(reply, "sentences")
    listed = value.get("sentences") if value else None
    if not isinstance(listed, list) or len(listed) != len(claims):
        return None
    rulings = []
    for number, (each, claim) in enumerate(zip(listed, claims, strict=True), start=1):
        if not isinstance(each, dict) or integer(each.get("index", number)) != number:
            return None
        repeated = each.get("sentence", claim)
        if not isinstance(repeated, str) or fold(repeated) != fold(claim):
            return None  # about another description
        verdict = str(each.get("verdict", "")).strip().lower()
        corrected = each.get("corrected_sentence")
        if verdict not in _VERDICTS or not isinstance(corrected, str):
            return None
        corrected = corrected.strip().rstrip(".").strip()
        if verdict == "hallucination" and not corrected:
            return None
        rulings.append(Ruling(verdict=verdict, corrected=corrected))
    return rulings


def _relative_boxes(evidence: Evidence) -> str:
    """Regions as SHR shows them: corners as fractions of the image, to two decimals."""
    wide, high = evidence.width or 1, evidence.height or 1
    return "\n".join(
        f"[{r.x / wide:.2f}, {r.y / high:.2f}, {(r.x + r.width) / wide:.2f}, "
        f"{(r.y + r.height) / high:.2f}]: {r.phrase}"
        for r in evidence.regions
    )


def chat_settings(settings: PrepareConfig) -> ChatSettings:
    """How the server is asked; BadInput without a model, or for a cost limit without prices."""
    return ChatSettings.of_section(settings, "corrector_")


def description_pairs(
    run: "Run",
    questions: Sequence[Question],
    answers: Mapping[str, Answer],
    evidence: Mapping[str, Evidence],
    counts: Counter[str],
) -> tuple[list[Pair], Rewrites]:
    """A pair for each description with a false sentence, and all rewrites of its two texts.

    With rewrites, one of each side is drawn by the seed, as HA-DPO does; a description without a
    readable one of both sides is left out and counted. Replies and bill are written to the run
    even if it fails.

    Raises:
        Unfinished: requests that got no reply; the same command goes on from there.
    """
    settings = run.settings
    corrector = Corrector(ChatModel(chat_settings(settings), Cache(cache_file())))
    described = {
        question.question_id: (question, answer.text)
        for question, answer in complete_descriptions(questions, answers, counts)
    }
    rewrites: dict[str, list[str]] = {}
    try:
        corrections = corrector.correct(
            {key: (text, evidence[q.image_id]) for key, (q, text) in described.items()}, counts
        )
        if settings.rewrites:
            texts = {f"{key}/chosen": text for key, text in corrections.items()}
            texts |= {f"{key}/rejected": described[key][1] for key in corrections}
            rewrites = corrector.rewrite(texts, settings.rewrites, counts)
    finally:
        write_jsonl(run.path("corrector_replies.jsonl"), corrector.replies.values())
        run.note(corrector=_report(corrector))
    draw = random.Random(f"{settings.prepare_seed}/rewrites")
    pairs: list[Pair] = []
    of_pairs: Rewrites = {}
    for key, chosen in corrections.items():
        question, rejected = described[key]
        if settings.rewrites:
            both = rewrites[f"{key}/chosen"], rewrites[f"{key}/rejected"]
            if not all(both):
                counts["descriptions: no readable rewrite, left out"] += 1
                continue
            of_pairs[key] = both
            chosen, rejected = (draw.choice(versions) for versions in both)
        pairs.append(description_pair(question, chosen, rejected))
    return pairs, of_pairs


def estimate(settings: PrepareConfig, images: Sequence[Evidence]) -> dict[str, Any]:
    """For a plan: how many requests, and what they may cost at most, before anything is asked."""
    corrector = Corrector(ChatModel(chat_settings(settings), Cache(None)))
    long = "word " * settings.max_new_tokens  # a token is at most a word, about
    first = corrector.correction_requests({e.image_id: (long, e) for e in images})
    texts = {f"{e.image_id}/{side}": long for e in images for side in ("chosen", "rejected")}
    requests = [*first, *corrector.rewrite_requests(texts, settings.rewrites)]
    cost = corrector.chat.estimate_usd(requests)
    has_prices = corrector.chat.settings.has_prices
    return {
        "corrector": f"llm, {settings.corrector_model}",
        "requests to the corrector, at most": len(requests),
        "their cost, at most": f"about ${cost:.2f}" if has_prices else "prices unknown",
    }


def _report(corrector: Corrector) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(corrector.chat.settings),
        "prompts": {name: prompt.version for name, prompt in corrector.prompts.items()},
        "bill": dataclasses.asdict(corrector.chat.bill),
    }
