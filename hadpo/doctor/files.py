"""Checks and how they are shown; those of a recipe's files, with the command that fetches them."""

import html
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hadpo import config, plugins
from hadpo.data import fetch
from hadpo.records import BadInput


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `fix` says what to do if `status` is not ok."""

    what: str
    status: str = field(default="ok", kw_only=True)  # ok, present, missing, broken, warning
    found: str
    fix: str = field(default="", kw_only=True)


class Report:
    """Checks in the order they were made; shows itself as text and as a table in a notebook."""

    def __init__(self, checks: list[Check]) -> None:
        self.checks = checks
        self.rows = [asdict(check) for check in checks]

        self.lacking = [c for c in checks if c.status in ("missing", "broken")]
        self.is_healthy = not self.lacking  # warnings do not count

    def to_text(self) -> str:
        """One line a check, and below it what to do."""
        lines = []
        for check in self.checks:
            lines.append(f"{check.status:8} {check.what:24} {check.found}")
            if check.fix:
                lines.append(f"{'':33} -> {check.fix}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row.values()) + "</tr>"
            for row in self.rows
        )
        return (
            '<table class="wrapped"><tr><th>what</th><th>status</th><th>found</th>'
            f"<th>what to do</th></tr>{cells}</table>"
        )


def checks(recipe: config.Recipe, *, run_folder: Path | None) -> Iterator[Check]:
    """The files of the backbone and of the data sets that the recipe's stages read."""
    if recipe.model is not None and recipe.model.backbone and set(recipe.stages) - {"compare"}:
        yield from _parts(recipe.model, run_folder, is_mini=recipe.is_mini)
    if "prepare" not in recipe.stages:
        return
    for what, text in _data_files(recipe):
        if run_folder is None and "${WORLD}" in text:
            yield Check(what, "drawn by the prepare stage")
            continue
        by_hand = f"put it there, or set the recipe's path; see docs/real_data.md ({what})"
        yield _file(what, text, run_folder, fix=_fetch_command(text) or by_hand)
    yield from _words_checks(recipe)


def _words_checks(recipe: config.Recipe) -> Iterator[Check]:
    """What the benchmarks read words with, if it is not installed."""
    names = config.names(recipe.evaluate.benchmark_names) if "evaluate" in recipe.stages else []
    for name in names:
        try:
            getattr(plugins.load("hadpo.benchmarks", name), "check", id)(recipe.evaluate)
        except BadInput as error:
            found, _, fix = str(error).partition("; ")
            yield Check(what=f"{name}: words", status="warning", found=found, fix=fix)


def asked_checks(recipe: config.Recipe) -> Iterator[Check]:
    """The language models that the recipe's stages ask on a server: each needs a name and a key."""
    prepare, evaluate = recipe.prepare, recipe.evaluate
    asked = []
    if "prepare" in recipe.stages and prepare.pair_source in ("mined", "ranked"):
        asked.append(("corrector", prepare.corrector, prepare.corrector_model))
    if "evaluate" in recipe.stages:
        asked.append(("judge", evaluate.judge, evaluate.judge_model))
        if recipe.model is not None and recipe.model.engine == "server":
            asked.append(("engine server", "llm", recipe.model.server_models))
    for what, how, model in asked:
        if how in ("llm", "replay") and not model:
            fix = f"-p {what}_model=NAME, as the server has it"
            yield Check(what, f"{how}, and no {what}_model", status="missing", fix=fix)
        if how == "llm" and not os.environ.get("OPENAI_API_KEY"):
            found = "OPENAI_API_KEY is not set: what has no reply yet cannot be asked"
            fix = "export OPENAI_API_KEY=... (any text for a server that asks for none)"
            yield Check(what, found, status="warning", fix=fix)


def sources_of(recipe: config.Recipe) -> list[str]:
    """Names of `hadpo fetch` that bring all that the recipe reads, each once."""
    texts = [] if recipe.model is None else [*recipe.model.files.values()]
    texts += [text for _, text in _data_files(recipe)] if "prepare" in recipe.stages else []
    backbone = recipe.model.backbone if recipe.model else ""
    names = [_source_name(text, backbone) for text in texts]
    return [*dict.fromkeys(filter(None, names))]


def _parts(model: config.ModelConfig, run_folder: Path | None, *, is_mini: bool) -> Iterator[Check]:
    for part, text in model.files.items():
        fix = _fetch_command(text, model.backbone) or "see docs/real_data.md"
        yield _file(f"{model.backbone}: {part}", text, run_folder, fix=fix)
    whole = config.resolve_path(model.files.get("language_model", ""), run_folder=run_folder)
    if fetch.is_transformers(whole) or (is_mini and run_folder is None):
        return  # such a folder holds all parts; a mini recipe's are looked at when it is prepared
    family, _, variant = model.backbone.partition("/")
    module = plugins.load("hadpo.backbones", family)
    unused = module.VARIANTS[variant].unused_parts if variant in module.VARIANTS else ()
    for part, meaning in module.PARTS.items():
        if part not in (*model.files, *unused, *module.OPTIONAL_PARTS):
            fix = f"set it: {meaning}"
            yield Check(part, "not in the recipe", status="missing", fix=fix)


def _data_files(recipe: config.Recipe) -> Iterator[tuple[str, str]]:
    data: Any = recipe.data
    trains = recipe.prepare.pair_source != "questions"
    wanted = (
        ("Visual Genome", data.visual_genome, ("image_data.json", "region_descriptions.json")),
        ("HA-DPO pairs", data.pairs_folder if trains else "", ("desc_data.json", "pope_data.json")),
        ("COCO val2014", data.coco, ("val2014",)),
        *_benchmark_files(data),
        *(
            ("instructions", place, ("",))
            for place in config.names(data.instructions)
            if place != "oracle" and trains
        ),
        ("vocabulary", data.vocabulary, ("",)),
    )
    for what, folder, names in wanted:
        for name in names if folder else ():
            yield f"{what} {name}".strip(), f"{folder}/{name}".rstrip("/")


def _benchmark_files(data: Any) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, place and files of what the benchmarks read."""
    for name in plugins.available("hadpo.benchmarks"):
        files = getattr(plugins.load("hadpo.benchmarks", name), "FILES", {})
        for setting, (what, names) in files.items():
            yield what, getattr(data, setting), names


def _file(what: str, text: str, run_folder: Path | None, *, fix: str) -> Check:
    path = config.resolve_path(text, run_folder=run_folder)
    if "${HADPO_SHARED}" in text:
        fix = "set HADPO_SHARED to the folder with golden/ and data/"
    if not path.exists() and config.HUB_ID.fullmatch(text):
        return Check(what, f"{text}, fetched from the hub when it is loaded")
    if not path.exists():
        return Check(what, str(path), status="missing", fix=fix)
    if problem := fetch.problem_of(path):
        return Check(what, problem, status="broken", fix=f"delete it, then: {fix}")
    return Check(what, str(path), status="present")


def _fetch_command(text: str, backbone: str = "") -> str:
    """The command that puts something at a recipe's path; "" where none does."""
    name = _source_name(text, backbone)
    if not name:
        return ""
    items = fetch.source(name).items
    made = [str(config.resolve_path(i.made)) for i in items if i.made and i.to == text]
    fetched = [f"hadpo fetch {name}"] if any(not item.made for item in items) else []
    return "; then ".join(fetched + made)


def _source_name(text: str, backbone: str) -> str:
    names = fetch.names_for(text)
    return "" if not names else backbone if backbone in names else names[0]
