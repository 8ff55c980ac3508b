"""A whole client in Python: apsw, or else the standard library's sqlite3, on the device, HTTP to the gateway.

    python3 client.py phone.db laptop.db
"""

import os
import sys
import time
import urllib.request

try:
    from apsw import Connection
except ImportError:
    from sqlite3 import Connection

# sync: begin


def request(path, message=None):
    """Opens POST /sync/pull or /sync/push with a message, or GET /sync/events; bytes go there and come back."""
    headers = {"Authorization": f"Bearer {os.environ['SYNC_TOKEN']}", "Content-Type": "application/octet-stream"}
    return urllib.request.urlopen(urllib.request.Request(f"{os.environ['SYNC_URL']}/{path}", message, headers))


class Device:
    def __init__(self, path):
        self.db = Connection(path)
        if hasattr(self.db, "isolation_level"):
            self.db.isolation_level = None  # sqlite3 would begin transactions by itself
        self.db.enable_load_extension(True)
        self.db.load_extension(os.environ["SYNC_LIBRARY"])
        self.db.enable_load_extension(False)

    def value(self, sql, *parameters):
        return self.db.execute(sql, parameters).fetchone()[0]

    def exchange(self, path, message):
        """Sends a message and applies the answer. Answers whether there is more to come."""
        with request(path, message) as answer:
            return self.value("SELECT apply_delta(?) ->> 'more'", answer.read())

    def sync(self):
        while batches := self.value("SELECT pending_ops()"):
            self.exchange("push", batches)
        while self.exchange("pull", self.value("SELECT pull_request()")):
            pass

    def events(self):
        """Syncs now and whenever the server says that something has changed; yields after each time."""
        with request("events") as stream:
            self.sync()
            yield
            for line in stream:
                if line.startswith(b"data:"):
                    self.sync()
                    yield


# sync: end

SHOW = """
    SELECT iif(done, '[x] ', '[ ] ') || body FROM task
    UNION ALL SELECT format('conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason) FROM sync_conflicts
    UNION ALL SELECT format('refused: %s %s', code, message) FROM sync_rejected"""


def show(title, device):
    print(title)
    for (line,) in device.db.execute(SHOW):
        print("  " + line)


phone, laptop = Device(sys.argv[1]), Device(sys.argv[2])
phone.sync()
laptop.sync()
show("after the first sync", phone)

# Nobody is asked: these are ordinary tables in a file. The server will refuse the last one.
phone.db.execute("INSERT INTO task (list_id, body) SELECT id, 'from python' FROM list")
phone.db.execute("UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'")
phone.db.execute("INSERT INTO task (list_id, body) SELECT id, '' FROM list")
show("offline", phone)

# A moment later the same row changes elsewhere, and the later edit counts.
time.sleep(0.01)
laptop.db.execute("UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'")
laptop.sync()
phone.sync()
show("online again", phone)

# Live: the phone waits, the laptop writes.
events = phone.events()
next(events)
laptop.db.execute("INSERT INTO task (list_id, body) SELECT id, 'live from python' FROM list")
laptop.sync()
while not phone.value("SELECT EXISTS (SELECT 1 FROM task WHERE body LIKE 'live %')"):
    next(events)
events.close()
show("live", phone)
phone.db.close()
laptop.db.close()
