"""A device on the SQLite that apsw brings, driven over standard input: one JSON object a line, {"sql": ..., "blob": hex or null},
answered by {"rows": [[...]]} with blobs as {"hex": ...}, or by {"error": ...}."""

import json
import sys

import apsw

library, path = sys.argv[1:]
db = apsw.Connection(path)
db.enable_load_extension(True)
db.load_extension(library)
db.enable_load_extension(False)
print(json.dumps({"version": apsw.sqlite_lib_version()}), flush=True)
for line in sys.stdin:
    call = json.loads(line)
    bindings = () if call["blob"] is None else (bytes.fromhex(call["blob"]),)
    try:
        rows = db.execute(call["sql"], bindings).fetchall()
        answer = {"rows": [[{"hex": v.hex()} if isinstance(v, bytes) else v for v in row] for row in rows]}
    except apsw.Error as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
