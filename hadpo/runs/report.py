"""All stages of a run as one page: their reports in order, behind a table of contents."""

import dataclasses
import html
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from hadpo import config
from hadpo.records import BadInput, replacing, write_text
from hadpo.runs.manifest import Manifest, list_manifests, read_manifest

_STYLE = """
nav.hadpo { margin: 1em 2em; font-family: sans-serif; }
nav.hadpo ol { columns: 2; } nav.hadpo ul { font-size: 85%; padding-left: 1.2em; }
section.hadpo { border-top: 2px solid #0b62a8; margin-top: 2em; }
"""


def join_reports(name: str, runs_folder: Path) -> Path:
    """Write `runs/<name>/report.html` from the stages' own reports, in the order of the stages.

    The page is self-contained: pictures lie inside, scripts are left out, no host is asked.

    Raises:
        BadInput: no such run, or no stage of it has a report.
    """
    stages = {m.stage: m for m in list_manifests(runs_folder) if m.name == name}
    folder = runs_folder / name
    found = [
        (stages[stage], folder / stage / "report.html")
        for stage in config.SECTIONS
        if stage in stages and (folder / stage / "report.html").is_file()
    ]
    if not found:
        state = ", ".join(f"{s} is {m.status}" for s, m in stages.items()) or "it has no stage"
        raise BadInput(f"run {name!r} has no report in {folder} yet ({state}); run a stage first")
    styles, entries, sections = "", [], []
    for manifest, path in found:
        page = path.read_text(encoding="utf-8")
        body = re.search(r"<main[^>]*>(.*)</main>", page, flags=re.S)
        if body is None:
            raise BadInput(f"{path}: no report of a notebook; delete it and redo the stage")
        styles = styles or "\n".join(re.findall(r"<style.*?</style>", page, flags=re.S))
        content = re.sub(r"<script.*?</script>", "", body[1], flags=re.S)
        content, heads = _own_anchors(content, manifest.stage)
        entries.append(_entry(manifest, heads))
        sections.append(f'<section class="hadpo" id="{manifest.stage}">\n{content}\n</section>\n')
    title = html.escape(f"{name}: {found[0][0].recipe}")
    mini = "<p><b>mini: it teaches, it is not a result</b></p>\n" if found[0][0].is_mini else ""
    target = folder / "report.html"
    write_text(
        target,
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n{styles}\n<style>{_STYLE}</style>\n</head>\n"
        f'<body class="jp-Notebook" data-jp-theme-light="true">\n<nav class="hadpo">\n'
        f"<h1>{title}</h1>\n{mini}<ol>\n{''.join(entries)}</ol>\n</nav>\n"
        f"<main>\n{''.join(sections)}</main>\n</body>\n</html>\n",
    )
    return target


def _own_anchors(content: str, stage: str) -> tuple[str, list[tuple[str, str]]]:
    """Headings of a stage with anchors of its own (every stage has a Setup), and their titles."""
    heads: list[tuple[str, str]] = []

    def rename(found: re.Match[str]) -> str:
        level, anchor, text = found.groups()
        place = f"{stage}-{anchor}"
        plain = re.sub(r"<a class=\"anchor-link\".*?</a>|<[^>]*>", "", text)
        if level == "2":
            heads.append((place, html.unescape(plain)))
        return f'<h{level} id="{place}">{text.replace(f"#{anchor}", f"#{place}")}</h{level}>'

    return re.sub(r'<h([12]) id="([^"]*)">(.*?)</h\1>', rename, content, flags=re.S), heads


def _entry(manifest: Manifest, heads: list[tuple[str, str]]) -> str:
    links = "".join(f'<li><a href="#{at}">{html.escape(text)}</a></li>' for at, text in heads)
    state = f"{manifest.status}, {manifest.duration_seconds:.0f} s"
    error = f"<br>{html.escape(manifest.error)}" if manifest.error else ""
    return (
        f'<li><a href="#{manifest.stage}"><b>{manifest.stage}</b></a> ({state}){error}'
        f"<ul>{links}</ul></li>\n"
    )


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
    text = path.read_text(encoding="utf-8")
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
    if sum(sizes.values()) > MOST_BYTES_IN_ALL:
        raise BadInput(
            f"too large to be shared: {sum(sizes.values()):,} bytes in {len(sizes)} files, at most "
            f"{MOST_BYTES_IN_ALL:,}"
        )


def _check_target(target: Path, name: str) -> None:
    """Raise BadInput where `target` holds anything but an export of the same run."""
    if not target.exists():
        return
    folders = [target / stage for stage in config.SECTIONS]
    if target.is_dir() and not any(target.iterdir()):
        return
    names = {m.name for m in map(read_manifest, folders) if m is not None}
    if names != {name}:
        held = f"an export of {', '.join(sorted(names))}" if names else "other files"
        raise BadInput(f"{target} holds {held}; choose another folder")
    strange = [
        path
        for path in target.rglob("*")
        if path.is_file() and path.name not in KEPT and path.suffix not in FORMS
    ]
    if strange:
        raise BadInput(f"{strange[0]} is no part of an export; move it, or choose another folder")
