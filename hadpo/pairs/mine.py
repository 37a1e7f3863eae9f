"""Pairs from the model's own answers: they are judged, and what is wrong is corrected.

A description is corrected sentence by sentence, so that chosen and rejected differ in truth alone:
each false sentence is replaced by one true sentence; the others stay as the model wrote them, in
their order. Both texts have equally many sentences, so length carries no signal.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hadpo import data
from hadpo.config import PrepareConfig
from hadpo.data.hadpo_pairs import INSTRUCTIONS
from hadpo.data.pope import pope_questions
from hadpo.judges import Judge, rule_all
from hadpo.judges.oracle.vocabulary import Reading, Truth, Vocabulary, read_world, true_sentences
from hadpo.records import Answer, Case, Evidence, Pair, Question, Verdict, append_jsonl
from hadpo.text import is_refusal, sentences, words, yes_no_strict

if TYPE_CHECKING:
    from hadpo.generation import Served
    from hadpo.runs import Run
    from hadpo.vlm.backbone import Backbone

SOURCE = "mined"
BATCH_QUESTIONS = 32  # questions answered at once while mining
# Half of the questions about absent objects name usual companions of what is there: the hard ones.
SPLITS = ("adversarial", "random")
_ANSWERS = {"yes": "Yes.", "no": "No."}
Judged = tuple[Question, str, list[Verdict]]  # a description with the verdicts on its sentences


def description_questions(
    images: Sequence[Evidence], settings: PrepareConfig
) -> dict[str, list[Question]]:
    """What the model is asked to describe, by decoding: "sampled" and "greedy".

    The instruction is one of HA-DPO's four; a share of the images is described at a temperature,
    for pairs that a greedy model would not give.
    """
    draw = random.Random(f"{settings.prepare_seed}/descriptions")
    sampled = round(settings.sampled_share * len(images)) if settings.temperature > 0 else 0
    questions: dict[str, list[Question]] = {"sampled": [], "greedy": []}
    for number, evidence in enumerate(images):
        decoding = "sampled" if number < sampled else "greedy"
        questions[decoding].append(
            description_question(evidence, draw.choice(INSTRUCTIONS), decoding)
        )
    return questions


def description_question(evidence: Evidence, text: str, decoding: str, number: int = 0) -> Question:
    """A request to describe an image; of several for one image, each has a number of its own."""
    suffix = f"-{number}" if number else ""
    return data.question(
        "description", f"{evidence.image_id}{suffix}", evidence, text, split=decoding
    )


def yes_no_questions(
    images: Sequence[Evidence], known: Vocabulary, settings: PrepareConfig
) -> list[Question]:
    """POPE's questions about the images, from the objects that their annotations name."""
    objects = {e.image_id: sorted(read_world(e, known).names) for e in images}
    paths = {e.image_id: e.image for e in images}
    questions = {}
    for split in SPLITS:
        for question in pope_questions(
            objects, split=split, seed=settings.prepare_seed, image_paths=paths
        ):
            questions.setdefault((question.image_id, question.text), question)
    return list(questions.values())


def answer_all(
    path: Path,
    earlier: Iterable[Answer],
    groups: Mapping[str, Sequence[Question]],
    settings: PrepareConfig,
    load: Callable[[], "Backbone | Served"],
) -> dict[str, Answer]:
    """The model's answers by question id; none is asked for twice.

    Args:
        path: own_answers.jsonl; grows answer by answer, so a killed run goes on where it stopped.
        earlier: what it holds.
        groups: name -> questions to answer side by side. Those named "sampled" are sampled, with
            the seed; "sampled 2", "sampled 3" ... are further samples, each with the next seed.
        settings: temperature, length and seed.
        load: gives the model; called only if something is left to ask.
    """
    answers = {answer.question_id: answer for answer in earlier}
    new = {
        name: [question for question in group if question.question_id not in answers]
        for name, group in groups.items()
    }
    if not any(new.values()):
        return answers
    from hadpo.generation import Decoding, generate  # torch; published pairs need none

    backbone = load()
    for name, questions in new.items():
        kind, _, number = name.partition(" ")
        decoding = Decoding(
            name=name,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature if kind == "sampled" else 0.0,
            seed=settings.prepare_seed + int(number if number.isdigit() else 1) - 1,
        )
        generated = generate(
            backbone,
            questions,
            decoding,
            prompt="train",
            batch_questions=BATCH_QUESTIONS,
            model="base",
        )
        answers |= {answer.question_id: answer for answer in append_jsonl(path, generated)}
    return answers


def answering_base(run: "Run") -> "Backbone | Served":
    """The model that the recipe starts from, here or on a server, to answer questions."""
    model = run.recipe.model
    if model is None or model.engine == "local":
        return load_base(run)
    from hadpo.generation import REPLIES, Served

    return Served(model, "base", run.path(REPLIES), run.note)


def load_base(run: "Run") -> "Backbone":
    """The model that the recipe starts from."""
    from hadpo import backbones  # torch; published pairs need none

    return backbones.load_for(run.recipe, backbones.files_of(run.recipe, run.resolve))


def description_pairs(
    judged: Iterable[Judged],
    evidence: Mapping[str, Evidence],
    known: Vocabulary,
    counts: Counter[str],
) -> Iterator[Pair]:
    """A pair for each description with a false sentence; `counts` says why others are left out."""
    for question, text, verdicts in judged:
        if all(v.label != "hallucination" for v in verdicts):
            counts["descriptions: nothing false, left out"] += 1
            continue
        truths = true_sentences(evidence[question.image_id], known)
        chosen = correct_description(text, verdicts, truths, known)
        if chosen is None:
            counts["descriptions: no true sentence to put in, left out"] += 1
            continue
        yield description_pair(question, chosen, text)


