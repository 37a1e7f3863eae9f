"""Read instructions from a reply: JSON, or labelled lines in the style that LRV published."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hadpo.text import json_object

_LABEL = re.compile(
    r"^[\s*_#>\-]*(?:\d{1,3}\s*[.):]\s*)?[\s*_#]*"  # "- ", "3. ", "**"
    r"(instruction|question|answer|reason|task)\s*\d{0,3}\s*[*_]*\s*:\s*[*_]*\s*(.*)$",
    flags=re.IGNORECASE,
)
_NAMES = {"question": "instruction", "reason": "answer"}  # the negative prompts ask for reasons
_QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One instruction of a reply."""

    instruction: str
    answer: str
    task: str = ""


def read_blocks(reply: str) -> tuple[list[Block], Counter[str]]:
    """The instructions of a reply, and why other blocks were rejected.

    Labels may be numbered ("3. Instruction:", "Instruction 3:"), in any case and in markdown; a
    value stands on the line of its label, or on the following ones up to an empty line. `Reason`
    is an answer. Text before the first label and after an empty line is ignored.
    """
    value = json_object(reply)
    listed = value.get("instructions") if value else None
    pieces = listed if isinstance(listed, list) else _labelled(reply)
    found: list[Block] = []
    rejected: Counter[str] = Counter()
    for piece in pieces:
        fields = _fields(piece)
        if fields is None:
            rejected["no object"] += 1
        elif why := next((n for n in ("instruction", "answer") if not fields.get(n)), ""):
            rejected[f"no {why}"] += 1
        elif "twice" in fields:
            rejected["two answers"] += 1
        else:
            names = ("instruction", "answer", "task")
            found.append(Block(**{name: fields.get(name, "") for name in names}))
    if not pieces:
        rejected["no block in the reply"] += 1
    return found, rejected


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
    open_label = ""  # whose value may go on in the next line
    for line in reply.splitlines():
        if match := _LABEL.match(line):
            name = _NAMES.get(match[1].lower(), match[1].lower())
            if name == "instruction":
                blocks.append({})
            if not blocks:  # an answer without an instruction
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
