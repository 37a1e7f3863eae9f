"""ChatModel: many requests at a time, replies from the cache first, within a budget."""

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from hadpo.chat.cache import Batch, Cache
from hadpo.chat.request import (
    Bill,
    ChatResult,
    ChatSettings,
    NoAnswer,
    Reply,
    Request,
    RequestFailed,
)
from hadpo.records import BadInput

if TYPE_CHECKING:
    from hadpo.chat.client import Client

T = TypeVar("T")
log = logging.getLogger(__name__)

_GIVE_UP = 3  # requests that fail one after the other, each after all its repeats
_PROGRESS = 20  # log lines in all
_POLL_SECONDS = 0.2  # between two looks for a reply that another process waits for
_PAUSE_SECONDS = 60.0  # that a server may ask for before a repeat
_BATCH_REQUESTS = 50_000  # the API's limit


class ChatModel:
    """A language model behind a cache; with `is_replay` it answers from the cache alone."""

    def __init__(
        self,
        settings: ChatSettings,
        cache: Cache,
        *,
        is_replay: bool = False,
        bill: Bill | None = None,  # that of others too, if the limit is of all together
    ) -> None:
        self.settings = settings
        self.cache = cache
        self.is_replay = is_replay
        self.bill = bill or Bill()
        self._client: Client | None = None
        self._failures = 0  # in a row
        self._refused: dict[str, str] = {}  # by name, why: the server does not take the request
        tries = settings.retries + 1
        self._lease = (settings.timeout_seconds + _PAUSE_SECONDS) * tries  # of a claim, seconds
        self._stopped = ""  # why nothing more is sent

    def ask(self, requests: Sequence[Request]) -> ChatResult:
        """Reply to every request that can get one; never raises for a server's failure.

        A request is sent only while the budget can bear it. After an error that all others would
        meet (key, quota, unknown model), or several requests in a row without success, no more
        are sent. Requests that are equal but for their names are sent once.

        Raises:
            BadInput: there is no key in the environment.
        """
        outcome = ChatResult()
        new: dict[str, Request] = {}  # by key
        equal: list[tuple[str, str]] = []  # names of a request, and of the one that is sent for it
        for request in requests:
            try:
                key = request.key(self.settings)
            except BadInput as error:  # a picture that is not there
                outcome.without[request.name] = str(error)
                continue
            reply = self.cache.get(key)
            if reply is not None:
                outcome.replies[request.name] = reply
            elif key in new:
                equal.append((request.name, new[key].name))
            else:
                new[key] = request
        self.bill.cached += len(requests) - len(new) - len(outcome.without)
        if new and self.is_replay:
            why = "not among the stored replies (another model, setting, prompt or answer?)"
            outcome.missing = {request.name: why for request in new.values()}
        elif new:
            self._announce(list(new.values()))
            in_own_loop(self._ask_server(new, outcome))
        self.bill.with_thoughts += sum(r.said != r.text for r in outcome.replies.values())
        for results in vars(outcome).values():
            results.update({name: results[sent] for name, sent in equal if sent in results})
        return outcome

    def estimate_usd(self, requests: Sequence[Request]) -> float:
        """What requests may cost at most, if each reply is as long as it may be."""
        return sum(self._most_usd(request) for request in requests)

    def _announce(self, requests: Sequence[Request]) -> None:
        estimate = self.estimate_usd(requests)
        self.bill.estimated_usd += estimate
        log.warning(
            "%s is asked %d times (%d replies are in the cache): about %d prompt tokens, at most "
            "%d reply tokens, %s",
            self.settings.model,
            len(requests),
            self.bill.cached,
            sum(request.tokens for request in requests),
            len(requests) * self.settings.max_tokens,
            f"at most about ${estimate:.2f}" if self.settings.has_prices else "price unknown",
        )

    async def _ask_server(self, requests: dict[str, Request], outcome: ChatResult) -> None:
        from hadpo.chat.client import Client  # openai is slow to import, and replay needs none

        if self._client is None:
            self._client = Client(self.settings, self.bill)
        self._refused = {}
        try:
            async with self._client as client:
                if self.settings.delivery == "batch":
                    await self._ask_in_batches(client, requests, outcome)
                else:
                    await self._send_all(client, requests, outcome)
        finally:
            self.bill.not_taken = [*dict.fromkeys(self.bill.not_taken + self._client.not_taken)]
        # A server that took others in the same form refused these prompts, however it says so.
        (outcome.without if outcome.replies else outcome.missing).update(self._refused)

    async def _send_all(
        self, client: "Client", requests: dict[str, Request], outcome: ChatResult
    ) -> None:
        """Send requests, `concurrency` at a time, each with its possible cost reserved before."""
        reserved: dict[asyncio.Task[None], float] = {}  # dollars of each request under way
        step = max(1, len(requests) // _PROGRESS)
        try:
            for key, request in requests.items():
                most = self._most_usd(request)
                while not self._stopped and (
                    len(reserved) >= self.settings.concurrency
                    or (reserved and self._passes_limit(sum(reserved.values()) + most))
                ):  # a reply frees a place, and may cost less than was reserved for it
                    done, _ = await asyncio.wait(reserved, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        del reserved[task]
                        task.result()
                    if self.bill.asked % step == 0:
                        cost = self.bill.cost_usd
                        log.info("%d of %d asked, $%.4f", self.bill.asked, len(requests), cost)
                if not self._stopped and self._passes_limit(most):
                    self._stopped = self._not_affordable()
                if self._stopped:
                    outcome.missing[request.name] = self._stopped
                else:
                    task = asyncio.create_task(self._send(client, key, request, outcome))
                    reserved[task] = most
            await asyncio.gather(*reserved)
        finally:  # Ctrl-C, or an error of the cache: what is under way is given up
            for task in reserved:
                task.cancel()
            await asyncio.gather(*reserved, return_exceptions=True)

    async def _send(
        self, client: "Client", key: str, request: Request, outcome: ChatResult
    ) -> None:
        """Ask the server, unless another process does: then its reply is waited for."""
        while not (claimed := self.cache.claim(key, self._lease)) or self.cache.get(key):
            if reply := self.cache.get(key):
                outcome.replies[request.name] = reply
                self.bill.cached += 1
                break
            await asyncio.sleep(_POLL_SECONDS)
        else:
            await self._send_own(client, request, outcome)
        if claimed:
            self.cache.give_up([key])

    async def _send_own(self, client: "Client", request: Request, outcome: ChatResult) -> None:
        try:
            self._book(request, await client.send(request), outcome)
            self._failures = 0
        except NoAnswer as error:
            self._book(request, error, outcome)
            self._failures = 0
        except BadInput as error:  # a picture that cannot be read
            outcome.without[request.name] = str(error)
        except RequestFailed as error:
            log.warning("%s: %s", request.name, error)
            self._book(request, error, outcome)
            if request.name in outcome.without or (error.refusal and outcome.replies):
                return  # it is about this prompt; the server takes others
            self._failures += 1
            if error.is_hopeless or self._failures >= _GIVE_UP:
                self._stopped = self._stopped or f"not asked, after: {error}"

    def _book(
        self, request: Request, result: Reply | NoAnswer | RequestFailed, outcome: ChatResult
    ) -> None:
        """Store a reply in the cache, count it, and note what became of its request."""
        if isinstance(result, Reply):
            self.cache.put(result)  # before anything else can go wrong
            outcome.replies[request.name] = result
            self.bill.add(result.input_tokens, result.output_tokens, self.settings)
        elif isinstance(result, NoAnswer):
            outcome.without[request.name] = str(result)
            reply = result.reply
            self.bill.add(reply.input_tokens, reply.output_tokens, self.settings)
            self.bill.refused_or_cut += 1
        elif result.is_about_prompt:
            outcome.without[request.name] = str(result)
            self.bill.refused_or_cut += 1
        else:
            if result.is_paid:
                self.bill.add(*request.most_tokens(self.settings), self.settings)
            place = self._refused if result.refusal else outcome.missing
            place[request.name] = str(result)
            self.bill.failed += 1
        self.bill.asked += 1

    async def _ask_in_batches(
        self, client: "Client", requests: dict[str, Request], outcome: ChatResult
    ) -> None:
        """Collect what was handed in at an earlier start, and hand in what never was."""
        under_way: dict[str, str] = {}  # key -> where it is
        ended: list[Batch] = []
        for batch in self.cache.batches():
            keys = batch.keys & requests.keys()
            if not keys:
                continue  # of another run
            try:
                state = await self._collect(client, batch, requests, outcome)
            except RequestFailed as error:
                state = f"it cannot be asked for now: {error}"
            if state:
                under_way |= dict.fromkeys(keys, state)
            else:
                ended.append(batch)
        decided = {*outcome.replies, *outcome.without, *outcome.missing}
        new: list[tuple[str, Request]] = []
        most = 0.0
        for key, request in requests.items():
            if key in under_way or request.name in decided:
                continue
            most += self._most_usd(request)
            if self._passes_limit(most):
                outcome.missing[request.name] = self._not_affordable()
            else:
                new.append((key, request))
        for start in range(0, len(new), _BATCH_REQUESTS):
            part = dict(new[start : start + _BATCH_REQUESTS])
            claimed = {key for key in part if self.cache.claim(key, self._lease)}
            taken = {key for batch in self.cache.batches() for key in batch.keys - under_way.keys()}
            own = {key: request for key, request in part.items() if key in claimed - taken}
            others = "another process hands it in; collect it with the same command later"
            under_way |= dict.fromkeys(part, others)
            if own:
                under_way |= dict.fromkeys(own, await self._hand_in(client, own))
            self.cache.give_up(claimed)
        outcome.missing |= {requests[key].name: state for key, state in under_way.items()}
        # Refusals are not cached: while others are missing, they are collected again next time.
        refused = {key for key, request in requests.items() if request.name in outcome.without}
        for batch in ended:
            if not (outcome.missing and batch.keys & refused):
                self.cache.drop_batch(batch)

    async def _collect(
        self, client: "Client", batch: Batch, requests: dict[str, Request], outcome: ChatResult
    ) -> str:
        """Book what a batch brought; "" once it has ended, else where it is."""
        batch_id = batch.id or await client.find(batch.mark)
        if batch_id is None:  # it was never handed in: a kill came between
            self.cache.drop_batch(batch)
            return ""
        if batch.id is None:
            self.cache.put_batch(Batch(batch.mark, batch_id, batch.keys))
        status, results = await client.collect(batch_id, requests)
        if results is None:
            return f"batch {batch_id} is {status}; collect it with the same command later"
        lost = RequestFailed(f"batch {batch_id} ended as {status} without it")
        for key in batch.keys & requests.keys():
            self._book(requests[key], results.get(key, lost), outcome)
        log.info("batch %s: %s, %d replies", batch_id, status, len(results))
        return ""

    async def _hand_in(self, client: "Client", requests: dict[str, Request]) -> str:
        """Hand requests in; says where they are, or why the server did not take them."""
        batch = Batch(f"hadpo-{uuid.uuid4().hex}", None, frozenset(requests))
        self.cache.put_batch(batch)  # before it costs: a kill in between must not pay twice
        try:
            batch_id = await client.hand_in(list(requests.values()), batch.mark)
        except RequestFailed as error:
            return f"the batch was not taken: {error}"  # if it was after all, the mark finds it
        self.cache.put_batch(Batch(batch.mark, batch_id, batch.keys))
        log.warning("batch %s: %d requests are handed in", batch_id, len(requests))
        return f"handed in as batch {batch_id}; collect it with the same command later"

    def _most_usd(self, request: Request) -> float:
        return self.settings.cost_usd(*request.most_tokens(self.settings))

    def _passes_limit(self, dollars: float) -> bool:
        """Whether this start could cost more than its limit if it spent so much more."""
        limit = self.settings.max_cost_usd
        return limit > 0 and self.bill.cost_usd + dollars > limit

    def _not_affordable(self) -> str:
        return f"not asked: it might pass max_cost_usd ({self.settings.max_cost_usd:g})"


def in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that runs in a thread and an event loop of its own.

    So it works inside a notebook, whose thread runs a loop already. An interrupt of the caller
    cancels the coroutine, and is raised when that has ended.
    """
    with (
        closing(asyncio.new_event_loop()) as loop,
        ThreadPoolExecutor(1, thread_name_prefix="chat") as thread,
    ):
        task = loop.create_task(work)
        result = thread.submit(loop.run_until_complete, task)
        try:
            return result.result()
        except BaseException:
            loop.call_soon_threadsafe(task.cancel)
            raise
