"""Checks, and how a list of them is shown."""

import html
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `fix` says what to do if `status` is not ok."""

    what: str
    status: str = field(default="ok", kw_only=True)  # ok, present, missing, broken, warning
    found: str
    fix: str = field(default="", kw_only=True)


class Report:
    """Checks in the order they were made; shows itself as text and as a table in a notebook."""

    def __init__(self, checks: list[Check]) -> None:
        self.checks = checks
        self.rows = [asdict(check) for check in checks]

        self.lacking = [c for c in checks if c.status in ("missing", "broken")]
        self.is_healthy = not self.lacking  # warnings do not count

    def to_text(self) -> str:
        """One line a check, and below it what to do."""
        lines = []
        for check in self.checks:
            lines.append(f"{check.status:8} {check.what:24} {check.found}")
            if check.fix:
                lines.append(f"{'':33} -> {check.fix}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row.values()) + "</tr>"
            for row in self.rows
        )
        return (
            '<table class="wrapped"><tr><th>what</th><th>status</th><th>found</th>'
            f"<th>what to do</th></tr>{cells}</table>"
        )
