"""Queries that run again when the tables they read change."""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import Any, Callable, Iterable, List, Optional

from .sqlite import tables_of

log = logging.getLogger("pg_sync_client")

Rows = List[tuple]


class Watch:
    """One query. Its rows go to `each` at first, and whenever they have become others."""

    def __init__(self, sql: str, parameters: Any, each: Callable[[Rows], None], forget: Callable[["Watch"], None]) -> None:
        self.sql, self.parameters, self.each = sql, parameters, each
        self.rows: Optional[Rows] = None
        self._forget = forget
        self._running = threading.RLock()

    def cancel(self) -> None:
        """The query runs no more."""
        self._forget(self)

    def run(self, db: sqlite3.Connection) -> None:
        # One thread at a time, so that what is told last is what is so last.
        with self._running:
            try:
                rows = db.execute(self.sql, self.parameters).fetchall()
            except sqlite3.OperationalError as error:
                # Before the first sync the tables are not there.
                if "no such table" not in str(error):
                    raise
                rows = []
            if rows != self.rows:
                self.rows = rows
                self.each(rows)

    def concerned(self, db: sqlite3.Connection, tables: Iterable[str]) -> bool:
        try:
            # Asked each time: a changed schema or an index that was added changes the plan.
            reads = tables_of(db, self.sql, self.parameters)
        except sqlite3.OperationalError:
            return True
        return reads is None or not reads.isdisjoint(tables)


class Watches:
    """All of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: List[Watch] = []

    def add(self, watch: Watch) -> None:
        with self._lock:
            self._all.append(watch)

    def remove(self, watch: Watch) -> None:
        with self._lock:
            if watch in self._all:
                self._all.remove(watch)

    def changed(self, db: sqlite3.Connection, tables: Optional[Iterable[str]]) -> None:
        """Runs those that read one of the tables; all where it is not known what changed."""
        with self._lock:
            watches = list(self._all)
        for watch in watches:
            try:
                if tables is None or watch.concerned(db, tables):
                    watch.run(db)
            except Exception:
                log.exception("a watch failed: %s", watch.sql)
