"""Description pairs by a language model: false sentences corrected, both texts in one style."""

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hadpo.chat import Cache, ChatModel, ChatSettings, cache_file
from hadpo.config import PrepareConfig
from hadpo.pairs.asked import Corrector
from hadpo.pairs.mine import description_pair, finished
from hadpo.records import Answer, BadInput, Evidence, Pair, Question, write_jsonl

if TYPE_CHECKING:
    from hadpo.runs import Run

Rewrites = dict[str, tuple[list[str], list[str]]]  # pair_id -> of chosen, of rejected


def chat_settings(settings: PrepareConfig) -> ChatSettings:
    """How the server is asked; BadInput where no model, or no price for a limit, is named."""
    if not settings.corrector_model:
        raise BadInput("corrector llm needs corrector_model, the name of a model of the server")
    has_prices = settings.corrector_input_price or settings.corrector_output_price
    if settings.corrector_max_cost_usd and not has_prices:
        raise BadInput(
            f"corrector_max_cost_usd is {settings.corrector_max_cost_usd:g}, but what "
            f"{settings.corrector_model} costs is not known; set corrector_input_price and "
            "corrector_output_price, in dollars per million tokens"
        )
    return ChatSettings(
        model=settings.corrector_model,
        temperature=settings.corrector_temperature,
        max_tokens=settings.corrector_max_tokens,
        reply_format=settings.corrector_format,
        concurrency=settings.corrector_concurrency,
        input_price=settings.corrector_input_price,
        output_price=settings.corrector_output_price,
        max_cost_usd=settings.corrector_max_cost_usd,
    )


def description_pairs(
    run: "Run",
    questions: Sequence[Question],
    answers: Mapping[str, Answer],
    evidence: Mapping[str, Evidence],
    counts: Counter[str],
) -> tuple[list[Pair], Rewrites]:
    """A pair per description with a false sentence, and all rewrites of its two texts.

    With rewrites, one of each side is drawn by the seed, as HA-DPO does; a description without a
    readable one of both sides is left out and counted. Replies and bill are written down however
    it ends.

    Raises:
        Unfinished: requests that got no reply; the same command goes on from there.
    """
    settings = run.settings
    chat = ChatModel(chat_settings(settings), Cache(cache_file()))
    corrector = Corrector(chat)
    asked = {q.question_id: (q, a) for q, a in finished(questions, answers, counts)}
    try:
        corrected = corrector.correct(
            {key: (answer.text, evidence[q.image_id]) for key, (q, answer) in asked.items()},
            counts,
        )
        if not settings.rewrites:
            pairs = [
                description_pair(asked[key][0], chosen, asked[key][1].text)
                for key, chosen in corrected.items()
            ]
            return pairs, {}
        texts = {f"{key}/chosen": text for key, text in corrected.items()}
        texts |= {f"{key}/rejected": asked[key][1].text for key in corrected}
        rewritten = corrector.rewrite(texts, settings.rewrites, counts)
    finally:
        write_jsonl(run.path("corrector_replies.jsonl"), corrector.replies.values())
        run.note(corrector=_report(corrector))
    draw = random.Random(f"{settings.prepare_seed}/rewrites")
    pairs, found = [], {}
    for key in corrected:
        both = rewritten[f"{key}/chosen"], rewritten[f"{key}/rejected"]
        if not all(both):
            counts["descriptions: no readable rewrite, left out"] += 1
            continue
        found[key] = both
        chosen, rejected = (draw.choice(some) for some in both)
        pairs.append(description_pair(asked[key][0], chosen, rejected))
    return pairs, found


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
        "prompts": {name: version for name, (_, version) in corrector.prompts.items()},
        "bill": dataclasses.asdict(corrector.chat.bill),
    }
