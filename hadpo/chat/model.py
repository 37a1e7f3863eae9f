"""ChatModel: many requests at a time, from the cache where it knows them, within a budget."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hadpo.chat.cache import Cache
from hadpo.chat.request import ChatSettings, Reply, Request

if TYPE_CHECKING:
    from hadpo.chat.client import Client

log = logging.getLogger(__name__)

_GIVE_UP = 3  # requests that fail one after the other, each after all its repeats
_PROGRESS = 20  # log lines in all


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

    def add(self, reply: Reply, settings: ChatSettings) -> None:
        """Count the tokens of a reply."""
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        self.cost_usd = settings.cost_usd(self.input_tokens, self.output_tokens)


@dataclass
class Outcome:
    """What became of requests, by their names; all three together are all requests."""

    replies: dict[str, Reply] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)  # refused or cut off: why
    missing: dict[str, str] = field(default_factory=dict)  # to be asked again: why


class ChatModel:
    """A language model behind a cache; without a `client` it answers from the cache alone."""

    def __init__(self, settings: ChatSettings, cache: Cache, *, is_replay: bool = False) -> None:
        self.settings = settings
        self.cache = cache
        self.is_replay = is_replay
        self.bill = Bill()
        self._client: Client | None = None
        self._turn = threading.Condition()
        self._on_their_way = 0
        self._reserved = 0.0  # dollars that they may cost
        self._failures = 0  # in a row
        self._stopped = ""

    def ask(self, requests: Sequence[Request]) -> Outcome:
        """Reply to every request that can get one; never raises for a server's failure.

        A request is sent only while the budget can bear it. After an error that all others would
        meet (key, quota, unknown model), or several requests in a row without success, no more
        are sent.
        """
        outcome, open_requests = Outcome(), []
        for request in requests:
            known = self.cache.get(request.key(self.settings))
            if known is not None:
                outcome.replies[request.name] = known
                self.bill.cached += 1
            else:
                open_requests.append(request)
        if not open_requests:
            return outcome
        if self.is_replay:
            why = "not among the stored replies (another model, setting, prompt or answer?)"
            outcome.missing = {request.name: why for request in open_requests}
            return outcome
        self._announce(open_requests)
        if self._client is None:
            from hadpo.chat.client import Client  # openai is slow to import, and replay needs none

            self._client = Client(self.settings)
        if self.settings.delivery == "batch":
            from hadpo.chat.batches import ask_in_batches

            ask_in_batches(self._client, self.cache, open_requests, outcome, self.bill)
        else:
            self._send_all(open_requests, outcome)
        return outcome

    def estimate_usd(self, requests: Sequence[Request]) -> float:
        """What requests may cost at most, if each reply is as long as it may be."""
        return sum(self._most(request) for request in requests)

    def _announce(self, requests: Sequence[Request]) -> None:
        tokens = sum(request.tokens for request in requests)
        estimate = self.estimate_usd(requests)
        self.bill.estimated_usd += estimate
        cost = f"at most about ${estimate:.2f}" if self.settings.has_prices else "price unknown"
        log.warning(
            "%s is asked %d times (%d replies are there): about %d prompt tokens, at most %d reply "
            "tokens, %s",
            self.settings.model,
            len(requests),
            self.bill.cached,
            tokens,
            len(requests) * self.settings.max_tokens,
            cost,
        )

    def _most(self, request: Request) -> float:
        return self.settings.cost_usd(request.tokens, self.settings.max_tokens)

    def _send_all(self, requests: Sequence[Request], outcome: Outcome) -> None:
        queue, total = deque(requests), len(requests)
        threads = min(self.settings.concurrency, total)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="chat")
        try:
            for worker in [pool.submit(self._work, queue, outcome, total) for _ in range(threads)]:
                worker.result()
        except BaseException:  # Ctrl-C: what is on its way is given up, nothing new is sent
            self._stopped = self._stopped or "interrupted"
            if self._client is not None:
                self._client.close()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()

    def _work(self, queue: deque[Request], outcome: Outcome, total: int) -> None:
        step = max(1, total // _PROGRESS)
        while (request := self._next(queue, outcome)) is not None:
            try:
                self._send(request, outcome)
            finally:
                with self._turn:
                    self._reserved -= self._most(request)
                    self._on_their_way -= 1
                    self._turn.notify_all()
            if self.bill.asked % step == 0:
                log.info("%d of %d asked, $%.4f", self.bill.asked, total, self.bill.cost_usd)

    def _next(self, queue: deque[Request], outcome: Outcome) -> Request | None:
        """The next request that may be sent, its possible cost reserved; None: no more."""
        limit = self.settings.max_cost_usd
        with self._turn:
            while queue:
                most = self._most(queue[0])
                if limit and not self._stopped:
                    if self.bill.cost_usd + self._reserved + most > limit and self._on_their_way:
                        self._turn.wait()  # they may cost less than was reserved for them
                        continue
                    if self.bill.cost_usd + self._reserved + most > limit:
                        self._stopped = f"not asked: it might pass max_cost_usd ({limit:g})"
                request = queue.popleft()
                if self._stopped:
                    outcome.missing[request.name] = self._stopped
                    continue
                self._reserved += most
                self._on_their_way += 1
                return request
        return None

    def _send(self, request: Request, outcome: Outcome) -> None:
        from hadpo.chat.client import NoAnswer, RequestFailed

        assert self._client is not None  # `ask` made it
        why = ""
        try:
            reply = self._client.send(request)
            self.cache.put(reply)  # before anything else can go wrong
        except NoAnswer as error:
            reply, why = error.reply, str(error)
        except RequestFailed as error:
            self._failed(request, error, outcome, is_hopeless=error.is_hopeless)
            return
        with self._turn:
            self._failures = 0
            self.bill.asked += 1
            self.bill.add(reply, self.settings)
            if why:
                self.bill.refused_or_cut += 1
                outcome.without[request.name] = why
            else:
                outcome.replies[request.name] = reply

    def _failed(
        self, request: Request, error: Exception, outcome: Outcome, *, is_hopeless: bool
    ) -> None:
        log.warning("%s: %s", request.name, error)
        with self._turn:
            self.bill.asked += 1
            self.bill.failed += 1
            self._failures += 1
            outcome.missing[request.name] = str(error)
            if is_hopeless or self._failures >= _GIVE_UP:
                self._stopped = self._stopped or f"not asked, after: {error}"
