"""Connections with the extension loaded."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any, Sequence, Union

Path_ = Union[str, "os.PathLike[str]"]


def library_path() -> str:
    """The extension: what SYNC_LIBRARY names, or the one inside this package."""
    name = {"darwin": "libsqlite_sync.dylib", "win32": "sqlite_sync.dll"}.get(sys.platform, "libsqlite_sync.so")
    return os.environ.get("SYNC_LIBRARY") or str(Path(__file__).with_name(name))


def open_connection(path: Path_, library: str) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions begin and end where the application says BEGIN and COMMIT."""
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    if not hasattr(db, "enable_load_extension"):
        db.close()
        raise RuntimeError("this Python was built without loadable extensions of SQLite: use Debian's python3, or one built with "
                           "--enable-loadable-sqlite-extensions")
    db.enable_load_extension(True)
    db.load_extension(library)
    db.enable_load_extension(False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


def value(db: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """The only value of a query."""
    return db.execute(sql, parameters).fetchone()[0]


def tables_of(db: sqlite3.Connection, sql: str, parameters: Any = ()) -> "frozenset[str] | None":
    """The tables that a query reads, through views too; None where that cannot be known (virtual tables).

    The plan of a query opens tables and indexes by their first page, and the schema says whose that is.
    """
    plan = db.execute("EXPLAIN " + sql, parameters).fetchall()
    if any(step[1] == "VOpen" for step in plan):
        return None
    pages = {step[3] for step in plan if step[1] == "OpenRead" and step[4] == 0}
    owners = db.execute("SELECT tbl_name FROM main.sqlite_schema WHERE rootpage IN (%s)" % ",".join("?" * len(pages)), tuple(pages))
    return frozenset(name for (name,) in owners)
