"""`runs/<name>/index.html`: a run on one page, the result first; made again from its files.

The page is one file without scripts: what it shows lies inside, and it asks no host.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jinja2

from hadpo import config, figures, tables
from hadpo.plugins import choices
from hadpo.records import Answer, BadInput, read_jsonl, write_text
from hadpo.runs import Manifest, list_manifests, read_manifest, stage_folder
from hadpo.runs.parameters import effective
from hadpo.runs.report import STYLE

_FOLDER = Path(__file__).parent
_LEFT_OUT = re.compile(r"broken|missing|not there|without|trained on and evaluated")
_KINDS = ("description", "pope")  # of pairs
Made = TypeVar("Made")


@dataclass
class Page:
    """The page of a run: where it lies, its table, what it warns of and what it lacks."""

    path: Path
    lacks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    headline: tables.Table | None = None

    def attempt(self, what: str, make: Callable[[], Made]) -> Made | None:
        """What `make` gives; if the run has not the files for it, None, and `lacks` says why."""
        try:
            return make()
        except BadInput as error:
            self.lacks.append(f"{what}: {error}")
            return None


@dataclass(frozen=True)
class Stage:
    """A stage as the page shows it."""

    manifest: Manifest
    link: str  # to its report, from the page; "": it has none
    settings: list[dict[str, Any]]
    costs: str  # "": no language model was asked

    @property
    def time(self) -> str:
        """How long it took, summed over restarts."""
        seconds = self.manifest.duration_seconds
        return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds:.0f} s"

    @property
    def memory(self) -> str:
        """Its largest memory, of the process and of the device."""
        sizes = (
            (self.manifest.peak_memory_bytes, "RAM"),
            (self.manifest.peak_device_memory_bytes, "GPU"),
        )
        return ", ".join(f"{size / 1e9:.1f} GB {kind}" for size, kind in sizes if size) or "-"


def write(name: str, runs_folder: Path) -> Page:
    """Write `runs/<name>/index.html` from what the run's stages have left so far.

    Raises:
        BadInput: no such run.
    """
    known = list(list_manifests(runs_folder))
    own = {m.stage: m for m in known if m.name == name}
    if not own:
        names = {m.name for m in known}
        raise BadInput(f"no run {name!r} in {runs_folder}; {choices(name, names)}")
    folder = runs_folder / name
    page = Page(folder / "index.html")
    manifests = {s: m for s in config.SECTIONS if (m := _manifest(own, s, name, runs_folder))}
    stages = [_stage(m, folder, runs_folder) for m in manifests.values()]
    compared = manifests["compare"].settings.get("compare", {}) if "compare" in manifests else {}
    names = config.names(compared.get("run_names", "")) or [name]
    results: list[tables.RunResults] = []
    if "evaluate" in manifests or names != [name]:
        found = page.attempt(
            "results", lambda: [tables.read_results(each, runs_folder) for each in names]
        )
        results = found or []
    else:
        page.lacks.append("results: stage evaluate has not been run")
    figure = cards = None
    if results:
        page.headline, whole = tables.headline(results)
        folders = [results[0].folders[stage] for stage in ("evaluate", "prepare")]
        figure = page.attempt("figure", lambda: figures.dumbbell(whole))
        cards = page.attempt(
            "cards", lambda: figures.hallucination_cards(*folders, count=1, median=True)
        )
    cards = cards or figures.Pictures(())
    page.lacks += [f"cards: {text}" for text in cards.missing]
    page.warnings = _warnings(manifests, results)
    systems = config.names(compared.get("reported", ""))
    only = compared.get("reported_backbone", "")
    published = page.attempt("published", lambda: tables.read_reported(systems, backbone=only))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    first = next(iter(manifests.values()))
    is_mini = any(m.is_mini for m in manifests.values())
    text = environment.get_template("index.html.j2").render(
        name=name,
        recipe=first.recipe,
        mini=tables.MINI if is_mini else "",
        style=STYLE.read_text(encoding="utf-8"),
        warnings=page.warnings,
        headline=page.headline,
        figure=figure._repr_html_() if figure else "",
        cards=[card._repr_html_() for card in cards.pictures],
        story=_story(manifests),
        stages=stages,
        published=tables.reported_tables(published or ()),
        why=_why(is_mini, bool(results)),
        lacks=page.lacks,
        joined=(folder / "report.html").is_file(),
        last=list(manifests.values())[-1],
    )
    if not page.path.is_file() or page.path.read_text(encoding="utf-8") != text:
        write_text(page.path, text)
    return page


def _manifest(
    own: Mapping[str, Manifest], stage: str, name: str, runs_folder: Path
) -> Manifest | None:
    """The stage's manifest, of this run or of the one that it was started from."""
    if stage in own:
        return own[stage]
    for manifest in own.values():
        place = stage_folder(runs_folder, name, stage, manifest.earlier)
        if manifest.earlier and stage in manifest.parents:
            return read_manifest(place)
    return None


def _stage(manifest: Manifest, folder: Path, runs_folder: Path) -> Stage:
    place = runs_folder / manifest.name / manifest.stage
    there = [n for n in ("report.html", "notebook.ipynb") if (place / n).is_file()]
    start = "" if manifest.name == folder.name else f"../{manifest.name}/"
    link = f"{start}{manifest.stage}/{there[0]}" if there else ""
    settings = effective(manifest.settings, manifest.stage, manifest.overrides)
    texts = []  # what language models were asked and cost
    for who in ("judge", "corrector"):
        bill = (manifest.facts.get(who) or {}).get("bill", {})
        if bill:
            tokens = bill.get("input_tokens", 0) + bill.get("output_tokens", 0)
            texts.append(
                f"{who}: {bill.get('asked', 0):,} requests, {bill.get('cached', 0):,} of them "
                f"kept before, {tokens:,} tokens, ${bill.get('cost_usd', 0):.2f}"
            )
    return Stage(manifest, link, settings, "; ".join(texts))


