"""The package against a gateway and a Postgres, which `./dev clients python-package` starts: SYNC_URL, SYNC_TOKEN, SYNC_LIBRARY."""

import os
import queue
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))

from pg_sync_client import Backoff, Database, Refused, Unreachable, connect  # noqa: E402
from pg_sync_client.sqlite import open_connection, tables_of  # noqa: E402

URL, TOKEN, LIBRARY = os.environ["SYNC_URL"], os.environ["SYNC_TOKEN"], os.environ["SYNC_LIBRARY"]


def quick() -> Backoff:
    return Backoff(first=0.05, most=0.2)


def until(holds, what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Network:
    """A way to the gateway that can be cut."""

    def __init__(self) -> None:
        self.target = urlsplit(URL)
        self.cut, self.lines = False, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}{self.target.path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self.listener.accept()
            except OSError:
                return
            if self.cut:
                device.close()
                continue
            server = socket.create_connection((self.target.hostname, self.target.port))
            self.lines += [device, server]
            for source, sink in ((device, server), (server, device)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            source.close()

    def down(self) -> None:
        self.cut = True
        for line in self.lines:
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.lines = []

    def up(self) -> None:
        self.cut = False


class Client(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def device(self, name: str, url: str = URL, token=lambda: TOKEN, **options) -> Database:
        db = connect(Path(self.folder.name) / name, url, token, library=LIBRARY, backoff=quick, **options)
        self.addCleanup(db.close)
        return db

    def add(self, db: Database, body: str) -> None:
        db.execute("INSERT INTO task (list_id, body) SELECT id, ? FROM list", (body,))

    def test_what_one_device_writes_another_shows_at_once(self) -> None:
        phone, laptop = self.device("phone"), self.device("laptop")
        phone.sync()
        laptop.sync()
        shown: "queue.Queue[list]" = queue.Queue()
        laptop.watch("SELECT body FROM task WHERE body LIKE 'live %' ORDER BY body", shown.put)
        self.assertEqual(shown.get(timeout=5), [])
        until(lambda: laptop.status.live, "the laptop listens")
        began = time.monotonic()
        self.add(phone, "live 1")
        self.assertEqual(shown.get(timeout=5), [("live 1",)])
        # Not the interval of a minute, nor a second look.
        self.assertLess(time.monotonic() - began, 5)
        phone.execute("DELETE FROM task WHERE body = 'live 1'")
        self.assertEqual(shown.get(timeout=5), [])

    def test_a_watch_runs_again_for_its_tables_and_tells_only_what_is_new(self) -> None:
        db = self.device("phone")
        db.sync()
        seen = []
        watch = db.watch("SELECT count(*) FROM task WHERE body LIKE 'watched%'", seen.append)
        titles = []
        db.watch("SELECT title FROM list", titles.append)
        self.add(db, "watched")
        until(lambda: seen == [[(0,)], [(1,)]], "the insert is told")
        # Written past the package, by a connection without the extension.
        other = sqlite3.connect(Path(self.folder.name) / "phone")
        other.execute("DELETE FROM task WHERE body = 'watched'")
        other.commit()
        other.close()
        until(lambda: seen[2:] == [[(0,)]], "the delete is told")
        watch.cancel()
        self.add(db, "watched again")
        db.sync()
        time.sleep(0.5)
        self.assertEqual(len(seen), 3)
        self.assertEqual(titles, [[("Groceries",)]])
        db.execute("DELETE FROM task WHERE body LIKE 'watched%'")
        db.sync()

    def test_offline_writes_are_sent_when_the_network_is_back(self) -> None:
        network = Network()
        phone, laptop = self.device("phone", network.url), self.device("laptop")
        phone.sync()
        network.down()
        self.add(phone, "offline")
        until(lambda: phone.status.state == "offline" and phone.status.waiting == 1, "it is noticed")
        with self.assertRaises(Unreachable):
            phone.sync()
        self.assertFalse(phone.status.live)
        laptop.sync()
        self.assertEqual(laptop.query("SELECT body FROM task WHERE body = 'offline'"), [])
        network.up()
        until(lambda: phone.status.state == "idle" and phone.status.waiting == 0 and phone.status.live, "it is sent without being asked to")
        laptop.sync()
        self.assertEqual(laptop.query("SELECT body FROM task WHERE body = 'offline'"), [("offline",)])
        laptop.execute("DELETE FROM task WHERE body = 'offline'")
        laptop.sync()

    def test_a_token_that_is_not_taken_is_asked_for_anew_once(self) -> None:
        given = []

        def token() -> str:
            given.append("stale" if not given else TOKEN)
            return given[-1]

        db = self.device("phone", token=token)
        db.sync()
        self.assertEqual(db.query("SELECT title FROM list"), [("Groceries",)])
        until(lambda: db.status.live, "it listens")
        self.assertEqual(given, ["stale", TOKEN])
        refused = self.device("laptop", token=lambda: "stale")
        with self.assertRaises(Refused) as caught:
            refused.sync()
        self.assertEqual(caught.exception.status, 401)
        until(lambda: refused.status.state == "refused", "it is told")

    def test_what_the_server_refuses_is_counted_and_gone_from_the_table(self) -> None:
        db = self.device("phone")
        db.sync()
        states = []
        db.on_status(lambda status: states.append(status.state))
        self.add(db, "")
        until(lambda: db.status.rejected == 1 and db.status.state == "idle", "the refusal is told")
        self.assertEqual(db.query("SELECT code FROM sync_rejected"), [("23514",)])
        self.assertEqual(db.query("SELECT count(*) FROM task WHERE body = ''"), [(0,)])
        self.assertIn("syncing", states)

    def test_a_paused_device_asks_nobody_and_keeps_what_it_has_to_send(self) -> None:
        phone, laptop = self.device("phone"), self.device("laptop")
        phone.sync()
        phone.pause()
        until(lambda: phone.status.state == "paused" and not phone.status.live, "it pauses")
        self.add(phone, "paused")
        time.sleep(0.6)
        laptop.sync()
        self.assertEqual(laptop.query("SELECT count(*) FROM task WHERE body = 'paused'"), [(0,)])
        phone.close()
        # The file keeps it for the next time.
        again = self.device("phone")
        again.sync()
        laptop.sync()
        self.assertEqual(laptop.query("SELECT count(*) FROM task WHERE body = 'paused'"), [(1,)])
        laptop.execute("DELETE FROM task WHERE body = 'paused'")
        laptop.sync()

    def test_a_transaction_is_sent_whole_and_not_before_its_commit(self) -> None:
        phone, laptop = self.device("phone"), self.device("laptop")
        phone.sync()
        laptop.sync()
        phone.execute("BEGIN")
        self.add(phone, "whole 1")
        time.sleep(0.5)
        self.add(phone, "whole 2")
        phone.execute("COMMIT")
        until(lambda: laptop.query("SELECT count(*) FROM task WHERE body LIKE 'whole %'") == [(2,)], "it arrives")
        phone.execute("DELETE FROM task WHERE body LIKE 'whole %'")
        phone.sync()


class Parts(unittest.TestCase):
    def test_waits_double_up_to_the_most_and_differ_by_chance(self) -> None:
        least, most = Backoff(1, 8, chance=lambda: 0.0), Backoff(1, 8, chance=lambda: 1.0)
        self.assertEqual([least.failed() for _ in range(6)], [0.5, 1, 2, 4, 4, 4])
        self.assertEqual([most.failed() for _ in range(6)], [1, 2, 4, 8, 8, 8])
        most.worked()
        self.assertEqual(most.failed(), 1)

    def test_the_tables_of_a_query_are_known_through_views_and_indexes(self) -> None:
        db = open_connection(":memory:", LIBRARY)
        db.executescript("""
            CREATE TABLE a (id INTEGER PRIMARY KEY, x); CREATE INDEX ax ON a (x); CREATE TABLE b (id TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE VIEW v AS SELECT a.x FROM a JOIN b ON a.id = b.id; CREATE VIRTUAL TABLE f USING fts5 (t);""")
        self.assertEqual(tables_of(db, "SELECT x FROM a WHERE x > 1"), {"a"})
        self.assertEqual(tables_of(db, "SELECT * FROM v"), {"a", "b"})
        self.assertEqual(tables_of(db, "SELECT (SELECT count(*) FROM b) FROM a WHERE id = ?", (1,)), {"a", "b"})
        self.assertEqual(tables_of(db, "SELECT 1"), frozenset())
        self.assertIsNone(tables_of(db, "SELECT t FROM f"))
        db.close()

    def test_an_extension_that_is_not_there_is_said_at_once(self) -> None:
        with self.assertRaises(sqlite3.OperationalError):
            connect(":memory:", URL, lambda: TOKEN, library="/nowhere/libsqlite_sync.so")


if __name__ == "__main__":
    unittest.main(testRunner=unittest.TextTestRunner(stream=sys.stdout))
