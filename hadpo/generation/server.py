"""Answers of a model behind OpenAI-compatible servers, which stands in the place of a backbone.

A question is sent as it stands, with its picture: the server's own chat template makes a prompt of
it. Replies lie in the stage's folder, so a killed stage asks nothing twice, and another run, whose
server may have other weights under the same name, asks anew.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hadpo.chat import Bill, Cache, ChatModel, ChatSettings, Request
from hadpo.config import ModelConfig, named
from hadpo.generation.decoding import Decoding
from hadpo.records import BadInput, Question

log = logging.getLogger(__name__)

REPLIES = "server_replies.sqlite"
PROMPT = "{question}"  # all that is sent beside the picture
_HONOURED = ("name", "max_new_tokens", "temperature", "seed")
_AT_ONCE = 32  # questions handed in together, for each request under way


class Served:
    """A model on a server.

    Args:
        settings: the section `model` of the recipe; every field named `server_...` is honoured.
        name: the model's name in `server_models`.
        replies: the file of replies.
        note: writes facts into the manifest.
        bill: what earlier models of this start have cost; the limit is of all together.

    Raises:
        BadInput: the server is not named, or does not have this model.
    """

    def __init__(
        self,
        settings: ModelConfig,
        name: str,
        replies: Path | None,
        note: Callable[..., None] = lambda **_: None,
        bill: Bill | None = None,
    ) -> None:
        names = named(settings.server_models)
        if name not in names:
            raise BadInput(
                f"model.server_models has no {name} ({settings.server_models}); add {name}=NAME, "
                "as the server calls it"
            )
        self.name = names[name]
        self.bill = bill or Bill()
        self.settings, self._cache, self._note = settings, Cache(replies), note

    def answers(
        self, questions: Sequence[Question], decoding: Decoding
    ) -> Iterator[tuple[Question, str, int, Literal["stop", "length"]]]:
        """Questions in their order, with text, tokens and finish; some hundred are asked at a time.

        What the server refuses to answer (a content filter) is an empty text, counted in the log.

        Raises:
            BadInput: a decoding that servers do not honour, or an image that cannot be read.
            Unfinished: questions that got no reply; those that did are given out before.
        """
        check(decoding)
        settings = ChatSettings.of_section(
            self.settings,
            "server_",
            model=self.name,
            temperature=decoding.temperature,
            max_tokens=decoding.max_new_tokens,
            reply_format="text",
            is_exact=True,
        )
        chat = ChatModel(settings, self._cache, bill=self.bill)
        size = _AT_ONCE * self.settings.server_concurrency
        for start in range(0, len(questions), size):
            part = questions[start : start + size]
            outcome = chat.ask([_request(question, decoding) for question in part])
            self._note(server=dataclasses.asdict(self.bill) | {"model": self.name})
            for question in part:
                if question.question_id in outcome.missing:
                    continue
                refused = outcome.without.get(question.question_id, "")
                if question.image and refused.startswith(question.image):  # it was never sent
                    raise BadInput(refused)
                reply = outcome.replies.get(question.question_id)
                if reply:
                    yield question, reply.said.strip(), reply.output_tokens, reply.finish
                else:
                    yield question, "", 0, "stop"
            for name, why in outcome.without.items():
                log.warning("%s: not answered: %s", name, why)
            outcome.refuse_missing("questions to the server")


def check(decoding: Decoding) -> None:
    """Refuse what a server of OpenAI's form cannot be told, or may ignore without a word."""
    plain: Any = Decoding(name=decoding.name)
    for field in dataclasses.fields(decoding):
        value = getattr(decoding, field.name)
        if field.name not in _HONOURED and value != getattr(plain, field.name):
            raise BadInput(
                f"decoding {decoding.name!r}: a server is not told {field.name} ({value}), so its "
                f"answers would be other ones; set it to {getattr(plain, field.name)}, or use "
                "engine local"
            )


def _request(question: Question, decoding: Decoding) -> Request:
    return Request(
        name=question.question_id,
        text=question.text,
        prompt_version=PROMPT,
        attempt=decoding.seed if decoding.temperature else 0,  # other samples, if it is another
        images=(Path(question.image),) if question.image else (),
        takes_cut=True,
    )
