"""Instructions by a language model that reads what is known about an image: the LRV method.

Four kinds, each a prompt in `prompts/`: positive ones of ten tasks, negative ones about what is not
there, negative ones about what is there with a wrong property, and wrong statements about charts.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hadpo.chat import ChatModel, Request
from hadpo.instructions.blocks import Block, read_blocks
from hadpo.judges import Unfinished
from hadpo.records import BadInput, Evidence, Instruction, value_hash
from hadpo.text import filled

PROMPTS = Path(__file__).parent / "prompts"
SOURCE = "generated"
# The names of LRV-Instruction's public prompt (prompts/positive_generation_prompt.txt).
TASKS = (
    *("image captioning", "image sentiment analysis", "activity recognition"),
    *("object interaction analysis", "object attribute detection", "multi-choice VQA"),
    *("visual entailment", "visual commonsense reasoning", "styled image caption"),
    "referential expression grounding",
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the prompts, and what becomes of its replies."""

    prompt: str
    count: int  # instructions that one reply should hold
    kind: Literal["positive", "negative", "chart"]
    task: str  # of the records; "" takes the reply's
    needs: Literal["regions", "facts"] = "regions"


KINDS = {  # the counts are LRV's
    "positive": Kind(prompt="positive", count=20, kind="positive", task=""),
    "absent": Kind(prompt="negative_absent", count=6, kind="negative", task="negative"),
    "attribute": Kind(prompt="negative_attribute", count=6, kind="negative", task="negative"),
    "knowledge": Kind(prompt="knowledge", count=6, kind="chart", task="negative", needs="facts"),
}
ANSWER_WORDS = 30  # LRV's limit
_TEXT = {"type": "string"}
_ITEM = {
    "type": "object",
    "properties": {"instruction": _TEXT, "answer": _TEXT, "task": _TEXT},
    "required": ["instruction", "answer", "task"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"instructions": {"type": "array", "items": _ITEM}},
    "required": ["instructions"],
    "additionalProperties": False,
}


def requests(
    images: Iterable[Evidence], kinds: Sequence[str], *, is_json: bool, folder: Path | None = None
) -> list[Request]:
    """What a language model is asked: one request per image and kind, where something is known.

    Args:
        images: with regions, or, for kind knowledge, with the facts of a chart.
        kinds: names of `KINDS`.
        is_json: ask for JSON instead of labelled lines.
        folder: a user's own prompts, by the names of ours.

    Raises:
        BadInput: no such kind, or no such prompt.
    """
    templates = {name: _template(name, is_json=is_json, folder=folder) for name in kinds}
    found = []
    for evidence in images:
        for name in kinds:
            if not getattr(evidence, KINDS[name].needs):
                continue
            template = templates[name]
            text = filled(
                template,
                regions="\n".join(map(_line, evidence.regions)),
                facts="\n".join(evidence.facts),
                count=str(KINDS[name].count),
                tasks=", ".join(TASKS),
                words=str(ANSWER_WORDS),
            )
            found.append(
                Request(
                    name=f"{name}-{evidence.image_id}",
                    text=text,
                    prompt_version=value_hash(template),
                    schema=SCHEMA if is_json else None,
                )
            )
    return found


def generate(
    images: Sequence[Evidence],
    chat: ChatModel,
    kinds: Sequence[str],
    counts: Counter[str],
    *,
    folder: Path | None = None,
) -> list[Instruction]:
    """Ask for instructions about every image; what was answered before is not asked again.

    Args:
        images: what is known.
        chat: the language model; its cache makes this resumable, its settings bound the cost.
        kinds: names of `KINDS`.
        counts: grows: requests, blocks, and what was rejected why.
        folder: a user's own prompts.

    Raises:
        BadInput: no such kind, or no such prompt.
        Unfinished: requests that got no reply, named with the reasons; the others are kept.
    """
    asked = requests(images, kinds, is_json=chat.settings.reply_format != "text", folder=folder)
    outcome = chat.ask(asked)
    if outcome.missing:
        why = "; ".join(f"{n} x {w}" for w, n in Counter(outcome.missing.values()).most_common(3))
        raise Unfinished(
            f"{len(outcome.missing)} of {len(asked)} requests got no reply ({why}); nothing that "
            "was paid for is lost, the same command goes on from there"
        )
    counts["requests"] += len(asked)
    counts["replies refused or cut off"] += len(outcome.without)
    by_id = {evidence.image_id: evidence for evidence in images}
    found: list[Instruction] = []
    for request in asked:
        if request.name not in outcome.replies:
            continue
        name, _, image_id = request.name.partition("-")
        blocks, rejected = read_blocks(outcome.replies[request.name].text)
        counts[f"blocks: {name}"] += len(blocks)
        for why, number in rejected.items():
            counts[f"blocks rejected: {why}"] += number
        for number, block in enumerate(blocks):
            if len(block.answer.split()) > ANSWER_WORDS:
                counts[f"blocks rejected: answer of more than {ANSWER_WORDS} words"] += 1
                continue
            found.append(_record(block, KINDS[name], f"{request.name}-{number}", by_id[image_id]))
    return found


def _template(name: str, *, is_json: bool, folder: Path | None) -> str:
    from hadpo.plugins import choices

    if name not in KINDS:
        raise BadInput(f"no kind of instructions named {name!r}; {choices(name, KINDS)}")
    path = (folder or PROMPTS) / f"{KINDS[name].prompt}.txt"
    if not path.is_file():
        raise BadInput(f"{path}: no such prompt")
    form = PROMPTS / f"instructions.{'json' if is_json else 'lines'}.txt"
    hint = "one of the tasks" if not KINDS[name].task else f'"{KINDS[name].task}"'
    text = form.read_text(encoding="utf-8").strip().replace("{task_hint}", hint)
    return path.read_text(encoding="utf-8").strip().replace("{format}", text)


def _line(region: Any) -> str:
    """A region as LRV's prompts show it, its height being its height (the original's may not)."""
    return (
        f"{region.phrase} X: {region.x:g} Y: {region.y:g} "
        f"Width: {region.width:g} Height: {region.height:g}"
    )


def _record(block: Block, kind: Kind, key: str, evidence: Evidence) -> Instruction:
    return Instruction(
        instruction_id=key,
        image_id=evidence.image_id,
        image=evidence.image,
        instruction=block.instruction,
        answer=block.answer,
        kind=kind.kind,
        source=SOURCE,
        task=kind.task or block.task,
    )
