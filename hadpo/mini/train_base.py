"""Train the mini base from nothing: `python -m hadpo.mini.train_base --out DIR`.

Stages that DIR already holds are not trained again; the checkpoint is written to DIR/llava.
"""

import argparse
import logging
from pathlib import Path

from hadpo.mini.base_training import train


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m hadpo.mini.train_base", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for stages and result")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.out, threads=arguments.threads)


if __name__ == "__main__":
    main()
