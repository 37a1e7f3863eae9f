"""Requests by the Batch API: handed in at one start, collected at a later one."""

import logging
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import openai

from hadpo.chat.cache import Batch, Cache
from hadpo.chat.client import ENDED, Client, NoAnswer, RequestFailed
from hadpo.chat.request import Reply, Request

if TYPE_CHECKING:
    from hadpo.chat.model import Bill, Outcome

log = logging.getLogger(__name__)

_MOST = 50_000  # requests of one batch, the API's limit


def ask_in_batches(
    client: Client,
    cache: Cache,
    requests: Sequence[Request],
    outcome: "Outcome",
    bill: "Bill",
) -> None:
    """Collect what was handed in before, and hand in what never was.

    Args:
        client: whose settings the requests' keys are of.
        cache: keeps replies, and the batches that are under way.
        requests: those that the cache has no reply to; each ends up in `outcome`.
        outcome: what came back, what was refused, and what is still to come.
        bill: tokens of the replies.
    """
    settings = client.settings
    by_key = {request.key(settings): request for request in requests}
    under_way: dict[str, str] = {}  # key -> where it is
    ended: list[Batch] = []
    for batch in cache.batches():
        if not batch.keys & by_key.keys():
            continue  # of another run
        try:
            state = _collect(client, cache, batch, by_key, outcome, bill)
        except (RequestFailed, openai.APIStatusError) as error:
            state = f"it cannot be asked for now: {error}"
        if state is None:
            ended.append(batch)
        else:
            under_way |= dict.fromkeys(batch.keys & by_key.keys(), state)
    known = {*outcome.replies, *outcome.without, *outcome.missing}
    new = [r for key, r in by_key.items() if key not in under_way and r.name not in known]
    new = _affordable(new, client, outcome, bill)
    for start in range(0, len(new), _MOST):
        some = new[start : start + _MOST]
        state = _hand_in(client, cache, some)
        under_way |= dict.fromkeys((request.key(settings) for request in some), state)
    for key, state in under_way.items():
        outcome.missing[by_key[key].name] = state
    if not outcome.missing:  # else refusals, which are not cached, are collected again next time
        for batch in ended:
            cache.drop_batch(batch)
        return
    for batch in ended:
        if not batch.keys & {r.key(settings) for r in requests if r.name in outcome.without}:
            cache.drop_batch(batch)


def _collect(
    client: Client,
    cache: Cache,
    batch: Batch,
    by_key: dict[str, Request],
    outcome: "Outcome",
    bill: "Bill",
) -> str | None:
    """Keep what a batch brought; None once it has ended, else where it is."""
    batch_id = batch.id or client.find(batch.mark)
    if batch_id is None:  # it was never handed in: a kill came between
        cache.drop_batch(batch)
        return None
    if batch.id is None:
        cache.put_batch(Batch(batch.mark, batch_id, batch.keys))
    status, found = client.collect(batch_id)
    results = {key: found.get(key) for key in batch.keys & by_key.keys()}
    if status not in ENDED:
        return f"batch {batch_id} is {status}; collect it with the same command later"
    for key, result in results.items():
        name = by_key[key].name
        if isinstance(result, Reply | NoAnswer):
            reply = result if isinstance(result, Reply) else result.reply
            bill.asked += 1
            bill.add(reply, client.settings)
        if isinstance(result, Reply):
            cache.put(result)
            outcome.replies[name] = result
        elif isinstance(result, NoAnswer):
            bill.refused_or_cut += 1
            outcome.without[name] = str(result)
        else:
            bill.failed += 1
            outcome.missing[name] = str(result or f"batch {batch_id} ended as {status} without it")
    log.info("batch %s: %s, %d replies", batch_id, status, len(found))
    return None


def _hand_in(client: Client, cache: Cache, requests: Sequence[Request]) -> str:
    """Hand requests in; says where they are, or why the server did not take them."""
    keys = frozenset(request.key(client.settings) for request in requests)
    batch = Batch(f"hadpo-{uuid.uuid4().hex}", None, keys)
    cache.put_batch(batch)  # before it costs: a kill in between must not pay twice
    try:
        batch_id = client.hand_in(requests, batch.mark)
    except (RequestFailed, openai.APIStatusError) as error:
        return f"the batch was not taken: {error}"  # if it was all the same, the mark finds it
    cache.put_batch(Batch(batch.mark, batch_id, keys))
    log.warning("batch %s: %d requests are handed in; collect them later", batch_id, len(keys))
    return f"handed in as batch {batch_id}; collect it with the same command later"


def _affordable(
    requests: Sequence[Request], client: Client, outcome: "Outcome", bill: "Bill"
) -> list[Request]:
    """The first requests, as many as the budget can bear."""
    settings, found = client.settings, []
    cost = bill.cost_usd
    for request in requests:
        cost += settings.cost_usd(request.tokens, settings.max_tokens)
        if settings.max_cost_usd and cost > settings.max_cost_usd:
            limit = settings.max_cost_usd
            outcome.missing[request.name] = f"not asked: it might pass max_cost_usd ({limit:g})"
        else:
            found.append(request)
    return found
