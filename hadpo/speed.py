"""The speed benchmarks moved to `tools/speed` of the repository; this names the new command."""

import shlex
import sys

if __name__ == "__main__":
    command = shlex.join(["python", "-m", "tools.speed", *sys.argv[1:]])
    sys.stderr.write(f"hadpo.speed moved to tools/speed; in the repository run: {command}\n")
    sys.exit(2)
