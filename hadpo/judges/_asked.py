"""A judge that asks a language model: renders cases, reads replies, asks again what it cannot read.

`llm` asks a server, `replay` asks the stored replies of an earlier judging.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hadpo.chat import ChatModel, Reply, Request
from hadpo.judges import JudgeSettings, Unfinished
from hadpo.judges._grades import read_grades
from hadpo.judges._marks import read_marks
from hadpo.judges._reply import read_tolerant, read_upstream
from hadpo.judges._rubrics import Rubric, read_rubric
from hadpo.records import Case, Verdict

Reader = Callable[[str, Case], list[Verdict]]
READERS: dict[tuple[str, str], Reader] = {
    ("shr", "tolerant"): read_tolerant,
    ("shr", "upstream"): read_upstream,
    ("gavie", "tolerant"): read_grades,
    ("gavie", "upstream"): read_grades,  # the original published no reader
    ("gqa", "tolerant"): read_marks,
    ("gqa", "upstream"): read_marks,  # nor here
}


class AskedJudge:
    """Rules by a language model's replies."""

    def __init__(self, chat: ChatModel, settings: JudgeSettings) -> None:
        """Read the rubrics; BadInput where one is missing."""
        self.chat = chat
        self.replies: dict[str, Reply] = {}  # by key: what the verdicts rest on
        self._reader, self._attempts = settings.reader, settings.attempts
        is_json = chat.settings.reply_format != "text"
        self._rubrics: dict[str, Rubric] = {
            name: read_rubric(name, is_json=is_json, folder=settings.prompts)
            for name in settings.rubrics
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
                text = reply.text if reply else ""
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
            "prompts": {name: rubric.version for name, rubric in self._rubrics.items()},
            "served_by": sorted({reply.model for reply in self.replies.values()}),
            "bill": dataclasses.asdict(self.chat.bill),
        }

    def _request(self, name: str, case: Case, attempt: int) -> Request:
        rubric = self._rubrics[case.rubric]
        return Request(
            name=name,
            text=rubric.render(case),
            prompt_version=rubric.version,
            attempt=attempt,
            schema=rubric.schema,
        )

    def _read(self, text: str, case: Case, why: str) -> list[Verdict]:
        verdicts = READERS[case.rubric, self._reader](text, case)
        return [dataclasses.replace(v, reason=why) for v in verdicts] if why else verdicts


def _unread(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.label == "unparsed" for verdict in verdicts)


def _explain(missing: dict[int, str], total: int) -> str:
    reasons = Counter(missing.values()).most_common(5)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"{len(missing)} of {total} cases are not judged ({why})"
