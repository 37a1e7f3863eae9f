"""Replies that were paid for, by the hash of their request: in SQLite, written one by one."""

import errno
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from hadpo import config
from hadpo.chat.request import Reply
from hadpo.records import BadInput, read_jsonl

_COLUMNS = "key, text, model, input_tokens, output_tokens, finish"
_TABLES = {
    "replies": "key TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL, input_tokens "
    "INTEGER NOT NULL, output_tokens INTEGER NOT NULL, finish TEXT NOT NULL DEFAULT 'stop'",
    "batches": "mark TEXT PRIMARY KEY, id TEXT, keys TEXT NOT NULL",
    "claims": "key TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL",
}


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
    """Replies by key; a reply that `put` has returned from survives a kill.

    Every method raises BadInput if the file turns out to be damaged (it is set aside then), and
    OSError if the disk is full.
    """

    def __init__(self, path: Path | None) -> None:
        """Open or create the database at `path`, None: in memory.

        BadInput if it can be no such file.
        """
        self._path = path
        self._lock = threading.Lock()
        process = psutil.Process()
        self._owner = f"{process.pid} {process.create_time():.2f} {uuid.uuid4().hex}"
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._data = sqlite3.connect(path or ":memory:", check_same_thread=False, timeout=60)
            # SQLite does not wait when two processes choose the journal of a new file at once.
            opening = FileLock(f"{path}.lock", timeout=60).acquire() if path else nullcontext()
        except (OSError, sqlite3.Error) as error:
            raise BadInput(
                f"{path}: cannot be used as the file of replies ({error}); move it away"
            ) from error
        with opening, self._use() as data:
            data.execute("PRAGMA journal_mode=WAL")  # others may read while we write
            data.execute("PRAGMA synchronous=NORMAL")  # what is committed survives a kill
            for table, columns in _TABLES.items():
                data.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
                self._check(data, table, columns)

    @classmethod
    def of_file(cls, path: Path) -> "Cache":
        """The replies in a JSON Lines file, or in a database, of somebody else.

        BadInput if it is none.
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
        rows = self._run(f"SELECT {_COLUMNS} FROM replies WHERE key = ?", key)
        return Reply(**dict(zip(_COLUMNS.split(", "), rows[0], strict=True))) if rows else None

    def put(self, reply: Reply) -> None:
        """Store a reply, at once."""
        values = [getattr(reply, name) for name in _COLUMNS.split(", ")]
        with self._use() as data:
            data.execute(
                f"INSERT OR REPLACE INTO replies ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values
            )
            data.execute("DELETE FROM claims WHERE key = ?", (reply.key,))

    def claim(self, key: str, seconds: float) -> bool:
        """Whether this process is to ask; False if another one, which still runs, is asking.

        The claim ends with the reply, with `give_up`, with this process, or after some seconds.
        """
        now = time.time()
        with self._use() as data:
            data.execute("BEGIN IMMEDIATE")
            row = data.execute("SELECT owner, until FROM claims WHERE key = ?", (key,)).fetchone()
            if row and row[0] != self._owner and row[1] > now and _runs(row[0]):
                return False
            values = (key, self._owner, now + seconds)
            data.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", values)
        return True

    def give_up(self, keys: Collection[str]) -> None:
        """End claims that brought no reply."""
        owned = [(key, self._owner) for key in keys]
        with self._use() as data:
            data.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", owned)

    def batches(self) -> list[Batch]:
        """Batches that were handed in, or were about to be, and are not collected yet."""
        rows = self._run("SELECT mark, id, keys FROM batches")
        return [Batch(mark, batch_id, frozenset(keys.split())) for mark, batch_id, keys in rows]

    def put_batch(self, batch: Batch) -> None:
        """Store a batch, at once."""
        keys = " ".join(sorted(batch.keys))
        self._run("INSERT OR REPLACE INTO batches VALUES (?, ?, ?)", batch.mark, batch.id, keys)

    def drop_batch(self, batch: Batch) -> None:
        """Forget a batch."""
        self._run("DELETE FROM batches WHERE mark = ?", batch.mark)

    def close(self) -> None:
        """Close the file."""
        self._data.close()

    def _run(self, command: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._use() as data:
            return data.execute(command, values).fetchall()

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        """The database, for one thread at a time; commits, or says what is wrong with the file."""
        try:
            with self._lock, self._data as data:
                yield data
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from error
            raise BadInput(
                f"{self._path}: the file of replies cannot be used now ({error}); wait for the "
                "process that holds it, make it writable, or move it away"
            ) from error
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise BadInput(
                    f"{self._path}: cannot be used as the file of replies ({error}); move it away"
                ) from error
            raise BadInput(self._set_aside(error)) from error

    def _check(self, data: sqlite3.Connection, table: str, columns: str) -> None:
        """Refuse a table of somebody else; add what tables of earlier versions lack."""
        wanted = [column.split()[0] for column in columns.split(", ")]
        found = [row[1] for row in data.execute(f"PRAGMA table_info({table})")]
        if table == "replies" and found == wanted[:-1]:
            data.execute(f"ALTER TABLE replies ADD COLUMN {columns.split(', ')[-1]}")
        elif found != wanted:
            raise BadInput(
                f"{self._path}: not the file of replies: its table {table} has the columns "
                f"{', '.join(found)}, expected {', '.join(wanted)}; move it away"
            )

    def _set_aside(self, error: sqlite3.DatabaseError) -> str:
        """Rename a damaged file, so that the next start makes a new one; says so."""
        why = f"{self._path}: the file of replies is damaged ({error})"
        if self._path is None:
            return why
        numbers = (f".damaged-{n}" for n in range(1, 10_000))
        new = next(n for n in map(self._path.with_suffix, numbers) if not n.exists())
        self._data.close()
        try:
            self._path.rename(new)
        except OSError as refusal:
            return f"{why} and cannot be moved ({refusal}); move it away"
        for end in ("-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self._path}{end}").rename(f"{new}{end}")
        return (
            f"{why}; it is set aside as {new.name}, and the same command starts a new one: what "
            "was paid for and stands there alone is asked again"
        )


def _runs(owner: str) -> bool:
    """Whether the process of a claim still runs."""
    pid, started, _ = owner.split()
    try:
        process = psutil.Process(int(pid))
        is_over = process.status() == psutil.STATUS_ZOMBIE
        return not is_over and abs(process.create_time() - float(started)) < 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
