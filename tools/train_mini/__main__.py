"""Train a mini base: `python -m tools.train_mini --out DIR [--backbone NAME]`.

LLaVA is trained from nothing, its twins from LLaVA's committed weights. Stages that DIR already
holds are not trained again; the checkpoint is written to DIR/NAME. "hf-llava" is LLaVA's committed
model as a folder of transformers, untrained.
"""

import argparse
import logging
from pathlib import Path

import torch

import hadpo
from tools.train_mini import modern, training, twin_training
from tools.train_mini.twins import TWINS


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_mini", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for stages and result")
    parser.add_argument(
        "--backbone", choices=("llava", "hf-llava", modern.NAME, *TWINS), default="llava"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.backbone == "llava":
        training.train(arguments.out, threads=arguments.threads)
    elif arguments.backbone == "hf-llava":
        backbone = hadpo.load("mini/llava").backbone
        backbone.save_transformers(arguments.out / "hf-llava", dtype=torch.float16)
    elif arguments.backbone == modern.NAME:
        modern.train(arguments.out, threads=arguments.threads)
    else:
        twin_training.train(arguments.out, arguments.backbone, threads=arguments.threads)


if __name__ == "__main__":
    main()
