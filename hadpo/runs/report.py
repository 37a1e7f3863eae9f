"""All stages of a run as one page: their reports in order, behind a table of contents."""

import html
import re
from pathlib import Path

from hadpo import config
from hadpo.records import BadInput, write_text
from hadpo.runs.manifest import Manifest, list_manifests

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
