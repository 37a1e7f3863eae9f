"""Is preference training worth more than finetuning? `python -m tools.claims WHAT`.

search: recipe mini/llava-search with every rate and length; `table` says which of them each method
takes, and the recipes mini/llava and mini/llava-worlds are given these by hand, in a commit.
confirm: recipe mini/llava-worlds on both worlds with all training seeds. defects: the same with
what the originals did by mistake. families: corrected pairs with every other backbone, and beside
LRV's instructions and humour on a smaller world. All write runs as any other (HADPO_RUNS), and a
start goes on with what is missing. export: what is there of them to papers_results/reproduced, once
all of it is done, so that each manifest says that no file was changed. table: ranked/*.csv and *.md
there, and what `hadpo stage compare` makes of `results` and `ablations`, from the exports alone.
all: what all of these prepare, then their runs, then export and table.
"""

import argparse
import logging

from tools.claims import jobs, tables

RUNS = {
    "search": jobs.search,
    "confirm": jobs.confirm,
    "defects": jobs.defects,
    "families": jobs.families,
}


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=(*RUNS, "export", "table", "all"))
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    jobs.log.setLevel(logging.INFO)
    made = [RUNS[what]() for what in RUNS if asked.what in (what, "all", "export")]
    firsts = [job for some, _ in made for job in some]
    others = [job for _, some in made for job in some]
    if asked.what not in ("export", "table"):
        jobs.run_all(firsts, others, workers=asked.workers)
    if asked.what in ("export", "all"):
        jobs.export([*firsts, *others])
    if asked.what in ("table", "all"):
        tables.write()


if __name__ == "__main__":
    main()
