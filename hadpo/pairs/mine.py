"""Pairs from the model's own answers: what it says is judged, and what is wrong is put right."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hadpo.config import PrepareConfig
from hadpo.data.hadpo_pairs import INSTRUCTIONS
from hadpo.data.pope_questions import pope_questions
from hadpo.judges import oracle
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.judges.oracle.world import read_world, true_sentences
from hadpo.pairs.correct import corrected
from hadpo.records import Answer, Case, Evidence, Pair, Question, drop_torn_end, read_jsonl, to_json
from hadpo.text import sentences, yes_no_strict

if TYPE_CHECKING:
    from hadpo.vlm.backbone import Backbone

SOURCE = "mined"
BATCH_QUESTIONS = 32  # questions answered at once while mining
# Half of the questions about absent objects name usual companions of what is there: the hard ones.
SPLITS = ("adversarial", "random")
_ANSWERS = {"yes": "Yes.", "no": "No."}


def description_questions(
    images: Sequence[Evidence], settings: PrepareConfig
) -> dict[str, list[Question]]:
    """What the model is asked to describe, by decoding: "sampled" and "greedy".

    The instruction is one of HA-DPO's four; a share of the images is described at a temperature,
    for pairs that a greedy model would not give.
    """
    draw = random.Random(f"{settings.prepare_seed}/descriptions")
    sampled = round(settings.sampled_share * len(images)) if settings.temperature > 0 else 0
    found: dict[str, list[Question]] = {"sampled": [], "greedy": []}
    for number, evidence in enumerate(images):
        decoding = "sampled" if number < sampled else "greedy"
        found[decoding].append(
            Question(
                question_id=f"description-{evidence.image_id}",
                benchmark="description",
                split=decoding,
                image_id=evidence.image_id,
                image=evidence.image,
                text=draw.choice(INSTRUCTIONS),
            )
        )
    return found


def yes_no_questions(
    images: Sequence[Evidence], known: Vocabulary, settings: PrepareConfig
) -> list[Question]:
    """POPE's questions about the images, from the objects that their annotations name."""
    objects = {e.image_id: sorted(read_world(e, known).names) for e in images}
    paths = {e.image_id: e.image for e in images}
    found = {}
    for split in SPLITS:
        for question in pope_questions(
            objects, split=split, seed=settings.prepare_seed, image_paths=paths
        ):
            found.setdefault((question.image_id, question.text), question)
    return list(found.values())


def answer_all(
    path: Path,
    asked: Mapping[str, Sequence[Question]],
    settings: PrepareConfig,
    load: Callable[[], "Backbone"],
) -> dict[str, Answer]:
    """The model's answers by question id, kept in `path`; what it holds is not asked again.

    Args:
        path: own_answers.jsonl; grows answer by answer, so a killed run goes on where it stopped.
        asked: name -> questions to answer side by side; those named "sampled" are sampled.
        settings: temperature, length and seed.
        load: gives the model; called only if something is left to ask.
    """
    found = kept_answers(path)
    left = {name: [q for q in some if q.question_id not in found] for name, some in asked.items()}
    if not any(left.values()):
        return found
    from hadpo.generation import Decoding, generate  # torch; published pairs need none

    backbone = load()
    with path.open("a", encoding="utf-8") as file:
        for name, questions in left.items():
            decoding = Decoding(
                name=name,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature if name == "sampled" else 0.0,
                seed=settings.prepare_seed,
            )
            for answer in generate(
                backbone,
                questions,
                decoding,
                prompt="train",
                batch_questions=BATCH_QUESTIONS,
                model="base",
            ):
                file.write(to_json(answer) + "\n")
                file.flush()
                found[answer.question_id] = answer
    return found


def kept_answers(path: Path) -> dict[str, Answer]:
    """Answers of an earlier start by question id; a line that a killed writer tore is cut off."""
    drop_torn_end(path)
    if not path.is_file():
        return {}
    return {answer.question_id: answer for answer in read_jsonl(path, Answer)}


