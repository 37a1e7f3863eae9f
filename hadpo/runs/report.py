"""Reports: a stage's notebook as one page, a run's stages as one page, and what a paper needs."""

import dataclasses
import html
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hadpo import config
from hadpo.records import BadInput, decode, read_text, replacing, write_text
from hadpo.runs.manifest import Manifest, list_manifests, read_manifest

STYLE = Path(__file__).with_name("page.css")  # of every page that hadpo writes

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_SHOWN = ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain"]
_NOTES = re.compile(r'(<ul class="notes"[^>]*>).*?</ul>', flags=re.S)
_NOTE = re.compile(r"<li>.*?</li>", flags=re.S)
_HEADING = re.compile(r"^(#{1,2}) (.+)$", flags=re.M)  # of a Markdown cell


def write_report(folder: Path) -> None:
    """Write `report.html` of a stage from its executed notebook, if there is one."""
    source = folder / "notebook.ipynb"
    if source.is_file():
        import nbformat

        page = _page(nbformat.read(source, as_version=4), title="notebook")
        (folder / "report.html").write_text(page, encoding="utf-8")


def join_reports(name: str, runs_folder: Path) -> Path:
    """Write `runs/<name>/report.html` from the stages' executed notebooks, in their order.

    The page is self-contained: pictures lie inside, scripts are left out, no host is asked.

    Raises:
        BadInput: no such run, or no stage of it has an executed notebook.
    """
    import nbformat

    stages = {m.stage: m for m in list_manifests(runs_folder) if m.name == name}
    folder = runs_folder / name
    sources = {stage: folder / stage / "notebook.ipynb" for stage in config.SECTIONS}
    ready = [stages[s] for s, path in sources.items() if s in stages and path.is_file()]
    if not ready:
        state = ", ".join(f"{s} is {m.status}" for s, m in stages.items()) or "it has no stage"
        raise BadInput(f"run {name!r} has no report in {folder} yet ({state}); run a stage first")
    book = nbformat.v4.new_notebook()
    contents = []
    for manifest in ready:
        try:
            part = nbformat.read(sources[manifest.stage], as_version=4)
        except (ValueError, nbformat.ValidationError) as error:
            raise BadInput(
                f"{sources[manifest.stage]}: no notebook ({error}); delete it and redo the stage"
            ) from error
        mark = f'<section class="hadpo" id="{manifest.stage}"></section>'
        titles = [_own_anchors(cell, manifest.stage) for cell in part.cells]
        book.cells += [nbformat.v4.new_markdown_cell(mark, id=manifest.stage), *part.cells]
        book.metadata |= {k: v for k, v in part.metadata.items() if k == "language_info"}
        contents.append((manifest, [pair for pairs in titles for pair in pairs]))
    page = _page(book, title=f"{name}: {ready[0].recipe}", contents=contents)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _page(book: Any, *, title: str, contents: Sequence[Any] = ()) -> str:
    """HTML of a notebook: one file, pictures inside; `contents` are stages with their headings."""
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    settings = Config()  # what a widget shows without its controls stands in the page itself
    settings.NbConvertBase.display_data_priority = _SHOWN
    exporter = HTMLExporter(
        config=settings,
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        raw_template=_TEMPLATE.read_text(encoding="utf-8"),
    )
    style = STYLE.read_text(encoding="utf-8")
    given = {"metadata": {"name": title}, "hadpo_style": style, "hadpo_contents": contents}
    page, _ = exporter.from_notebook_node(book, given)
    return _with_notes_once(page)


def _with_notes_once(page: str) -> str:
    """The page, each footnote of a table only below the first table that has it."""
    seen: set[str] = set()

    def left(notes: re.Match[str]) -> str:
        every = _NOTE.findall(notes[0])
        new = [note for note in every if note not in seen]
        seen.update(every)
        if len(new) < len(every):
            new.append("<li>Other notes: as below the tables above.</li>")
        return f"{notes[1]}{''.join(new)}</ul>"

    return _NOTES.sub(left, page)


def _own_anchors(cell: Any, stage: str) -> list[tuple[str, str]]:
    """Give a cell's headings anchors of their stage: each has a Setup. Anchor, title of level 2."""
    titles: list[tuple[str, str]] = []
    if cell.cell_type != "markdown":
        return titles

    def rename(heading: re.Match[str]) -> str:
        level, text = len(heading[1]), heading[2].strip()
        anchor = f"{stage}-{text.replace(' ', '-')}"
        if level == 2:
            titles.append((anchor, text))
        anchor, text = html.escape(anchor), html.escape(text)
        link = f'<a class="anchor-link" href="#{anchor}">&#182;</a>'
        return f'<h{level} id="{anchor}">{text}{link}</h{level}>\n'

    cell.source = _HEADING.sub(rename, cell.source)
    return titles


