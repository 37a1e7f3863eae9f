"""What papermill learns of a stage's notebook: all settings of the stage, not only its cell's.

papermill loads this module itself (through `engine`, an entry point), so that plain papermill knows
it, too. It warns about parameters that no cell names: about settings that would be wrong, and about
all others the notebook's own error says more.
"""

import logging
import re
from typing import Any, get_args

from papermill.models import Parameter
from papermill.translators import PythonTranslator, papermill_translators

from hadpo import config
from hadpo.records import BadInput

_log = logging.getLogger("papermill")
_MARK = re.compile(r"hadpo settings (\w+)")  # stands in the parameter cell of a stage


def _is_no_warning(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Passed unknown parameter")


class StageTranslator(PythonTranslator):
    """papermill's translator of parameters to Python; a stage's settings are known to it."""

    @classmethod
    def inspect(cls, parameters_cell: Any) -> list[Parameter]:
        """The parameters that the cell names, and the stage's other settings."""
        found = super().inspect(parameters_cell)
        mark = _MARK.search(parameters_cell["source"])
        if mark is None or mark[1] not in config.SECTIONS:
            return found
        try:
            settings = config.settings(mark[1]).values()
        except BadInput:  # of the user's plugins: the notebook says it
            return found
        _log.addFilter(_is_no_warning)  # papermill compares names next, then calls codify
        named = {parameter.name for parameter in found}
        return found + [
            Parameter(s.name, "str" if get_args(s.kind) else s.kind.__name__, "None", s.help)
            for s in settings
            if s.name not in named
        ]

    @classmethod
    def codify(cls, parameters: dict[str, Any], comment: str = "Parameters") -> str:
        """The cell that papermill injects."""
        _log.removeFilter(_is_no_warning)
        return super().codify(parameters, comment)


papermill_translators.register("python", StageTranslator)