def _warnings(manifests: Mapping[str, Manifest], results: Sequence[tables.RunResults]) -> list[str]:
    """What a reader must know before the first number; the worst first."""
    found = []
    for stage, manifest in manifests.items():
        if manifest.status != "done":
            error = f": {manifest.error}" if manifest.error else ""
            found.append(f"Stage {stage} is {manifest.status}{error}.")
        for parent, run_id in manifest.parents.items():
            now = manifests.get(parent)
            if now is not None and now.run_id != run_id:
                found.append(
                    f"Stage {stage} was made from another {parent} than the one that lies here; "
                    f"redo it: hadpo stage {stage} {manifest.recipe} --name {manifest.name} --force"
                )
        found += [str(text) for text in manifest.facts.get("warnings", ())]
        for what, count in manifest.facts.get("counts", {}).items():
            if count and _LEFT_OUT.search(what):
                found.append(f"Stage {stage}: {count:,} {what}.")
        for what, count in (manifest.facts.get("skipped_updates") or {}).items():
            if count:
                found.append(f"Training {what}: {count} updates were left out (overflow).")
        if cut := (manifest.facts.get("plan") or {}).get("answers_cut", 0):
            found.append(f"Training: {cut:,} answers were cut to max_answer_tokens or max_length.")
        if unread := (manifest.facts.get("verdicts") or {}).get("unparsed", 0):
            found.append(f"{unread:,} verdicts of the judge could not be read.")
    for result in results:
        found += _odd_answers(result)
    return found


def _odd_answers(result: tables.RunResults) -> list[str]:
    """Items that no reading fits, and answers that reached the limit of new tokens, by model."""
    unread: Counter[str] = Counter()
    for (benchmark, split, _, model), metric in result.metrics.items():
        place = f"{benchmark.upper()} {split}, {tables.model_title(model)}"
        unread[place] = max(unread[place], metric.n_unreadable)
    texts = [f"{place}: {count:,} could not be read." for place, count in unread.items() if count]
    path = result.folders["evaluate"] / "samples.jsonl"
    every: Counter[tuple[str, str]] = Counter()
    cut: Counter[tuple[str, str]] = Counter()
    for answer in read_jsonl(path, Answer) if path.is_file() else ():
        every[answer.benchmark, answer.model] += 1
        cut[answer.benchmark, answer.model] += answer.finish == "length"
    return texts + [
        f"{benchmark.upper()}, {tables.model_title(model)}: {count:,} of "
        f"{every[benchmark, model]:,} answers were cut at the limit of new tokens."
        for (benchmark, model), count in cut.items()
        if count
    ]


def _story(manifests: Mapping[str, Manifest]) -> list[tuple[str, str]]:
    """What was trained on what, and measured how: a name and a sentence each."""
    settings: dict[str, Any] = {}
    for manifest in manifests.values():
        settings |= manifest.settings
    lines = []
    model = settings.get("model", {})
    known = [f"{key} {model[key]}" for key in ("dtype", "quantization", "device") if key in model]
    if "backbone" in model:
        lines.append(("Model", "; ".join([model["backbone"], ", ".join(known)])))
    facts = {stage: manifest.facts for stage, manifest in manifests.items()}
    counts = facts.get("prepare", {}).get("counts", {})
    if counts.get("pairs"):
        kinds = [f"{counts[f'pairs: {k}']:,} {k}" for k in _KINDS if f"pairs: {k}" in counts]
        text = f"{counts['pairs']:,} preference pairs ({', '.join(kinds)})"
        held = counts.get("held-out pairs", 0)
        lines.append(("Data", f"{text}; {held:,} more are held out, of images of their own"))
    if plan := facts.get("train", {}).get("plan", {}):
        seen = f"{plan.get('pairs_seen', 0):,} "
        seen += "pairs" if plan.get("objective") == "dpo" else "instructions"
        text = f"{plan.get('trained', 'adapter')} by {plan.get('objective')}: "
        text += f"{plan.get('updates', 0):,} updates, {seen} seen"
        lines.append(("Training", text))
        others = [each for each in plan.get("objectives", ()) if each != plan.get("objective")]
        if others:
            lines.append(("Controls", f"trained beside it on the same data: {', '.join(others)}"))
    if answers := facts.get("evaluate", {}).get("answers", {}):
        judge = settings.get("evaluate", {})
        who = " ".join(filter(None, (judge.get("judge"), judge.get("judge_model"))))
        given: dict[str, list[str]] = {}
        for key, count in answers.items():
            asked, _, benchmark = key.partition(", ")
            given.setdefault(tables.model_title(asked), []).append(f"{benchmark} {count:,}")
        texts = [f"{title} ({', '.join(counts)})" for title, counts in given.items()]
        lines.append(("Measured", f"answers of {', '.join(texts)}; judge: {who}"))
    return lines


def _why(is_mini: bool, has_results: bool) -> str:
    """Why the published numbers may or may not be compared with those of the run."""
    if not has_results:
        return "Published numbers only: this run has none of its own to set beside them."
    if is_mini:
        return (
            "They may not be compared with the numbers above: they are of other, full-size models "
            "on photographs, judged by another judge; this run is of a tiny model on drawn scenes."
        )
    return (
        "They may be compared only if the model, the questions, the prompt, the decoding and the "
        "judge are the same; the notes below the tables and the effective settings say what was "
        "used in each."
    )
