"""Our speed and memory beside what users would do without us; `python -m hadpo.speed NAME`."""
