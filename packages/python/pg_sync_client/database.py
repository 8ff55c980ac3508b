"""What an application uses."""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import Any, Callable, List, Optional

from .backoff import Backoff
from .sqlite import Path_, library_path, open_connection
from .syncing import Status, Syncer
from .transport import Token, Transport
from .watching import Rows, Watch, Watches

log = logging.getLogger("pg_sync_client")


class Database:
    """A database file that is kept in step with the server in the background. To be made by `connect`.

    Its methods may be called from any thread; each thread gets a connection of its own. Callbacks run on the thread that syncs: they should
    be short, and may use the database.
    """

    def __init__(self, path: Path_, url: str, token: Token, *, library: Optional[str] = None, interval: float = 60.0, poll: float = 0.2,
                 timeout: float = 60.0, backoff: Callable[[], Backoff] = Backoff) -> None:
        self._path, self._library = path, library or library_path()
        self._threads = threading.local()
        self._watches, self._listeners = Watches(), []  # type: Watches, List[Callable[[Status], None]]
        # Says at once if the extension or the file is not usable, and makes the extension's tables.
        self.connection().execute("SELECT pull_request()").fetchone()
        open_ = lambda: open_connection(path, self._library)  # noqa: E731
        self._syncer = Syncer(open_, Transport(url, token, timeout), self._watches, self._told, interval, poll, backoff)

    def connection(self) -> sqlite3.Connection:
        """This thread's connection: the standard library's, in autocommit mode, with the extension loaded."""
        db = getattr(self._threads, "db", None)
        if db is None:
            db = self._threads.db = open_connection(self._path, self._library)
        return db

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Runs a statement on this thread's connection. What it writes is sent as soon as it is committed."""
        db = self.connection()
        cursor = db.execute(sql, parameters)
        if cursor.description is None and not db.in_transaction:
            self._syncer.poke()
        return cursor

    def query(self, sql: str, parameters: Any = ()) -> Rows:
        """All rows of a query."""
        return self.connection().execute(sql, parameters).fetchall()

    def watch(self, sql: str, each: Callable[[Rows], None], parameters: Any = ()) -> Watch:
        """Gives the rows of a query to `each`: now, and whenever they have changed, here or on the server. `cancel()` ends it."""
        watch = Watch(sql, parameters, each, self._watches.remove)
        self._watches.add(watch)
        watch.run(self.connection())
        return watch

    def on_status(self, listener: Callable[[Status], None]) -> None:
        """Calls `listener` with each change of `status`."""
        self._listeners.append(listener)

    @property
    def status(self) -> Status:
        """How it stands now."""
        return self._syncer.status

    def sync(self, timeout: Optional[float] = None) -> None:
        """Syncs now, whatever is being waited for, and returns when all is sent and received; raises what went wrong."""
        self._syncer.sync(timeout)

    def pause(self) -> None:
        """Asks nobody until `resume`, for instance where the system says that there is no network. Reads and writes go on."""
        self._syncer.pause(True)

    def resume(self) -> None:
        """Syncs at once, and goes on."""
        self._syncer.pause(False)

    def close(self) -> None:
        """Ends the threads. What was not sent stays in the file for the next time."""
        self._syncer.close()
        mine = getattr(self._threads, "db", None)
        if mine is not None:
            mine.close()
            del self._threads.db

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _told(self, status: Status) -> None:
        for listener in list(self._listeners):
            try:
                listener(status)
            except Exception:
                log.exception("a listener failed")


def connect(path: Path_, url: str, token: Token, **options: Any) -> Database:
    """Opens a database file, and keeps it in step with the server.

    `url` is where the gateway takes requests (`https://api.example.com/sync`). `token` is called for the user's token, at first and whenever
    the server does not take the last one any longer. Options, in seconds: `interval` (60) between syncs where no events come,
    `poll` (0.2) between looks for what other connections wrote, `timeout` (60) for a request; `backoff`, `library`.
    """
    return Database(path, url, token, **options)
