"""Speed and memory, measured side by side with the peers: `python -m tools.speed COMMAND`.

A file that has a function `command` is a command by the file's name. It may import all of
hadpo, and the peers, which are an extra (`pip install -e .[bench]`).
"""
