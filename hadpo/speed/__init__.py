"""Speed and memory, measured side by side with the peers: `python -m hadpo.speed COMMAND`.

A file that has a function `command` is a command by the file's name. This package stands outside
the fences of the others: it may import the peers, which are an extra (`pip install hadpo[bench]`).
"""
