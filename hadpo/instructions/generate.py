"""Instructions by a language model that reads what is known about an image: the LRV method.

Four kinds, each a prompt in `prompts/`: positive ones of ten tasks, negative ones about what is not
in the image, negative ones about what is there with a wrong property, and wrong statements about
charts. Replies are JSON, or labelled lines in the style that LRV published.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hadpo.chat import ChatModel, Prompt, Request, object_schema
from hadpo.plugins import choices
from hadpo.records import BadInput, Evidence, Instruction, Region
from hadpo.text import is_refusal, json_object

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
    """One of the prompts, and what its replies become."""

    prompt: str
    count: int  # instructions that one reply should hold
    kind: Literal["positive", "negative", "chart"]
    task: str  # of the records; "" takes the reply's
    needs: Literal["regions", "facts"] = "regions"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One instruction of a reply."""

    instruction: str
    answer: str
    task: str = ""


KINDS = {  # the counts are LRV's
    "positive": Kind(prompt="positive", count=20, kind="positive", task=""),
    "absent": Kind(prompt="negative_absent", count=6, kind="negative", task="negative"),
    "attribute": Kind(prompt="negative_attribute", count=6, kind="negative", task="negative"),
    "knowledge": Kind(prompt="knowledge", count=6, kind="chart", task="negative", needs="facts"),
}
ANSWER_WORDS = 30  # LRV's limit
_TEXT = {"type": "string"}
_ITEM = object_schema(instruction=_TEXT, answer=_TEXT, task=_TEXT)
SCHEMA = object_schema(instructions={"type": "array", "items": _ITEM})
_LABEL = re.compile(
    r"^[\s*_#>\-]*(?:\d{1,3}\s*[.):]\s*)?[\s*_#]*"  # "- ", "3. ", "**"
    r"(instruction|question|answer|reason|task)\s*\d{0,3}\s*[*_]*\s*:\s*[*_]*\s*(.*)$",
    flags=re.IGNORECASE,
)
_NAMES = {"question": "instruction", "reason": "answer"}  # the negative prompts ask for reasons
_QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019")


def requests(
    images: Iterable[Evidence], kinds: Sequence[str], *, is_json: bool, folder: Path | None = None
) -> list[Request]:
    """What a language model is asked: one request per image and kind, where something is known.

    Kind knowledge needs the facts of a chart, the others need regions. `folder` has a user's own
    prompts, by the names of ours. Raises BadInput for a kind or a prompt that is not there.
    """
    prompts = {name: _prompt(name, is_json=is_json, folder=folder) for name in kinds}
    return [
        prompts[name].request(
            f"{name}-{evidence.image_id}",
            {
                "regions": "\n".join(map(_region_line, evidence.regions)),
                "facts": "\n".join(evidence.facts),
                "count": str(KINDS[name].count),
                "tasks": ", ".join(TASKS),
                "words": str(ANSWER_WORDS),
            },
            schema=SCHEMA if is_json else None,
        )
        for evidence in images
        for name in kinds
        if getattr(evidence, KINDS[name].needs)
    ]


def generate(
    images: Sequence[Evidence],
    chat: ChatModel,
    kinds: Sequence[str],
    counts: Counter[str],
    *,
    folder: Path | None = None,
) -> list[Instruction]:
    """Ask for instructions about every image; what was answered before is not asked again.

    `counts` grows: requests, blocks, and what was rejected why. For the rest see `requests`.
    Raises Unfinished for requests that got no reply, named with the reasons; others are kept.
    """
    asked = requests(images, kinds, is_json=chat.settings.reply_format != "text", folder=folder)
    outcome = chat.ask(asked)
    outcome.refuse_missing("requests")
    counts["requests"] += len(asked)
    counts["replies refused or cut off"] += len(outcome.without)
    by_id = {evidence.image_id: evidence for evidence in images}
    records: list[Instruction] = []
    for request in asked:
        if request.name not in outcome.replies:
            continue
        name, _, image_id = request.name.partition("-")
        blocks, rejected = read_blocks(outcome.replies[request.name].said)
        counts[f"blocks: {name}"] += len(blocks)
        for why, number in rejected.items():
            counts[f"blocks rejected: {why}"] += number
        for number, block in enumerate(blocks):
            if len(block.answer.split()) > ANSWER_WORDS:
                counts[f"blocks rejected: answer of more than {ANSWER_WORDS} words"] += 1
                continue
            record = Instruction(
                instruction_id=f"{request.name}-{number}",
                image_id=image_id,
                image=by_id[image_id].image,
                instruction=block.instruction,
                answer=block.answer,
                kind=KINDS[name].kind,
                source=SOURCE,
                task=KINDS[name].task or block.task,
            )
            records.append(record)
    return records


