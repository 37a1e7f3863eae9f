"""A judge that asks a language model: renders cases, reads replies, asks again what it cannot read.

`llm` asks a server, `replay` asks the stored replies of an earlier judging.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hadpo.chat import ChatModel, Reply, Request
from hadpo.judges import JudgeSettings, Unfinished
from hadpo.judges._rubric import Prompt, prompt_of
from hadpo.records import Case, Verdict


class AskedJudge:
    """Rules by a language model's replies."""

    def __init__(self, chat: ChatModel, settings: JudgeSettings) -> None:
        """Read the prompts of the rubrics; BadInput if one is missing."""
        self.chat = chat
        self.replies: dict[str, Reply] = {}  # by key: what the verdicts rest on
        self._reader, self._attempts = settings.reader, settings.attempts
        is_json = chat.settings.reply_format != "text"
        self._prompts: dict[str, Prompt] = {
            rubric.name: prompt_of(rubric, is_json=is_json, folder=settings.prompts)
            for rubric in settings.rubrics
        }

    def rule(self, case: Case) -> list[Verdict]:
        """One verdict per claim of one case; see `rule_cases`."""
        return self.rule_cases([case])[0]

    def rule_cases(self, cases: Sequence[Case]) -> list[list[Verdict]]:
        """Verdicts of every case; a reply with unreadable parts is asked for again, a few times.

        Raises:
            Unfinished: some cases got no reply; names them and why. All others were asked first.
        """
        found: list[list[Verdict]] = [[] for _ in cases]
        missing: dict[int, str] = {}
        open_places = [place for place, case in enumerate(cases) if case.claims]
        for attempt in range(self._attempts):
            requests = [self._request(str(p), cases[p], attempt) for p in open_places]
            outcome = self.chat.ask(requests)
            missing |= {int(name): why for name, why in outcome.missing.items()}
            left = []
            for place, request in zip(open_places, requests, strict=True):
                if reply := outcome.replies.get(request.name):
                    self.replies[reply.key] = reply
                text = reply.said if reply else ""
                new = self._read(text, cases[place], outcome.without.get(request.name, ""))
                if not found[place] or _unread(new) < _unread(found[place]):
                    found[place] = new
                if _unread(found[place]) and place not in missing:
                    left.append(place)
            open_places = left
        if missing:
            raise Unfinished(_explain(missing, len(cases)))
        return found

    def report(self) -> dict[str, Any]:
        """For the manifest: usage, cost, and which prompts were used."""
        settings = dataclasses.asdict(self.chat.settings)
        return {
            "settings": settings | {"reader": self._reader, "attempts": self._attempts},
            "prompts": {name: prompt.version for name, prompt in self._prompts.items()},
            "served_by": sorted({reply.model for reply in self.replies.values()}),
            "bill": dataclasses.asdict(self.chat.bill),
        }

    def _request(self, name: str, case: Case, attempt: int) -> Request:
        prompt = self._prompts[case.rubric]
        return Request(
            name=name,
            text=prompt.render(case),
            prompt_version=prompt.version,
            attempt=attempt,
            schema=prompt.schema,
            system=prompt.rubric.system,
            images=prompt.rubric.images(case),
        )

    def _read(self, text: str, case: Case, why: str) -> list[Verdict]:
        verdicts = self._prompts[case.rubric].rubric.reader(self._reader)(text, case)
        return [dataclasses.replace(v, reason=why) for v in verdicts] if why else verdicts


def _unread(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.label == "unparsed" for verdict in verdicts)


def _explain(missing: dict[int, str], total: int) -> str:
    reasons = Counter(missing.values()).most_common(5)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"{len(missing)} of {total} cases are not judged ({why})"
