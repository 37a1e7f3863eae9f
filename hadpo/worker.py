"""One of the processes that train together: `accelerate launch -m hadpo.worker --run runs/NAME`.

The notebook starts them for `processes` above 1. On a cluster, start them yourself on every machine
once the stage `prepare` is done; what they write is then the finished stage `train`.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hadpo import trainer
from hadpo.records import BadInput
from hadpo.runs import join_run, open_run, read_manifest, read_overrides
from hadpo.trainer import launch

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the exit code. Every process writes down how it ended, for the one that follows it."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    folder = Path(options.run).absolute()
    os.environ["HADPO_RUNS"] = str(folder.parent)
    error: BaseException | None = None
    try:
        _train(folder, options)
    except BaseException as caught:  # noqa: BLE001 - whatever it is, the notebook shows it
        error = caught
        _log.error("%s", error, exc_info=None if hasattr(error, "exit_code") else error)
    ends = folder / "train" / "workers"
    ends.mkdir(parents=True, exist_ok=True)
    launch.write_end(ends, error)
    return getattr(error, "exit_code", 1) if error else 0


def _train(folder: Path, options: argparse.Namespace) -> None:
    recipe, overrides, earlier = _settings(folder, options)
    is_owner = launch.is_first() and not options.followed
    enter = open_run if is_owner else join_run
    run = enter("train", recipe, folder.name, overrides, earlier=earlier)
    try:
        for step in trainer.train(run):
            _log.info("%s %d: loss %s", step.objective, step.step, step.metrics.get("loss"))
    except BaseException as error:
        if is_owner:
            run.fail(error)
        raise
    if is_owner:
        run.finish()


def _settings(folder: Path, options: argparse.Namespace) -> tuple[str, dict[str, Any], str]:
    """Recipe, overrides and earlier run: as the options say, or as the stage was begun with."""
    if options.recipe:
        return options.recipe, read_overrides(options.parameter), options.from_run
    manifest = read_manifest(folder / "train")
    if manifest is None:
        raise BadInput(f"{folder / 'train'} has not been begun; say which --recipe to train")
    return manifest.recipe, manifest.overrides, manifest.earlier


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="accelerate launch -m hadpo.worker", description=__doc__)
    parser.add_argument("--run", required=True, metavar="DIR", help="the run's folder, runs/NAME")
    parser.add_argument("--recipe", default="", help="default: what the stage was begun with")
    parser.add_argument("--from", dest="from_run", default="", help="run of the earlier stages")
    parser.add_argument(
        "-p", dest="parameter", action="append", default=[], metavar="KEY=VALUE", help="a setting"
    )
    parser.add_argument("--followed", action="store_true", help="a notebook keeps the manifest")
    return parser


if __name__ == "__main__":
    sys.exit(main())
