"""Programs beside the library, run from the repository: `python -m tools.NAME`; not installed."""
