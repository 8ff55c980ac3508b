"""The thread that syncs, and the one that listens for the server's events."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from dataclasses import dataclass, replace
from typing import Callable, Optional

from .backoff import Backoff
from .sqlite import value
from .transport import Refused, Transport, Unreachable
from .watching import Watches

log = logging.getLogger("pg_sync_client")


@dataclass(frozen=True)
class Status:
    """How it stands.

    `state`: `syncing`; `idle`, everything is sent and received; `offline`, the server cannot be reached; `refused`, it answered with
    an error, which `error` tells; `paused`; `closed`.
    """

    state: str = "idle"
    error: Optional[str] = None
    synced_at: Optional[float] = None
    live: bool = False
    waiting: int = 0
    rejected: int = 0


class Syncer:
    """Syncs when something was written here, when the server says so, every `interval` seconds, and after a failure later and later."""

    def __init__(self, open_: Callable[[], sqlite3.Connection], transport: Transport, watches: Watches, told: Callable[[Status], None],
                 interval: float, poll: float, backoff: Callable[[], Backoff]) -> None:
        self.transport, self.watches, self.told = transport, watches, told
        self.interval, self.poll, self.backoff = interval, poll, backoff
        self.status = Status()
        self._open = open_
        self._changed = threading.Condition()
        self._wanted = 1
        """Grows with each reason to sync; `_done` is the one that the last sync began with."""
        self._done = 0
        self._failed: Optional[Exception] = None
        self._paused = self._closing = self._hurry = False
        self._telling = threading.Lock()
        self._threads = [threading.Thread(target=run, name=f"pg_sync {run.__name__}", daemon=True) for run in (self._sync_all, self._listen)]
        for thread in self._threads:
            thread.start()

    # What other threads ask for.

    def poke(self) -> None:
        """Something may have to be sent or fetched."""
        with self._changed:
            self._wanted += 1
            self._changed.notify_all()

    def sync(self, timeout: Optional[float]) -> None:
        """Syncs, and waits until it is done; raises what went wrong."""
        with self._changed:
            self._wanted += 1
            mine, self._hurry = self._wanted, True
            self._failed = None
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._done >= mine or self._failed or self._closing or self._paused, timeout)
            if self._failed:
                raise self._failed
            if not done or self._done < mine:
                raise TimeoutError("not synced: paused, closed, or not in time")

    def pause(self, paused: bool) -> None:
        with self._changed:
            self._paused, self._hurry = paused, True
            self._wanted += 1
            self._changed.notify_all()
        if paused:
            self.transport.hang_up()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.transport.hang_up()
        for thread in self._threads:
            thread.join()

    # The thread that syncs.

    def _sync_all(self) -> None:
        db, backoff = self._open(), self.backoff()
        try:
            version, again_at = value(db, "PRAGMA data_version"), 0.0
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._hurry or (
                        self._wanted > self._done and time.monotonic() >= again_at and not self._paused), self.poll)
                    if self._closing:
                        return
                    paused, hurry, mine = self._paused, self._hurry, self._wanted
                    self._hurry = False
                before, version = version, value(db, "PRAGMA data_version")
                if before != version:
                    # Another connection has written: which tables is not known.
                    self.watches.changed(db, None)
                    mine = self._want()
                if paused:
                    self._count(db, state="paused")
                    continue
                old = self.status.synced_at is None or time.time() - self.status.synced_at > self.interval
                if not hurry and time.monotonic() < again_at or not (hurry or old or mine > self._done):
                    continue
                again_at = time.monotonic() + self._once(db, mine, backoff)
        finally:
            self._count(db, state="closed")
            db.close()

    def _want(self) -> int:
        with self._changed:
            self._wanted += 1
            return self._wanted

    def _once(self, db: sqlite3.Connection, mine: int, backoff: Backoff) -> float:
        """One sync. Answers how many seconds not to try again."""
        self._count(db, state="syncing")
        failed: Optional[Exception] = None
        try:
            self._exchange_all(db)
        except (Unreachable, Refused, sqlite3.Error) as error:
            failed = error
        except Exception as error:  # The application's token provider may raise anything.
            log.exception("no sync")
            failed = error
        if failed is None:
            self._count(db, state="idle", error=None, synced_at=time.time())
        else:
            self._count(db, state="offline" if isinstance(failed, Unreachable) else "refused", error=str(failed))
        with self._changed:
            self._failed = failed
            if failed is None:
                self._done = max(self._done, mine)
            self._changed.notify_all()
        if failed is not None:
            return backoff.failed()
        backoff.worked()
        return 0.0

    def _exchange_all(self, db: sqlite3.Connection) -> None:
        while batches := value(db, "SELECT pending_ops()"):
            self._apply(db, self.transport.exchange("push", batches))
        while self._apply(db, self.transport.exchange("pull", value(db, "SELECT pull_request()"))):
            if self._closing or self._paused:
                return

    def _apply(self, db: sqlite3.Connection, message: bytes) -> bool:
        answer = json.loads(value(db, "SELECT apply_delta(?)", (message,)))
        if answer["tables"]:
            self.watches.changed(db, answer["tables"])
        return bool(answer["more"])

    def _count(self, db: sqlite3.Connection, **changes: object) -> None:
        counts = dict(db.execute("SELECT name, value FROM sync_status WHERE name IN ('unsealed', 'waiting', 'rejected')"))
        self._tell(waiting=counts["waiting"] + (counts["unsealed"] > 0), rejected=counts["rejected"], **changes)

    def _tell(self, **changes: object) -> None:
        with self._telling:
            status = replace(self.status, **changes)  # type: ignore[arg-type]
            if status == self.status:
                return
            self.status = status
        self.told(status)

    # The thread that listens.

    def _listen(self) -> None:
        backoff = self.backoff()
        while not self._closing:
            try:
                if not self._paused:
                    for _ in self.transport.events():
                        backoff.worked()
                        self._tell(live=True)
                        self.poke()
            except Refused as error:
                if error.status == 404:
                    return  # This server tells nobody of changes: the interval has to do.
            except Exception as error:
                log.debug("no events: %s", error)
            self._tell(live=False)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, backoff.failed())
