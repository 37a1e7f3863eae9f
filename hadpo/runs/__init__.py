"""Runs: folders `runs/<name>/<stage>/`, each with a manifest that tells what was asked and done."""

from hadpo.runs.export import export
from hadpo.runs.manifest import Manifest, list_manifests, read_manifest
from hadpo.runs.parameters import check_names, run_name
from hadpo.runs.report import join_reports
from hadpo.runs.run import BadEnvironment, Run, join_run, open_run, start
from hadpo.runs.several import end_processes, start_processes
from hadpo.runs.state import stage_folder
from hadpo.runs.stopping import Stopped, noticed

__all__ = [
    "BadEnvironment",
    "Manifest",
    "Run",
    "Stopped",
    "check_names",
    "end_processes",
    "export",
    "join_reports",
    "join_run",
    "list_manifests",
    "noticed",
    "open_run",
    "read_manifest",
    "run_name",
    "stage_folder",
    "start",
    "start_processes",
]
