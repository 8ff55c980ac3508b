"""A device's file in a build of SQLite that encrypts, driven line by line: tests/tests/security/encrypted.rs.

Each line is the SQL in hexadecimal, a space, and a blob in hexadecimal or -. The answer is `ok` with the first value, or `err` with the message, both in
hexadecimal.
"""

import sys

build, path, library, key = sys.argv[1:]
if build == "sqlite3mc":
    import apsw

    db = apsw.Connection(path)
else:
    from sqlcipher3 import dbapi2

    db = dbapi2.connect(path, isolation_level=None)
run = lambda sql, values=(): db.cursor().execute(sql, values).fetchall()


def everything():
    """Each value of each table, as the application may read it."""
    names = [name for (name,) in run("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return repr([run(f'SELECT * FROM "{name}"') for name in names])


def answer(sql, blob):
    if sql == "everything":
        return everything()
    rows = run(sql, () if blob == "-" else (bytes.fromhex(blob),))
    return rows[0][0] if rows else None


try:
    run(f"PRAGMA key = '{key}'")
    run("PRAGMA journal_mode = WAL")
    db.enable_load_extension(True)
    db.load_extension(library)
except Exception as error:
    print("err", str(error).encode().hex(), flush=True)
    sys.exit(1)
print("ok -", flush=True)
for line in sys.stdin:
    sql, blob = line.split()
    try:
        value = answer(bytes.fromhex(sql).decode(), blob)
        value = value if isinstance(value, bytes) else b"" if value is None else str(value).encode()
        print("ok", value.hex() or "-", flush=True)
    except Exception as error:
        print("err", str(error).encode().hex(), flush=True)