def _prompt(name: str, *, is_json: bool, folder: Path | None) -> Prompt:
    if name not in KINDS:
        raise BadInput(f"no kind of instructions named {name!r}; {choices(name, KINDS)}")
    hint = "one of the tasks" if not KINDS[name].task else f'"{KINDS[name].task}"'
    form = PROMPTS / f"instructions.{'json' if is_json else 'lines'}.txt"
    return Prompt.read(
        (folder or PROMPTS) / f"{KINDS[name].prompt}.txt",
        format=Prompt.read(form, task_hint=hint).template,
    )


def _region_line(region: Region) -> str:
    """A region as LRV's prompts show it, its height being its height (the original's may not)."""
    return (
        f"{region.phrase} X: {region.x:g} Y: {region.y:g} "
        f"Width: {region.width:g} Height: {region.height:g}"
    )


def read_blocks(reply: str) -> tuple[list[Block], Counter[str]]:
    """The instructions of a reply, and why other blocks were rejected.

    Labels may be numbered ("3. Instruction:", "Instruction 3:"), in any case and in markdown; a
    value stands on the line of its label, or on the following ones up to an empty line. `Reason`
    is an answer. Text before the first label and after an empty line is ignored.
    """
    value = json_object(reply, "instructions")
    listed = value.get("instructions") if value else None
    pieces = listed if isinstance(listed, list) else _labelled(reply)
    blocks: list[Block] = []
    rejected: Counter[str] = Counter()
    for piece in pieces:
        fields = _fields(piece)
        if fields is None:
            rejected["no object"] += 1
        elif why := next((n for n in ("instruction", "answer") if not fields.get(n)), ""):
            rejected[f"no {why}"] += 1
        elif "twice" in fields:
            rejected["two answers"] += 1
        elif is_refusal(fields["answer"]) or is_refusal(fields["instruction"]):
            rejected["a refusal"] += 1
        else:
            names = ("instruction", "answer", "task")
            blocks.append(Block(**{name: fields.get(name, "") for name in names}))
    if not pieces:
        rejected["no block in the reply"] += 1
    return blocks, rejected


def _fields(piece: Any) -> dict[str, str] | None:
    if not isinstance(piece, dict):
        return None
    return {
        _NAMES.get(str(name).lower(), str(name).lower()): _bare(text)
        for name, text in piece.items()
        if isinstance(text, str)
    }


def _labelled(reply: str) -> list[dict[str, str]]:
    blocks: list[dict[str, str]] = []
    open_label = ""  # its value may go on in the next line
    for line in reply.splitlines():
        if match := _LABEL.match(line):
            name = _NAMES.get(match[1].lower(), match[1].lower())
            if name == "instruction" or not blocks:  # else: an answer without an instruction
                blocks.append({})
            if name in blocks[-1]:
                blocks[-1]["twice"] = name
            blocks[-1][name] = match[2].strip()
            open_label = name
        elif not line.strip() and blocks and blocks[-1].get(open_label):
            open_label = ""
        elif open_label and line.strip():
            blocks[-1][open_label] = f"{blocks[-1][open_label]} {line.strip()}".strip()
    return blocks


def _bare(text: str) -> str:
    text = text.strip().strip("*_").strip()
    for left, right in _QUOTES:
        inside = text[1:-1]
        if text.startswith(left) and text.endswith(right) and inside and left not in inside:
            return inside.strip()
    return text
