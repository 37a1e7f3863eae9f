"""The records that cross stages, and the files that hold them. Read `kinds` first.

A stage reads files of records and writes files of records, so each can be rerun alone.
"""

from hadpo.records.hashes import input_hashes, refuse_changed
from hadpo.records.kinds import (
    Answer,
    BadInput,
    Case,
    Evidence,
    Instruction,
    Label,
    Metric,
    Outcome,
    Pair,
    Question,
    Region,
    Verdict,
)
from hadpo.records.lines import (
    drop_torn_end,
    parse,
    read_jsonl,
    replacing,
    to_json,
    write_jsonl,
    write_text,
)

__all__ = [
    "Answer",
    "BadInput",
    "Case",
    "Evidence",
    "Instruction",
    "Label",
    "Metric",
    "Outcome",
    "Pair",
    "Question",
    "Region",
    "Verdict",
    "drop_torn_end",
    "input_hashes",
    "parse",
    "read_jsonl",
    "refuse_changed",
    "replacing",
    "to_json",
    "write_jsonl",
    "write_text",
]
