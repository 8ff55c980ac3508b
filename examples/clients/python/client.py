"""A whole client with Python's standard library: sqlite3 on the device, psql as the transport."""

import json
import os
import sqlite3
import subprocess

CLAIMS = json.dumps({"sub": os.environ["SYNC_USER"], "role": "todo_user"})


def server(begin, function, message):
    """Calls sync.pull or sync.push as the user: what an HTTP server would do for a request whose token it has checked."""
    script = f"""
        {begin};
        SELECT set_config('request.jwt.claims', :'claims', true) \\g /dev/null
        SELECT encode(sync.{function}('\\x{message.hex()}'), 'hex');
        COMMIT;
    """
    psql = ["psql", "--quiet", "--no-align", "--tuples-only", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--set=claims={CLAIMS}"]
    answer = subprocess.run(psql, input=script, capture_output=True, text=True)
    if answer.returncode != 0:
        raise ConnectionError(answer.stderr)
    return bytes.fromhex(answer.stdout)


class Device:
    def __init__(self, path, library):
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.enable_load_extension(True)
        self.db.load_extension(library)
        self.db.enable_load_extension(False)

    def value(self, sql, *parameters):
        return self.db.execute(sql, parameters).fetchone()[0]

    def sync(self):
        while batches := self.value("SELECT pending_ops()"):
            self.value("SELECT apply_delta(?)", server("BEGIN", "push", batches))
        more = True
        while more:
            delta = server("BEGIN READ ONLY", "pull", self.value("SELECT pull_request()"))
            more = json.loads(self.value("SELECT apply_delta(?)", delta))["more"]


device = Device(os.environ["SYNC_DATABASE"], os.environ["SYNC_LIBRARY"])
device.sync()
device.db.execute("INSERT INTO task (list_id, body) SELECT id, 'from python' FROM list")
device.db.execute("UPDATE task SET done = 1 WHERE body = 'Milk'")
device.db.execute("INSERT INTO task (list_id, body) SELECT id, '' FROM list")
device.sync()
for body, done in device.db.execute("SELECT body, done FROM task ORDER BY body"):
    print(f"[{'x' if done else ' '}] {body}")
for code, message in device.db.execute("SELECT code, message FROM sync_rejected"):
    print(f"refused: {code} {message}")
device.db.close()
