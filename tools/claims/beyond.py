"""What a training changes beyond what it was for: drift from the base, and another request.

Measured for each model of a run on its test images, and kept as outcomes of benchmarks are, sums by
image: of `neutral` the drift, nats a token of KL(base || tuned) over the base's own answer to a
question that no method trains on; of `claims`, split "another request", what descriptions claim if
they are asked for in other words than HA-DPO's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

import hadpo
from hadpo import adapter, batch
from hadpo.benchmarks import Known, claims
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.mini.world import PLACES
from hadpo.records import (
    Answer,
    Evidence,
    Outcome,
    Pair,
    Question,
    read_json,
    read_jsonl,
    value_hash,
    write_jsonl,
)
from hadpo.runs import Run

REQUEST = "Please describe what you see at each place."
FILE = "beyond.jsonl"
_TOGETHER = 50  # answers that are scored at once
_LONGEST = 512  # positions of a prompt and its answer


def measure(run: Run) -> None:
    """Write `beyond.jsonl` of an evaluated run: the base, the tuned model, and its controls."""
    asked = list(read_jsonl(run.earlier("prepare", "questions.jsonl"), Question))
    described = [question for question in asked if question.benchmark == "claims"]
    neutral = [
        replace(q, benchmark="neutral", split="place", text=f"What is at the {PLACES[n % 9]}?")
        for n, q in enumerate(described)
    ]
    others = [replace(q, split="another request", text=REQUEST) for q in described]
    known = {e.image_id: e for e in read_jsonl(run.earlier("prepare", "evidence.jsonl"), Evidence)}
    path = run.earlier("prepare", "vocabulary.json")
    vocabulary = from_json(read_json(path, dict, expected="a vocabulary"), where=path)
    model = hadpo.load(run.recipe.name)
    said = model.answers(neutral, max_new_tokens=40)
    train = run.earlier("train")
    controls = sorted(train.glob("controls/*/adapter"))
    folders = {"merged": train / "adapter"} | {path.parent.name: path for path in controls}
    found = []
    for name in ("base", *folders):
        if name in folders:
            model.load_adapter(folders[name])
            drift = _drift(model, neutral, said)
            found.append(_outcome(name, neutral, {"drift": drift}))
        tallies = [
            claims.tally(
                answer, Known(question=None, evidence=known[answer.image_id], vocabulary=vocabulary)
            )
            for answer in model.answers(others, max_new_tokens=120)
        ]
        sums = {measure: [tally[measure] for tally in tallies] for measure in tallies[0]}
        found.append(_outcome(name, others, sums))
        if name in folders:
            adapter.detach(model.backbone)
    write_jsonl(run.path(FILE), found)


@torch.no_grad()
def _drift(
    model: hadpo.Model, questions: Sequence[Question], said: Sequence[Answer]
) -> list[tuple[float, float]]:
    """Of each of the base's answers KL(base || with adapter), summed over its tokens; and these."""
    backbone = model.backbone
    texts = {answer.image_id: answer.text for answer in said}
    found: list[tuple[float, float]] = []
    for start in range(0, len(questions), _TOGETHER):
        rows = []
        for question in questions[start : start + _TOGETHER]:
            pair = Pair(
                pair_id=question.question_id,
                image_id=question.image_id,
                image=question.image,
                instruction=question.text,
                chosen=texts[question.image_id],
                rejected="",
                kind="description",
                source="neutral",
            )
            rows.append(batch.tokenize(backbone, pair, max_length=_LONGEST, prompt="evaluate"))
        packed = batch.pack(rows, sides=("chosen",)).to(backbone.device)
        inputs = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))

        def logps() -> Float[Tensor, "tokens vocab"]:
            states = backbone.states(packed, inputs)  # noqa: B023 - called in this round
            return (states @ backbone.lm_head_weight.T).double().log_softmax(-1)

        tuned = logps()
        with adapter.disabled(backbone):
            base = logps()
        each = (base.exp() * (base - tuned)).sum(-1).split(packed.lengths[0].tolist())
        found += [(float(answer.sum()), float(len(answer))) for answer in each]
    return found


def _outcome(
    model: str, questions: Sequence[Question], sums: Mapping[str, Sequence[tuple[float, float]]]
) -> Outcome:
    return Outcome(
        benchmark=questions[0].benchmark,
        split=questions[0].split,
        model=model,
        questions=value_hash("\n".join(f"{q.image_id} {q.text}" for q in questions)),
        n_questions=len(questions),
        images=tuple(question.image_id for question in questions),
        sums={name: tuple(zip(*pairs, strict=True)) for name, pairs in sums.items()},  # pyright: ignore[reportArgumentType]
    )
