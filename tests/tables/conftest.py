import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def write_run() -> Callable[..., None]:
    """`made_up_run.write_run`; tests are no package, so the file is loaded by its path."""
    spec = importlib.util.spec_from_file_location(
        "made_up_run", Path(__file__).with_name("made_up_run.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_run


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., None]) -> Path:
    """Three finished runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        write_run(folder, f"run-s{seed}", seed=seed)
    return folder
