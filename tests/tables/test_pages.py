"""Reports in a real browser, LaTeX in a real TeX; each skips with a reason where it is absent."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hadpo.runs.execute import execute
from hadpo.runs.report import join_reports
from hadpo.tables import compare_runs, read_reported
from hadpo.tables.reported import reported_tables

LATEX = shutil.which("pdflatex")
PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\usepackage[landscape,margin=1cm]{geometry}
\begin{document}\tiny
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe `reported`, run as a user runs it, through papermill."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HADPO_RUNS", str(folder))
        outcome = execute("compare", "reported", "reported", {})
        assert outcome.seconds < 60
        join_reports("reported", folder)
    return folder / "reported"


@pytest.mark.slow
def test_the_report_holds_the_published_tables_and_the_audit(reported: Path):
    text = (reported / "report.html").read_text(encoding="utf-8")
    for piece in ("67.22", "50.30", "87.87", "8.46", "1299.78", "No run is compared here"):
        assert piece in text, piece
    assert text.count("<h2") == 7


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.extra
def test_the_report_opens_in_a_browser_without_outside_requests(
    chromium: Any, reported: Path, tmp_path: Path
):
    asked: list[str] = []
    with chromium.new_context(viewport={"width": 1200, "height": 900}) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        for path in (reported / "report.html", reported / "compare" / "report.html"):
            page.goto(path.as_uri(), wait_until="load")
            broken = page.evaluate(
                "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
            )
            assert page.evaluate("document.images.length") >= 1
            assert broken == 0
            assert page.locator("table").count() >= 8
        page.goto((reported / "report.html").as_uri())
        page.locator("nav a", has_text="Look at the results").click()
        assert page.url.endswith("#compare-Look-at-the-results")
        page.screenshot(path=tmp_path / "report.png")
    outside = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []


def test_every_table_compiles_in_latex(tmp_path: Path, runs_folder: Path):
    if LATEX is None:
        pytest.skip("no pdflatex on this machine (Debian: texlive-latex-recommended)")
    tables = reported_tables(read_reported(["hadpo", "lrv", "lrv-users"]))
    tables += compare_runs(["run-s1", "run-s2"], runs_folder=runs_folder)
    body = "\n\\clearpage\n".join(table.to_latex() for table in tables)
    (tmp_path / "all.tex").write_text(PREAMBLE + body + "\\end{document}\n", encoding="utf-8")
    done = subprocess.run(
        [LATEX, "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
