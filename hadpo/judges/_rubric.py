"""A rubric: how a judge is to rule on the claims of a case, and how its reply is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hadpo.chat import object_schema
from hadpo.records import BadInput, Case, Evidence, Label, Verdict, read_text, value_hash
from hadpo.text import fill, integer

Reader = Callable[[str, Case], list[Verdict]]  # a reply -> a verdict for each claim, in order
Item = tuple[int | None, dict[str, Any]]
Row = TypeVar("Row", bound=tuple[Any, ...])


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """One way to judge; a benchmark declares it, its `name` stands in the cases.

    The prompt has the slots {claims}, {regions}, {facts}, {question}, {case} and {format}; the
    last is filled with `lines` or `json`, the form of the reply.

    `system` is a message before it, and `images` are pictures that the model is shown with it.
    """

    name: str
    read: Reader
    read_upstream: Reader | None = None  # as the original read replies, where it published that
    prompt: str = ""  # empty: only a user's own folder has it
    lines: str = ""
    json: str = ""
    schema: Mapping[str, Any] | None = None  # of a JSON reply
    system: str | None = None
    images: Callable[[Case], tuple[Path, ...]] = lambda _: ()  # most judges see no picture
    claim: str = "{number}. {claim}"  # how each claim is shown
    regions: Callable[[Evidence], str] = lambda _: ""  # how the regions of the image are shown
    needs: tuple[str, ...] = ("claims",)  # slots that a prompt must have; "a/b": one of them
    slots: Callable[[Case], Mapping[str, str]] | None = None  # what fills other slots
    places: int = 0  # {} of an official text: they are filled with the slots, in their order
    # (oracle, case) -> what the annotations alone say; None: the oracle cannot rule on it
    by_annotations: Callable[[Any, Case], list[Verdict]] | None = None

    def reader(self, how: str) -> Reader:
        """The reader of replies: "tolerant", or "upstream" if the original published one."""
        return self.read_upstream or self.read if how == "upstream" else self.read


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The prompt of a rubric, with the form of the reply filled in."""

    rubric: Rubric
    template: str
    version: str  # hash of the template, and of the system message if there is one
    schema: Mapping[str, Any] | None  # None: the reply is lines of text

    def render(self, case: Case) -> str:
        """The prompt for one case."""
        if self.rubric.slots is not None:
            values = self.rubric.slots(case)
            if self.template.count("{}") == self.rubric.places > 0:
                return self.template.format(*values.values())
            return fill(self.template, **values)
        claims = (  # a claim with a newline inside would look like two
            self.rubric.claim.format(number=number, claim=" ".join(claim.split()))
            for number, claim in enumerate(case.claims, start=1)
        )
        return fill(
            self.template,
            regions=self.rubric.regions(case.evidence) or "(none)",
            facts="\n".join(case.evidence.facts) or "(none)",
            claims="\n".join(claims),
            question=case.question,
            case=case_mark(case),
        )


def prompt_of(rubric: Rubric, *, is_json: bool, folder: Path | None = None) -> Prompt:
    """The prompt of a rubric, its own or that of a user's folder.

    Args:
        rubric: whose.
        is_json: ask for JSON instead of lines.
        folder: has `<rubric>.txt`; a slot {format} in it is filled with our form of the reply.

    Raises:
        BadInput: no such file, or one without the slot {claims}.
    """
    text, where = rubric.prompt, f"the prompt of rubric {rubric.name}"
    if folder is not None or not text:
        path = (folder or Path()) / f"{rubric.name}.txt"
        where = str(path)
        if folder is None or not path.is_file():
            raise BadInput(
                f"{path}: no such prompt; judge_prompts names a folder that holds {path.name}"
            )
        text = read_text(path, expected="expected a prompt").strip()
    lost = [name for name in rubric.needs if not _has(text, name)]
    if lost and not text.count("{}") == rubric.places > 0:
        also = f", or the {rubric.places} {{}} of the official text" * bool(rubric.places)
        raise BadInput(
            f"{where}: no slot {{{lost[0]}}}; slots: {{regions}}, {{facts}}, {{question}}, "
            f"{{claims}}, ...{also}"
        )
    template = text.replace("{format}", rubric.json if is_json else rubric.lines)
    version = value_hash(template if rubric.system is None else f"{rubric.system}\0{template}")
    schema = rubric.schema if is_json else None
    return Prompt(rubric=rubric, template=template, version=version, schema=schema)


def _has(template: str, slots: str) -> bool:
    return any(f"{{{name}}}" in template for name in slots.split("/"))


def texts_of(folder: Path, name: str) -> dict[str, Any]:
    """`prompt`, `lines` and `json` of a rubric, from the files <name>*.txt of a folder."""
    ends = {"prompt": ".txt", "lines": ".lines.txt", "json": ".json.txt"}
    paths = {part: folder / f"{name}{end}" for part, end in ends.items()}
    return {
        part: path.read_text(encoding="utf-8").strip()
        for part, path in paths.items()
        if path.is_file()
    }


def case_mark(case: Case) -> str:
    """A short text that a JSON reply must repeat, so that it cannot be about another case."""
    content = "\n".join((case.evidence.image_id, case.question, *case.claims))
    return value_hash(content)[:8]


def items_of(value: Mapping[str, Any], name: str, case: Case, number: str) -> list[Item]:
    """The objects of the list `name` of a JSON reply, with the numbers of their claims.

    Of a reply about another case there are none. `number` is the field of the number, without which
    the place in the list counts; None: it is no number.
    """
    items = value.get(name)
    if not isinstance(items, list) or value.get("case") not in (None, case_mark(case)):
        return []
    places = enumerate(items, start=1)
    return [(integer(i.get(number, place)), i) for place, i in places if isinstance(i, dict)]


def within(rows: list[Row], case: Case) -> list[Row]:
    """The rows, which begin with the number of a claim; none if one is about no claim."""
    return rows if all(1 <= row[0] <= len(case.claims) for row in rows) else []


def verdict(case: Case, number: int, label: Label, **more: Any) -> Verdict:
    """The verdict on a claim, counted from 1; of several models' claims it says the place."""
    more |= {"place": number} if case.claim_models else {}
    claim, model = case.claims[number - 1], case.model_of(number - 1)
    return Verdict(case_id=case.case_id, model=model, claim=claim, label=label, **more)


def relative_boxes(evidence: Evidence) -> str:
    """Regions as SHR shows them: corners as fractions of the image, to two decimals, unclipped.

    Source: HA-DPO shr_eval/shr_utils.py, `get_desc`.
    """
    wide, high = evidence.width or 1, evidence.height or 1
    lines = []
    for r in evidence.regions:
        ends = (r.x / wide, r.y / high, (r.x + r.width) / wide, (r.y + r.height) / high)
        corners = ", ".join(str(round(float(end), 2)) for end in ends)
        lines.append(f"[{corners}]: {r.phrase}")
    return "\n".join(lines)


def reply_schema(name: str, **fields: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a reply: `case`, and a list `name` with an object of `fields` a claim."""
    items = {"type": "array", "items": object_schema(**fields)}
    return object_schema(**{"case": {"type": "string"}, name: items})
