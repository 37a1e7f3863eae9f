"""Runs: folders `runs/<name>/<stage>/`, each with a manifest that tells what was asked and done."""

from hadpo.runs.manifest import Manifest, check_weights, list_manifests, read_manifest
from hadpo.runs.parameters import check_names, read_overrides
from hadpo.runs.report import export, join_reports
from hadpo.runs.run import (
    BadEnvironment,
    Run,
    disk_full,
    is_disk_full,
    join_run,
    open_run,
    start,
)
from hadpo.runs.several import Stopped, end_processes, noticed, start_processes
from hadpo.runs.state import merged_model, run_name, stage_folder