def description_pairs(
    questions: Iterable[Question],
    answers: Mapping[str, Answer],
    evidence: Mapping[str, Evidence],
    known: Vocabulary,
    counts: Counter[str],
) -> Iterator[Pair]:
    """A pair per description with a false sentence; `counts` tells what became of the others."""
    judge = oracle.make(vocabulary=known)
    for question, answer in finished(questions, answers, counts):
        there = evidence[question.image_id]
        case = Case(
            case_id=answer.question_id,
            model=answer.model,
            claims=tuple(sentences(answer.text)),
            evidence=there,
        )
        verdicts = judge.rule(case)
        counts["sentences"] += len(verdicts)
        counts.update(f"sentences: {v.label} {v.kind}".strip() for v in verdicts)
        if all(v.label != "hallucination" for v in verdicts):
            counts["descriptions: nothing false, left out"] += 1
            continue
        chosen = corrected(answer.text, verdicts, true_sentences(there, known), known)
        if chosen is None:
            counts["descriptions: no true sentence to put in, left out"] += 1
            continue
        yield description_pair(question, chosen, answer.text)


def finished(
    questions: Iterable[Question], answers: Mapping[str, Answer], counts: Counter[str]
) -> Iterator[tuple[Question, Answer]]:
    """The descriptions that came to an end; the others are counted."""
    for question in questions:
        answer = answers[question.question_id]
        counts["descriptions"] += 1
        if answer.finish == "length":
            counts["descriptions: not finished, left out"] += 1
        else:
            yield question, answer


def description_pair(question: Question, chosen: str, rejected: str) -> Pair:
    """A pair of two descriptions of the question's image."""
    return Pair(
        pair_id=question.question_id,
        image_id=question.image_id,
        image=question.image,
        instruction=question.text,
        chosen=chosen,
        rejected=rejected,
        kind="description",
        source=SOURCE,
    )


def yes_no_pairs(
    questions: Iterable[Question],
    answers: Mapping[str, Answer],
    settings: PrepareConfig,
    counts: Counter[str],
) -> list[Pair]:
    """As many pairs whose truth is yes as pairs whose truth is no, the model's mistakes first.

    Filled up with questions it got right, the other answer being the rejected one. Both texts are
    the bare "Yes." and "No.", so that nothing but the truth tells them apart.
    """
    wrong: dict[str, list[Question]] = {"yes": [], "no": []}
    right: dict[str, list[Question]] = {"yes": [], "no": []}
    for question in questions:
        counts["questions"] += 1
        said = yes_no_strict(answers[question.question_id].text)
        if said is None or question.label is None:
            counts["questions: answer neither yes nor no, left out"] += 1
            continue
        (right if said == question.label else wrong)[question.label].append(question)
    half = min(settings.yes_no_pairs // 2, *(len(wrong[k]) + len(right[k]) for k in wrong))
    draw = random.Random(f"{settings.prepare_seed}/questions")
    found: list[Pair] = []
    for label in ("yes", "no"):
        for group in (wrong[label], right[label]):
            draw.shuffle(group)
        some = [*wrong[label], *right[label]][:half]
        counts[f"questions: truth {label}, answered wrong"] = len(wrong[label])
        counts[f"pairs: truth {label}, the model was wrong"] = min(half, len(wrong[label]))
        counts[f"pairs: truth {label}, the model was right"] = max(0, half - len(wrong[label]))
        found += [_yes_no_pair(question, label) for question in some]
    draw.shuffle(found)
    return found


def _yes_no_pair(question: Question, label: str) -> Pair:
    other = "no" if label == "yes" else "yes"
    return Pair(
        pair_id=f"{question.question_id}-{question.image_id}",
        image_id=question.image_id,
        image=question.image,
        instruction=question.text,
        chosen=_ANSWERS[label],
        rejected=_ANSWERS[other],
        kind="pope",
        source=SOURCE,
    )
