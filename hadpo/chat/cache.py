"""Replies that were paid for, by the hash of their request: in SQLite, written one by one."""

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from hadpo import config
from hadpo.chat.request import Reply
from hadpo.records import BadInput, read_jsonl

_COLUMNS = "key, text, model, input_tokens, output_tokens"


def cache_file() -> Path:
    """The cache of all runs, beside them: a stage that is redone pays nothing twice."""
    return config.runs_folder() / "judge_cache.sqlite"


@dataclass(frozen=True)
class Batch:
    """Requests that were handed in together; the id is None until the server has confirmed it."""

    mark: str
    id: str | None
    keys: frozenset[str]


class Cache:
    """Replies by key; a reply that `put` has returned from survives a kill."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the database at `path`; None keeps it in memory.

        Raises:
            BadInput: the file is no database of replies, or cannot be written.
        """
        self._lock = threading.Lock()
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._data = sqlite3.connect(path or ":memory:", check_same_thread=False, timeout=60)
            self._data.execute("PRAGMA journal_mode=WAL")  # others may read while we write
            self._data.execute("PRAGMA synchronous=NORMAL")  # what is committed survives a kill
            self._data.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, "
                "model TEXT NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER "
                "NOT NULL)"
            )
            self._data.execute(
                "CREATE TABLE IF NOT EXISTS batches (mark TEXT PRIMARY KEY, id TEXT, keys TEXT "
                "NOT NULL)"
            )
            self._data.commit()
        except (OSError, sqlite3.Error) as error:
            raise BadInput(
                f"{path}: cannot be used as the file of replies ({error}); move it away"
            ) from error

    @classmethod
    def of_file(cls, path: Path) -> "Cache":
        """The replies in a JSON Lines file, or in a database, of somebody else.

        Raises:
            BadInput: no such file, or not of that form.
        """
        if not path.is_file():
            raise BadInput(f"{path}: no such file; replay needs judge_replies.jsonl of a run")
        if path.suffix != ".jsonl":
            return cls(path)
        cache = cls(None)
        for reply in read_jsonl(path, Reply):
            cache.put(reply)
        return cache

    def get(self, key: str) -> Reply | None:
        """The reply to a request, if there is one."""
        with self._lock:
            row = self._data.execute(
                f"SELECT {_COLUMNS} FROM replies WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        names = _COLUMNS.split(", ")
        return Reply(**dict(zip(names, row, strict=True)))

    def put(self, reply: Reply) -> None:
        """Store a reply, at once."""
        values = (reply.key, reply.text, reply.model, reply.input_tokens, reply.output_tokens)
        with self._lock:
            self._data.execute(
                f"INSERT OR REPLACE INTO replies ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", values
            )
            self._data.commit()

    def batches(self) -> list[Batch]:
        """Batches that were handed in, or were about to be, and are not collected yet."""
        with self._lock:
            rows = self._data.execute("SELECT mark, id, keys FROM batches").fetchall()
        return [Batch(mark, batch_id, frozenset(keys.split())) for mark, batch_id, keys in rows]

    def put_batch(self, batch: Batch) -> None:
        """Store a batch, at once."""
        values = (batch.mark, batch.id, " ".join(sorted(batch.keys)))
        with self._lock:
            self._data.execute("INSERT OR REPLACE INTO batches VALUES (?, ?, ?)", values)
            self._data.commit()

    def drop_batch(self, batch: Batch) -> None:
        """Forget a batch."""
        with self._lock:
            self._data.execute("DELETE FROM batches WHERE mark = ?", (batch.mark,))
            self._data.commit()

    def close(self) -> None:
        """Close the file."""
        self._data.close()
