"""JupyterLab: every notebook opens, runs from top to bottom, and shows what it promises."""

import json
import os
import secrets
import shutil
import socket
import sys

import nbformat
import pytest

from tests.e2e.conftest import ROOT, Server

NOTEBOOKS = ROOT / "notebooks"
TOKEN = secrets.token_hex(16)
SMALL = {"train_images": 24, "test_images": 6, "steps": 4}
if os.environ.get("HADPO_SCREENSHOTS"):  # as a reader sees it
    SMALL = {}
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"}}
ALL_RUN = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  const kernel = panel?.sessionContext?.session?.kernel;
  if (!kernel || kernel.status !== 'idle') return false;
  const code = panel.content.widgets.filter(cell => cell.model.type === 'code');
  const outputs = code.flatMap(cell => cell.model.outputs.toJSON());
  return outputs.some(output => output.output_type === 'error')
    || code.every(cell => cell.model.executionCount !== null);
}"""
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code')
  .flatMap(cell => cell.model.outputs.toJSON())
  .filter(output => output.output_type === 'error')
  .map(output => output.ename + ': ' + output.evalue)"""
IMAGES = """() => [...document.querySelectorAll('.jp-OutputArea-output img')]
  .map(img => [img.naturalWidth, img.alt])"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A Lab of its own: private settings, a copy of the notebooks, a token, 127.0.0.1."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    private = {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTER_DATA_DIR")
    }
    server = Server(
        [
            *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
            *("--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"),
            *(f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"),
            *("--LabApp.news_url=None", "--KernelManager.transport_encryption=auto"),
            f"--LabApp.app_settings_dir={ROOT / '.lab'}",  # as make lab: no box over the notebook
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ],
        rf"http://127\.0\.0\.1:{port}/lab",
        folder / "log.txt",
        JUPYTERLAB_SETTINGS_DIR=str(folder / "settings"),
        HADPO_RUNS=str(folder / "runs"),
        OMP_NUM_THREADS="1",
        **private,
    )
    server.folder = folder  # type: ignore[attr-defined]
    server.address = server.address.removesuffix("/lab")
    yield server
    server.stop()


def with_parameters(lab, name, **values):
    """The notebook with other values in its parameters cell, as a user would type them."""
    path = lab.folder / "notebooks" / name
    book = nbformat.read(path, as_version=4)
    cell = next(c for c in book.cells if "parameters" in c.metadata.get("tags", []))
    lines = cell.source.splitlines()
    for key, value in values.items():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
        lines[at] = f"{lines[at].split('=')[0]}= {value!r}"
    cell.source = "\n".join(lines)
    nbformat.write(book, path)


def run_all(visit, lab, name, *, seconds):
    tab = visit().tab
    tab.goto(f"{lab.address}/lab/tree/notebooks/{name}?token={TOKEN}&reset")
    tab.wait_for_selector(".jp-Notebook .jp-CodeCell")
    tab.wait_for_function(
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_text("Run All Cells", exact=True).click()
    tab.wait_for_timeout(1000)
    tab.wait_for_function(ALL_RUN, timeout=1000 * seconds)
    assert tab.evaluate(ERRORS) == []
    images = tab.evaluate(IMAGES)
    assert images
    assert [alt for width, alt in images if not width or not alt] == []
    return tab


def closed(tab):
    """The kernel's memory is needed for the next one."""
    tab.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def shot(tab, place, path):
    place.scroll_into_view_if_needed()
    tab.wait_for_timeout(300)
    tab.screenshot(path=path)


def test_the_published_tables_open_and_run(visit, lab, screenshots):
    with_parameters(lab, "05_compare.ipynb", recipe="reported")
    tab = run_all(visit, lab, "05_compare.ipynb", seconds=120)
    boxes = tab.locator(".Toastify__toast, .jp-Dialog")
    assert boxes.count() == 0, boxes.first.inner_text()
    shot(tab, tab.locator(".jp-OutputArea-output img").first, screenshots / "lab_compare.png")
    closed(tab)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walkthrough_runs_and_its_widgets_move(visit, lab, screenshots):
    with_parameters(lab, "00_walkthrough.ipynb", **SMALL)
    tab = run_all(visit, lab, "00_walkthrough.ipynb", seconds=600)
    heads = tab.locator(".jp-Notebook h2")
    for at in range(heads.count()):
        title = heads.nth(at).inner_text()
        if title[:1].isdigit():
            number = title.partition(".")[0]
            shot(tab, heads.nth(at), screenshots / f"walkthrough_{int(number):02d}.png")
    sliders = tab.locator(".jp-OutputArea-output .widget-slider")
    assert sliders.count() >= 2  # beta, and the page of the browser
    for at in (0, sliders.count() - 1):
        slider = sliders.nth(at)
        slider.scroll_into_view_if_needed()
        picture = slider.locator(
            "xpath=ancestor::*[contains(@class, 'widget-vbox')][last()]//img"
        ).first
        before = picture.get_attribute("src")
        slider.locator(".noUi-handle").focus()
        tab.keyboard.press("ArrowRight")
        for _ in range(100):
            tab.wait_for_timeout(100)
            if picture.get_attribute("src") != before:
                break
        assert picture.get_attribute("src") != before
    shot(tab, sliders.first, screenshots / "walkthrough_slider.png")
    closed(tab)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    ["01_prepare", "02_train", "03_merge", "04_evaluate", "05_compare"],
)
def test_each_stage_runs_after_the_other(visit, lab, screenshots, name):
    with_parameters(lab, f"{name}.ipynb", recipe="mini/llava-smoke", run="e2e")
    tab = run_all(visit, lab, f"{name}.ipynb", seconds=400)
    images = tab.locator(".jp-OutputArea-output img")
    shot(tab, images.last, screenshots / f"lab_{name}.png")
    closed(tab)
