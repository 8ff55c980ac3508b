"""One contender, once: the rows applied to a new file, then written locally into another new file.

usage: peers.py CONTENDER FOLDER ROWS.json LIBRARY

Every contender is driven through the same driver (apsw, with the SQLite inside it): WAL mode, synchronous=NORMAL, a new file.
What a peer is sent is made beforehand and not counted, as a server would have made it. Prints one line of JSON at the end.
Only the contender `pg_sync` needs a server: it prints `pull HEX` and reads the answer's HEX from its standard input.
"""

import json
import os
import sys
import time

import apsw

COLUMNS = ["id", "owner_id", "title", "body", "rank", "updated_at"]
INSERT = "INSERT INTO item (id, owner_id, title, body, rank, updated_at) VALUES (?, ?, ?, ?, ?, ?)"
UPSERT = INSERT + " ON CONFLICT (id) DO UPDATE SET " + ", ".join(f"{c} = excluded.{c}" for c in COLUMNS[1:])
TABLE = (
    "CREATE TABLE item (id TEXT NOT NULL PRIMARY KEY, owner_id TEXT NOT NULL DEFAULT '', title TEXT NOT NULL DEFAULT '', "
    "body TEXT NOT NULL DEFAULT '', rank INTEGER NOT NULL DEFAULT 0, updated_at TEXT NOT NULL DEFAULT '')"
)
LINE = 1000  # operations in a line that PowerSync's service sends

folder, library = sys.argv[2], sys.argv[4]


def connect(name, library=None, entry=None):
    db = apsw.Connection(os.path.join(folder, name))
    db.pragma("journal_mode", "WAL")
    db.pragma("synchronous", "NORMAL")
    if library:
        db.enable_load_extension(True)
        db.load_extension(library, *([entry] if entry else []))
    return db


def value(db, sql, *bindings):
    return db.execute(sql, bindings).fetchall()[0][0]


class Timer:
    def __init__(self):
        self.wall = 0.0
        self.cpu = 0.0

    def __enter__(self):
        self.before = (time.perf_counter(), time.process_time())

    def __exit__(self, *_):
        self.wall += time.perf_counter() - self.before[0]
        self.cpu += time.process_time() - self.before[1]


def write(db, rows, statement=INSERT):
    with db:
        db.executemany(statement, rows)


def plain(rows, apply, local):
    db = connect("apply.db")
    db.execute(TABLE)
    with apply:
        write(db, rows, UPSERT)
    other = connect("local.db")
    other.execute(TABLE)
    with local:
        write(other, rows)
    return db


def pg_sync(rows, apply, local):
    def sync(name, user, timer):
        db = connect(name, library)
        more = True
        while more:
            with timer:
                request = value(db, "SELECT pull_request()")
            print("pull", user, request.hex(), flush=True)
            reply = bytes.fromhex(sys.stdin.readline())
            with timer:
                more = json.loads(value(db, "SELECT apply_delta(?)", reply))["more"]
        return db

    db = sync("apply.db", "reader", apply)
    other = sync("local.db", "writer", Timer())
    with local:
        write(other, rows)
    return db


def powersync(rows, apply, local, one_transaction=False):
    columns = [{"name": c, "type": "integer" if c == "rank" else "text"} for c in COLUMNS[1:]]
    schema = {"tables": [{"name": "item", "columns": columns, "indexes": [], "local_only": False, "insert_only": False}]}

    def prepare(name):
        db = connect(name, library, "sqlite3_powersync_init")
        with db:
            db.execute("SELECT powersync_init()")
        with db:
            value(db, "SELECT powersync_replace_schema(?)", json.dumps(schema))
        return db

    def control(db, what, argument):
        return value(db, "SELECT powersync_control(?, ?)", what, argument)

    count = len(rows)
    sums = [(i * 2654435761) % 2**32 for i in range(count)]
    bucket = {"bucket": "b", "checksum": sum(sums) % 2**32, "priority": 3, "count": count, "subscriptions": []}
    lines = [{"checkpoint": {"last_op_id": str(count), "buckets": [bucket], "streams": []}}]
    for first in range(0, count, LINE):
        chunk = rows[first : first + LINE]
        data = [
            {
                "op_id": str(first + i + 1),
                "op": "PUT",
                "object_type": "item",
                "object_id": row[0],
                "subkey": None,
                "checksum": sums[first + i],
                "data": json.dumps(dict(zip(COLUMNS[1:], row[1:])), separators=(",", ":")),
            }
            for i, row in enumerate(chunk)
        ]
        ends = {"after": str(first), "next_after": str(first + len(chunk)), "has_more": first + LINE < count}
        lines.append({"data": {"bucket": "b", "data": data, **ends}})
    lines.append({"checkpoint_complete": {"last_op_id": str(count)}})
    lines = [json.dumps(line, separators=(",", ":")) for line in lines]

    db = prepare("apply.db")
    with db:
        control(db, "start", json.dumps({"parameters": {}, "schema": schema, "include_defaults": True, "active_streams": []}))
    with apply:
        if one_transaction:
            with db:
                for line in lines:
                    control(db, "line_text", line)
        else:
            for line in lines:
                with db:
                    control(db, "line_text", line)
    other = prepare("local.db")
    with local:
        write(other, rows)
    return db


def powersync_at_once(rows, apply, local):
    return powersync(rows, apply, local, one_transaction=True)


def sqlite_sync(rows, apply, local):
    def prepare(name):
        db = connect(name, library)
        db.execute(TABLE)
        value(db, "SELECT cloudsync_init('item')")
        return db

    other = prepare("local.db")
    with local:
        write(other, rows)
    payload = value(
        other,
        "SELECT cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq) "
        "FROM cloudsync_changes WHERE site_id = cloudsync_siteid()",
    )
    db = prepare("apply.db")
    with apply:
        value(db, "SELECT cloudsync_payload_apply(?)", payload)
    # It refuses to be closed before its statements are finalised.
    for connection in (db, other):
        value(connection, "SELECT cloudsync_terminate()")
    return db


def session(rows, apply, local):
    other = connect("local.db")
    other.execute(TABLE)
    with local:
        recorder = apsw.Session(other, "main")
        recorder.attach()
        write(other, rows)
        changes = recorder.changeset()
    recorder.close()
    db = connect("apply.db")
    db.execute(TABLE)
    with apply:
        with db:
            apsw.Changeset.apply(changes, db, conflict=lambda *_: apsw.SQLITE_CHANGESET_REPLACE)
    return db


def main():
    with open(sys.argv[3], encoding="utf-8") as file:
        rows = [tuple(row) for row in json.load(file)]
    contender, apply, local = sys.argv[1], Timer(), Timer()
    db = globals()[contender](rows, apply, local)
    held = db.execute("SELECT id, owner_id, title, body, rank, updated_at FROM item").fetchall()
    if sorted(held) != sorted(rows):
        raise SystemExit(f"{contender} did not apply the rows: it holds {len(held)}, {len(rows)} were sent")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = os.path.getsize(db.filename)
    figures = {"apply": apply.wall, "apply cpu": apply.cpu, "local": local.wall, "size": size / len(rows)}
    print("done", json.dumps({"sqlite": apsw.sqlite_lib_version(), **figures}), flush=True)
    # Closing is not measured, and not every extension closes cleanly.
    sys.stdout.flush()
    os._exit(0)


main()
