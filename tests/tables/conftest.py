from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def write_run() -> Callable[..., None]:
    """`made_up_run.write_run`."""
    from tests.tables.made_up_run import write_run

    return write_run


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., None]) -> Path:
    """Three finished runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        write_run(folder, f"run-s{seed}", seed=seed)
    return folder
