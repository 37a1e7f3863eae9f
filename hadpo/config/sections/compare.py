"""Section `compare`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config.sections.ranges import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompareConfig:
    """Which runs stand beside which published numbers."""

    run_names: str = ""  # names, comma separated; empty: this run alone
    reported: str = "hadpo"  # systems in papers_results/reported, comma separated; empty: none
    reported_backbone: str = ""  # keep only the published rows of this backbone; empty: all
    on_difference: Literal["error", "note"] = "error"  # other questions, reading or judge: refuse
