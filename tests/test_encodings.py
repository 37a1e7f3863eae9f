"""Text files that a user hands over in another encoding are named, whatever reads them."""

import pytest

from hadpo import config, tables
from hadpo.chat.request import Prompt as ChatPrompt
from hadpo.data import Report, asked, fetch
from hadpo.data.fetch.images import addresses
from hadpo.judges import _rubric
from hadpo.judges._sentences import SENTENCES
from hadpo.records import BadInput
from hadpo.tables._table import csv_rows

READERS = {
    "recipe.yaml": lambda path: config.load_recipe(str(path)),
    "asked.txt": lambda path: asked.read(path, path.parent, Report()),
    "asked.csv": lambda path: asked.read(path, path.parent, Report()),
    "asked.json": lambda path: asked.read(path, path.parent, Report()),
    "asked.jsonl": lambda path: asked.read(path, path.parent, Report()),
    "images.csv": lambda path: addresses(path, Report()),
    "shr.txt": lambda path: _rubric.prompt_of(SENTENCES, is_json=True, folder=path.parent),
    "prompt.txt": ChatPrompt.read,
    "table.csv": csv_rows,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "cp1252"])
def test_a_text_file_in_another_encoding_is_named(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_bytes("title: été\n{claims} is it red, or été?\n".encode(encoding))
    with pytest.raises(BadInput, match=rf"{name}.*(UTF-8|no column|not JSON|NUL|not YAML)"):
        READERS[name](path)


@pytest.mark.parametrize(
    "content", ["été".encode("latin-1"), "a: b\n".encode("utf-16"), b"[" * 9999]
)
def test_sources_of_ones_own_in_another_encoding_are_named(tmp_path, monkeypatch, content):
    (tmp_path / "sources.yaml").write_bytes(content)
    monkeypatch.setenv("HADPO_SOURCES", str(tmp_path / "sources.yaml"))
    with pytest.raises(BadInput, match=r"sources\.yaml: not readable as YAML"):
        fetch.sources()


def test_a_table_with_a_huge_cell_is_named():
    with pytest.raises(BadInput, match=r"stdin:\d+: not CSV \(field larger"):
        tables.read_pope_table("acc,f1\n" + "1" * 200_000 + ",2\n", where="stdin")
