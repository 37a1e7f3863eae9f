"""Runs: folders `runs/<name>/<stage>/`, each with a manifest that tells what was asked and done."""

from hadpo.runs.manifest import Manifest, list_manifests, read_manifest
from hadpo.runs.parameters import run_name
from hadpo.runs.run import BadEnvironment, Run, start

__all__ = [
    "BadEnvironment",
    "Manifest",
    "Run",
    "list_manifests",
    "read_manifest",
    "run_name",
    "start",
]
