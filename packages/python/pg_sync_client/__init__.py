"""An offline-first SQLite database that keeps itself in step with Postgres.

    from pg_sync_client import connect

    db = connect("app.db", "https://api.example.com/sync", token=lambda: sign_in())
    db.execute("INSERT INTO task (list_id, body) VALUES (?, ?)", (list_id, "Milk"))
    db.watch("SELECT body, done FROM task ORDER BY body", print)

# Layout
- `database`: what an application uses: its connections, and what it asks of the rest
- `syncing`: the thread that syncs, and the one that listens for the server's events
- `transport`: the requests; `backoff`: how long to wait after a failure
- `watching`: queries that run again when their tables change
- `sqlite`: connections with the extension loaded
"""

from .backoff import Backoff
from .database import Database, connect
from .sqlite import library_path
from .syncing import Status
from .transport import Refused, Unreachable
from .watching import Watch

__all__ = ["Backoff", "Database", "Refused", "Status", "Unreachable", "Watch", "connect", "library_path"]