# A finished run as a few small files that can be shared: numbers, settings and tables only.

KEPT = (
    *("manifest.json", "metrics.json", "metrics.jsonl", "outcomes.jsonl"),
    *("counts.json", "decoding.json"),
)
FORMS = (".md", ".csv")  # of tables; `hadpo compare` makes the others of an export again
PUBLISHED = ("reported_", "audit_")  # tables that papers_results/reported has already
MOST_BYTES = 1_000_000  # of one file
MOST_BYTES_IN_ALL = 3_000_000
_PATH = re.compile(r"(?<![\w.:/}<~-])(?:/[\w.@+-]+){2,}/?")  # absolute, on this machine
_SECRET = re.compile(r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,})")
_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")


def export(name: str, target: Path, *, runs_folder: Path) -> list[Path]:
    """Copy what a paper needs of run `name` to `target`: manifests, metrics and tables.

    No image, no weight, no answer text; paths of this machine are cut down to their last part, and
    a file with a key in it stops the export. The same run gives the same bytes.

    Returns:
        The files written.

    Raises:
        BadInput: the run is not there or not finished, it is too large to be shared, a key stands
            in it, or `target` holds something else.
    """
    stages = [m for m in list_manifests(runs_folder) if m.name == name]
    unfinished = [f"{m.stage} is {m.status}" for m in stages if m.status != "done"]
    if not stages or unfinished:
        state = ", ".join(unfinished) or "there is no such run"
        raise BadInput(f"run {name!r} in {runs_folder} cannot be exported: {state}")
    _check_target(target, name)
    contents = {
        path.relative_to(runs_folder / name): _clean(path, manifest)
        for manifest in stages
        for path in _kept(runs_folder / name / manifest.stage)
    }
    _check_sizes(contents)
    with replacing(target) as part:
        shutil.rmtree(part, ignore_errors=True)
        for place, text in contents.items():
            (part / place).parent.mkdir(parents=True, exist_ok=True)
            (part / place).write_text(text, encoding="utf-8", newline="\n")
        if target.exists():
            shutil.rmtree(target)
    return [target / place for place in contents]


def _kept(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in KEPT if (folder / name).is_file())
    tables = folder / "tables"
    if tables.is_dir():
        own = (path for path in tables.iterdir() if not path.name.startswith(PUBLISHED))
        yield from sorted(path for path in own if path.suffix in FORMS)


def _clean(path: Path, manifest: Manifest) -> str:
    """The text of a file without what is of this machine only; refuses a secret."""
    text = read_text(path, expected="redo the stage") if path.stat().st_size else ""
    for number, line in enumerate(text.split("\n"), start=1):
        if path.suffix == ".jsonl" and line:
            decode(line, where=f"{path}:{number}")
    if path.name == "manifest.json":
        kept = dataclasses.replace(manifest, command="", pid=0)
        text = json.dumps(dataclasses.asdict(kept), indent=1, default=str) + "\n"
    secrets = [v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= 8]
    if _SECRET.search(text) or any(secret in text for secret in secrets):
        raise BadInput(f"{path}: a key or token stands in it; take it out before it is shared")
    return _PATH.sub(lambda found: f".../{Path(found[0]).name}", text)


def _check_sizes(contents: dict[Path, str]) -> None:
    sizes = {place: len(text.encode()) for place, text in contents.items()}
    large = [f"{place} ({size:,} bytes)" for place, size in sizes.items() if size > MOST_BYTES]
    if large:
        raise BadInput(f"too large to be shared, at most {MOST_BYTES:,} bytes: {', '.join(large)}")
    if (total := sum(sizes.values())) > MOST_BYTES_IN_ALL:
        found = f"{total:,} bytes in {len(sizes)} files, at most {MOST_BYTES_IN_ALL:,}"
        raise BadInput(f"too large to be shared: {found}")


def _check_target(target: Path, name: str) -> None:
    """Raise BadInput where `target` holds anything but an export of the same run."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    found = (read_manifest(target / stage) for stage in config.SECTIONS)
    names = {m.name for m in found if m is not None}
    if names != {name}:
        held = f"an export of {', '.join(sorted(names))}" if names else "other files"
        raise BadInput(f"{target} holds {held}; choose another folder")
    for path in target.rglob("*"):
        if path.is_file() and path.name not in KEPT and path.suffix not in FORMS:
            raise BadInput(f"{path} is no part of an export; move it, or choose another folder")
