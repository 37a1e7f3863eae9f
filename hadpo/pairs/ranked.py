"""Pairs of a model's own texts, ranked and not corrected: of each image the best against the worst.

All that is known of a pair is which of its texts has the smaller share of false sentences; both are
as the model wrote them. Texts in which nothing is false are left out and counted: where there are
such texts, finetuning on them needs no pairs. What a ranker that judges sentences knows beyond the
order is kept apart, for the controls that learn from it.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hadpo.config import RANKED_CONTROLS, PrepareConfig
from hadpo.data.hadpo_pairs import INSTRUCTIONS
from hadpo.pairs.mine import Judged, description_pair, description_question
from hadpo.records import Evidence, Pair, Question, Verdict


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What ranking gives: the pairs, and the pairs of each control with chosen texts of its own.

    `sft_true`: the sentences of the chosen text that the ranker judged true; `sft_flawless`: texts
    of the same images in which nothing is false.
    """

    pairs: list[Pair] = field(default_factory=list)
    controls: Mapping[str, list[Pair]] = field(
        default_factory=lambda: {name: [] for name in RANKED_CONTROLS}
    )


@dataclass(frozen=True, kw_only=True)
class _Text:
    question: Question
    text: str
    verdicts: Sequence[Verdict]

    @property
    def false_share(self) -> float:
        """False sentences per sentence."""
        return sum(v.label == "hallucination" for v in self.verdicts) / len(self.verdicts)

    @property
    def true_sentences(self) -> str:
        """The text without what was not judged correct; its sentences in order."""
        return " ".join(f"{v.claim}." for v in self.verdicts if v.label == "correct")


def sample_questions(
    images: Sequence[Evidence], settings: PrepareConfig
) -> dict[str, list[Question]]:
    """One of HA-DPO's four requests for each image, asked several times, each with its own seed.

    Returns "sampled 1", "sampled 2", ... -> a question per image.
    """
    draw = random.Random(f"{settings.prepare_seed}/ranked")
    requests = [draw.choice(INSTRUCTIONS) for _ in images]
    return {
        f"sampled {number}": [
            description_question(image, text, "sampled", number)
            for image, text in zip(images, requests, strict=True)
        ]
        for number in range(1, settings.samples_per_image + 1)
    }


def rank(judged: Iterable[Judged], counts: Counter[str]) -> Ranked:
    """Of each image the text with the smallest share of false sentences against the largest.

    Texts without a false sentence, and those that the judge could not be read on, take no part.
    Of equal texts the earlier sample is taken. `counts` grows: why texts and images are left out.
    """
    by_image: dict[str, list[_Text]] = defaultdict(list)
    for question, text, verdicts in judged:
        if any(v.label == "unparsed" for v in verdicts):
            counts["descriptions: judge unreadable, left out"] += 1
        elif verdicts:
            one = _Text(question=question, text=text, verdicts=verdicts)
            by_image[question.image_id].append(one)
    ranked = Ranked()
    for texts in by_image.values():
        _rank_image(texts, ranked, counts)
    return ranked


def _rank_image(texts: Sequence[_Text], ranked: Ranked, counts: Counter[str]) -> None:
    """Add what the texts of one image give."""
    flawed = [text for text in texts if text.false_share > 0]
    flawless = [t for t in texts if all(v.label == "correct" for v in t.verdicts)]
    counts["descriptions: nothing false, left out"] += len(texts) - len(flawed)
    if not flawed:
        counts["images: no text with a false sentence, left out"] += 1
        return
    best = min(flawed, key=lambda text: text.false_share)
    worst = max(flawed, key=lambda text: text.false_share)
    if flawless:
        ranked.controls["sft_flawless"].append(_pair(flawless[0], worst))
    if best.false_share == worst.false_share:
        counts["images: no text better than another, left out"] += 1
        return
    pair = _pair(best, worst)
    ranked.pairs.append(pair)
    if best.true_sentences:
        ranked.controls["sft_true"].append(replace(pair, chosen=best.true_sentences))
    else:
        counts["sft_true: no true sentence in the chosen text, left out"] += 1


def _pair(chosen: _Text, rejected: _Text) -> Pair:
    pair = description_pair(chosen.question, chosen.text, rejected.text)
    return replace(pair, pair_id=f"description-{pair.image_id}")
