"""Texts up close: a judged description, a pair's differing words, the packed row as it is read."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo import judges
from hadpo.batch import Packed
from hadpo.classroom.evidence import known_images, oracle_of, own_descriptions
from hadpo.figures import Card, Figure, hallucination_card, strip_picture
from hadpo.records import Case, Pair, Verdict, read_jsonl
from hadpo.runs import Run
from hadpo.text import sentences
from hadpo.vlm.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Described:
    """A description by the untrained model, with the oracle's verdicts."""

    card: Card
    verdicts: list[Verdict]

    @property
    def wrong(self) -> int:
        """How many of the sentences are wrong."""
        return sum(verdict.label == "hallucination" for verdict in self.verdicts)

    def _repr_html_(self) -> str:
        return self.card._repr_html_()


def described(prepare: Run) -> Described:
    """Of the first twenty descriptions, the one with most wrong sentences, judged."""
    known, judge = known_images(prepare), oracle_of(prepare)
    cases = [
        Case(
            case_id=answer.question_id,
            model="base",
            claims=tuple(sentences(answer.text)),
            evidence=known[answer.image_id],
        )
        for answer, _ in zip(own_descriptions(prepare), range(20), strict=False)
    ]
    ruled = [(case, judges.rule_all(judge, [case])) for case in cases]
    worst, verdicts = max(ruled, key=lambda r: sum(v.label == "hallucination" for v in r[1]))
    evidence = worst.evidence
    there = ", ".join(sorted(judge.world(evidence).names))
    card = hallucination_card(
        evidence.image,
        verdicts,
        models=("base",),
        title=f"What the model says of image {evidence.image_id}; on it: {there}",
        is_mini=prepare.is_mini,
    )
    return Described(card, verdicts)


def differing_words(pair: Pair) -> int:
    """How many words of the rejected text are marked: not in the chosen one at their place."""
    chosen, rejected = pair.chosen.split(), pair.rejected.split()
    matcher = difflib.SequenceMatcher(a=chosen, b=rejected, autojunk=False)
    return len(rejected) - sum(block.size for block in matcher.get_matching_blocks())


def token_strip(model: Backbone, packed: Packed, *, row: int = 0, is_mini: bool) -> Figure:
    """One packed row as coloured pieces, each with the text that its ids mean."""
    chosen, rejected = (int(n) for n in packed.lengths[:, row])
    length = int(packed.positions[row].max()) + 1
    prefix = length - max(chosen, rejected)
    ids = packed.ids[row].tolist()[: prefix + chosen + rejected]
    names = {number: mark for mark, number in model.tokenizer.special_ids.items()}
    pieces = [names.get(i) or model.tokenizer.decode([i]) if i >= 0 else "" for i in ids]
    parts = {"prefix": prefix, "chosen": chosen, "rejected": rejected}
    is_image = [i < 0 for i in ids]
    return strip_picture(pieces, parts, is_image, is_mini=is_mini)


def falls_further(steps: Sequence[Mapping[str, Any]]) -> str:
    """Whose log-probability ends lower, compared with the first step: "chosen" or "rejected"."""
    own = [step["metrics"] for step in steps if step["objective"] == "dpo"]
    change = {
        name: own[-1][f"logps/{name}"] - own[0][f"logps/{name}"] for name in ("chosen", "rejected")
    }
    return min(change, key=lambda name: change[name])


def gained(evaluated: Path, case_id: str) -> int:
    """How many fewer sentences of an answer are wrong after tuning."""
    wrong = {"base": 0, "merged": 0}
    for verdict in read_jsonl(evaluated / "verdicts.jsonl", Verdict):
        if verdict.case_id == case_id and verdict.model in wrong:
            wrong[verdict.model] += verdict.label == "hallucination"
    return wrong["base"] - wrong["merged"]
