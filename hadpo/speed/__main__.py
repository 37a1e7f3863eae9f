"""`python -m hadpo.speed NAME ...`: a module here is a subcommand, with `main(argv) -> int`."""

import logging
import sys

from hadpo import plugins

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = plugins.available("hadpo.speed")
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"python -m hadpo.speed NAME --json FILE; NAME is one of {', '.join(names)}")
    sys.exit(plugins.load("hadpo.speed", sys.argv[1]).main(sys.argv[2:]))