def judge_descriptions(
    questions: Iterable[Question],
    answers: Mapping[str, Answer],
    evidence: Mapping[str, Evidence],
    judge: Judge,
    counts: Counter[str],
) -> list[Judged]:
    """Each whole description with the verdicts on its sentences; counts them. Raises Unfinished."""
    described = list(complete_descriptions(questions, answers, counts))
    cases = [
        Case(
            case_id=question.question_id,
            model=answer.model,
            claims=claims,
            evidence=evidence[question.image_id],
        )
        for question, answer in described
        if (claims := tuple(sentences(answer.text)))
    ]
    rulings: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in rule_all(judge, cases):
        rulings[verdict.case_id].append(verdict)
        counts["sentences"] += 1
        counts[f"sentences: {verdict.label} {verdict.kind}".strip()] += 1
    return [
        (question, answer.text, rulings[question.question_id]) for question, answer in described
    ]


def complete_descriptions(
    questions: Iterable[Question], answers: Mapping[str, Answer], counts: Counter[str]
) -> Iterator[tuple[Question, Answer]]:
    """The descriptions that are whole, and no refusals; others are counted."""
    for question in questions:
        answer = answers[question.question_id]
        counts["descriptions"] += 1
        if answer.finish == "length":
            counts["descriptions: not finished, left out"] += 1
        elif not answer.text.strip() or is_refusal(answer.text):
            counts["descriptions: empty or a refusal, left out"] += 1
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

    Questions that it got right fill up the number, the other answer being the rejected one. Both
    texts are the bare "Yes." and "No.", so that they differ in truth alone.
    """
    wrong: dict[str, list[Question]] = {"yes": [], "no": []}
    right: dict[str, list[Question]] = {"yes": [], "no": []}
    for question in questions:
        counts["questions"] += 1
        answer = yes_no_strict(answers[question.question_id].text)
        if answer is None or question.label is None:
            counts["questions: answer neither yes nor no, left out"] += 1
            continue
        (right if answer == question.label else wrong)[question.label].append(question)
    half = min(settings.yes_no_pairs // 2, *(len(wrong[k]) + len(right[k]) for k in wrong))
    draw = random.Random(f"{settings.prepare_seed}/questions")
    pairs: list[Pair] = []
    for label in ("yes", "no"):
        for group in (wrong[label], right[label]):
            draw.shuffle(group)
        first = [*wrong[label], *right[label]][:half]
        counts[f"questions: truth {label}, answered wrong"] = len(wrong[label])
        counts[f"pairs: truth {label}, the model was wrong"] = min(half, len(wrong[label]))
        counts[f"pairs: truth {label}, the model was right"] = max(0, half - len(wrong[label]))
        pairs += [_yes_no_pair(question, label) for question in first]
    draw.shuffle(pairs)
    return pairs


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


def correct_description(
    description: str,
    verdicts: Sequence[Verdict],
    truths: Sequence[Truth],
    known: Vocabulary,
) -> str | None:
    """The description with its false sentences replaced by true ones; None if truths run out.

    A wrong scene is replaced by the right one. Else the replacement speaks of the same place if the
    vocabulary's sentences name places (so the reading order stays), else of the same object (a
    wrong attribute is corrected), else of an object that the description misses, else it is a fact.
    A sentence that repeats an earlier one is treated like it. `verdicts` are one per sentence of
    `text.sentences(description)`.
    """
    rulings = dict(zip(sentences(description), verdicts, strict=True))
    wrong = {s for s, verdict in rulings.items() if verdict.label == "hallucination"}
    used = {tuple(words(s)) for s in rulings if s not in wrong}
    named = {name for s in rulings if s not in wrong for name in known.read(s).names}
    replacement: dict[str, str] = {}
    for sentence in rulings:
        if sentence not in wrong:
            continue
        unused = [truth for truth in truths if tuple(words(truth.text)) not in used]
        if not unused:
            return None
        best = _best(known.read(sentence), unused, named, known.places)
        used.add(tuple(words(best.text)))
        named |= best.reading.names
        replacement[sentence] = best.text.rstrip(".")
    text = replace_sentences(description, list(rulings), replacement)
    return text if len(sentences(text)) == len(rulings) else None


def _best(claim: Reading, truths: Sequence[Truth], named: set[str], slots: frozenset[str]) -> Truth:
    def attributes(reading: Reading) -> set[tuple[str, str]]:
        return {*reading.loose, *(a for m in reading.mentions for a in m.attributes)}

    place = {(group, value) for group, value in attributes(claim) if group in slots}
    objects = {mention.name for mention in claim.mentions}

    def rank(truth: Truth) -> tuple[int, ...]:
        about = truth.reading.names
        same_sort = bool(claim.scenes) == bool(truth.reading.scenes)
        same_place = len(place & attributes(truth.reading))
        misses = bool(about) and not about & named
        return (
            int(same_sort),
            same_place,
            len(objects & about),
            int(misses),
            -int(bool(about & named)),
        )

    return max(truths, key=rank)


def replace_sentences(
    description: str, claims: Sequence[str], replacement: Mapping[str, str]
) -> str:
    """Replace sentences among `claims`, without their period, and what repeats them."""
    pieces = []
    for piece in description.split("."):
        core = piece.strip()
        first = next((s for s in claims if core and core in s), "")
        if first in replacement:
            piece = piece.replace(core, replacement[first])
        pieces.append(piece)
    return ".".join(pieces)
