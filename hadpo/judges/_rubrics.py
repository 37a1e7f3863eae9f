"""Rubrics: the prompt that a judge is given for a case, from text files that are hashed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo.records import BadInput, Case, Evidence, value_hash
from hadpo.text import fill

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """A prompt with its slots, and the form of the reply."""

    name: str
    template: str
    version: str  # hash of its files
    schema: Mapping[str, Any] | None  # of a JSON reply; None: the reply is lines of text

    def render(self, case: Case) -> str:
        """The prompt for one case."""
        return fill(
            self.template,
            regions=_REGIONS[self.name](case.evidence) or "(none)",
            facts="\n".join(case.evidence.facts) or "(none)",
            claims=_CLAIMS[self.name](case),
            question=case.question,
            case=case_mark(case),
        )


def case_mark(case: Case) -> str:
    """A short text that a JSON reply must repeat, so that it cannot be about another case."""
    content = "\n".join((case.evidence.image_id, case.question, *case.claims))
    return value_hash(content)[:8]


def read_rubric(name: str, *, is_json: bool, folder: Path | None = None) -> Rubric:
    """The rubric `name`, ours or that of a user's own folder.

    Args:
        name: shr, gavie or gqa.
        is_json: ask for JSON instead of lines.
        folder: has `<name>.txt`; a slot {format} in it is filled with our description of the form.

    Raises:
        BadInput: no such file, or one without the slot {claims}.
    """
    path = (folder or PROMPTS) / f"{name}.txt"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such prompt; judge_prompts names a folder that holds {name}.txt"
        )
    text = path.read_text(encoding="utf-8").strip()
    if "{claims}" not in text:
        raise BadInput(
            f"{path}: no slot {{claims}}; slots: {{regions}}, {{facts}}, {{claims}}, ..."
        )
    kind = "json" if is_json else "lines"
    form = (PROMPTS / f"{name}.{kind}.txt").read_text(encoding="utf-8").strip()
    template = text.replace("{format}", form)
    version = value_hash(template)
    schema = SCHEMAS[name] if is_json else None
    return Rubric(name=name, template=template, version=version, schema=schema)


def relative_boxes(evidence: Evidence) -> str:
    """Regions as SHR shows them: corners as fractions of the image, to two decimals, unclipped.

    Source: HA-DPO shr_eval/shr_utils.py, `get_desc`.
    """
    wide, high = evidence.width or 1, evidence.height or 1
    lines = []
    for region in evidence.regions:
        corners = (
            round(float(region.x / wide), 2),
            round(float(region.y / high), 2),
            round(float((region.x + region.width) / wide), 2),
            round(float((region.y + region.height) / high), 2),
        )
        lines.append(f"[{', '.join(map(str, corners))}]: {region.phrase}")
    return "\n".join(lines)


def pixel_boxes(evidence: Evidence) -> str:
    """Regions as GAVIE shows them: caption, corner and size in pixels."""
    return "\n".join(
        f"{r.phrase} X:{r.x:g} Y:{r.y:g} Width:{r.width:g} Height:{r.height:g}"
        for r in evidence.regions
    )


def _numbered(case: Case) -> str:
    # A sentence with a newline inside would look like two.
    return "\n".join(f"{i}. {' '.join(c.split())}" for i, c in enumerate(case.claims, start=1))


def _answers(case: Case) -> str:
    return "\n".join(f"Answer{i}: {' '.join(c.split())}" for i, c in enumerate(case.claims, 1))


def _students(case: Case) -> str:
    return "\n".join(
        f"Student Answer{i}: {' '.join(c.split())}" for i, c in enumerate(case.claims, 1)
    )


def _no_regions(evidence: Evidence) -> str:
    return ""  # an examiner goes by the right answer


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_LABELS = {"type": "string", "enum": ["hallucination", "correct", "cannot judge"]}
_VERDICT = _object(number={"type": "integer"}, label=_LABELS, reason=_TEXT)
_SCORE = _object(
    answer={"type": "integer"},
    relevancy=_NUMBER,
    relevancy_reason=_TEXT,
    accuracy=_NUMBER,
    accuracy_reason=_TEXT,
)
_MARK = _object(
    answer={"type": "integer"},
    mark={"type": "string", "enum": ["correct", "incorrect"]},
    reason=_TEXT,
)
SCHEMAS: dict[str, dict[str, Any]] = {
    "shr": _object(case=_TEXT, verdicts={"type": "array", "items": _VERDICT}),
    "gavie": _object(case=_TEXT, scores={"type": "array", "items": _SCORE}),
    "gqa": _object(case=_TEXT, marks={"type": "array", "items": _MARK}),
}
_REGIONS: dict[str, Callable[[Evidence], str]] = {
    "shr": relative_boxes,
    "gavie": pixel_boxes,
    "gqa": _no_regions,
}
_CLAIMS: dict[str, Callable[[Case], str]] = {
    "shr": _numbered,
    "gavie": _answers,
    "gqa": _students,
}
