-- What the library keeps in the database file, format 3. Statements are separated by blank lines. views.sql shows how to read it.
-- Readable by anyone; to be written only where it says so.
CREATE TABLE sync_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- For the application to UPDATE.
CREATE TABLE sync_setting(name TEXT PRIMARY KEY, value, what TEXT) WITHOUT ROWID;

INSERT INTO sync_setting VALUES
  ('keep_days', 7, 'days for which confirmed batches are kept, in case the server loses its latest transactions'),
  ('batch_bytes', 67108864, 'size of the largest transaction that is sent, in bytes; the server refuses more than 64 MiB'),
  ('page_bytes', 1048576, 'size of a page of a download before compression that the device asks for, in bytes'),
  ('keep_records_days', 90, 'days for which rejected batches, conflicts and lost rows are kept, unless they are retried or discarded before'),
  ('keys_per_table', 1000, 'numbers for new keys that are leased from the server for each table whose key it takes from a sequence'),
  ('verify_hours', 24, 'hours after which all content is compared with the server again, right after a pull');

-- One row. applying: 2 while a publish writes and the application has triggers on synced tables, 0 otherwise. 1 (no publish sets it
-- any longer): nothing is captured, for who repairs a file by hand.
CREATE TABLE sync_guard(applying INTEGER NOT NULL);

INSERT INTO sync_guard VALUES (0);

-- body: the table as the server describes it. retired: no longer in the schema, kept for its unsent writes.
CREATE TABLE sync_table(id INTEGER PRIMARY KEY, name TEXT NOT NULL, tag INTEGER NOT NULL UNIQUE, body BLOB NOT NULL, retired INTEGER NOT NULL);

-- published: its rows are visible. staged: 1 completely staged, -1 a staged page says it goes. refetch: 1 to be fetched again,
-- 2 asked for. misses: how often in a row its sum was wrong.
CREATE TABLE sync_bucket(id INTEGER PRIMARY KEY, bucket BLOB NOT NULL UNIQUE, rule TEXT NOT NULL, key_json TEXT NOT NULL, priority INTEGER NOT NULL,
  published INTEGER NOT NULL DEFAULT 0, staged INTEGER NOT NULL DEFAULT 0, refetch INTEGER NOT NULL DEFAULT 0, misses INTEGER NOT NULL DEFAULT 0);

-- The rows of one entry in one bucket: sum and count of their hashes.
CREATE TABLE sync_part(id INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, entry INTEGER NOT NULL, tbl INTEGER NOT NULL,
  sum INTEGER NOT NULL DEFAULT 0, count INTEGER NOT NULL DEFAULT 0, UNIQUE(bucket, entry));

-- Which row is in which part. key: the key's value, or for a composite key its bytes as on the wire.
CREATE TABLE sync_row(tbl INTEGER NOT NULL, key, part INTEGER NOT NULL, hash INTEGER NOT NULL, PRIMARY KEY(tbl, key, part)) WITHOUT ROWID;

-- Pages that wait for the one that publishes them.
CREATE TABLE sync_stage(seq INTEGER PRIMARY KEY, page BLOB NOT NULL);

-- What the capture triggers append. No constraint here may ever fail. c1..cN are widened with the tables. Rows of table 0 are about
-- the transaction itself: kind n its note, p its priority. txn: a number of the transaction, none (an empty text) where a connection
-- without the extension wrote it.
CREATE TABLE sync_log(seq INTEGER PRIMARY KEY, tbl, kind, at, txn, c1);

-- To be written by a connection without the extension: INSERT INTO sync_marker DEFAULT VALUES ends a batch. It may say what
-- sync_note and sync_priority would: INSERT INTO sync_marker(note, priority) VALUES ('{"from":"import"}', 5).
CREATE TABLE sync_marker(id INTEGER PRIMARY KEY, seq INTEGER, note TEXT, priority INTEGER);

-- Local transactions, each of the user who made it. state: 0 waiting, 1 answered, 2 confirmed, 3 rejected, 4 held. replay: 1 still shown on
-- top of the server's rows, 2 to be shown again once its user is back.
-- place: its priority, or that of a more urgent one that depends on it. former: the number it had under another device id.
-- keyless: waits for a number of the server's, 1 for a row of its own, 2 for one that it depends on. whole: the server asked for whole
-- rows, and its updates say what is known of them.
CREATE TABLE sync_batch(id INTEGER PRIMARY KEY, number INTEGER, random BLOB NOT NULL, edited INTEGER NOT NULL, user TEXT NOT NULL,
  state INTEGER NOT NULL DEFAULT 0, replay INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL, verdict TEXT, code TEXT, message TEXT,
  subject TEXT, at INTEGER, json TEXT, note TEXT NOT NULL DEFAULT '', priority INTEGER NOT NULL DEFAULT 0,
  place INTEGER NOT NULL DEFAULT 0, former INTEGER, keyless INTEGER NOT NULL DEFAULT 0,
  whole INTEGER NOT NULL DEFAULT 0);

CREATE INDEX sync_batch_state ON sync_batch(state, id);

-- chosen: SQLite chose the key of this insert, and it is to give way to one that the server leased.
CREATE TABLE sync_change(id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, tbl INTEGER NOT NULL, key, body BLOB NOT NULL,
  chosen INTEGER NOT NULL DEFAULT 0);

CREATE INDEX sync_change_key ON sync_change(tbl, key);

CREATE INDEX sync_change_batch ON sync_change(batch);

-- The server's version (NULL: it has no such row) of rows that look different here: by unconfirmed batches, or by an error that
-- kept the server's version from being written.
CREATE TABLE sync_shadow(tbl INTEGER NOT NULL, key, body BLOB, error TEXT, PRIMARY KEY(tbl, key)) WITHOUT ROWID;

-- Conflicts that the server decided in this device's batches, and rows that a constraint kept out of a rejected one (policy
-- constraint). user: whose.
CREATE TABLE sync_conflict(id INTEGER PRIMARY KEY, batch INTEGER, at INTEGER, table_name TEXT, key TEXT, column_name TEXT,
  base, theirs, mine, result, reason TEXT, policy TEXT NOT NULL DEFAULT '', user TEXT NOT NULL DEFAULT '');

CREATE INDEX sync_change_chosen ON sync_change(batch) WHERE chosen;

CREATE INDEX sync_conflict_batch ON sync_conflict(batch);

CREATE INDEX sync_conflict_table ON sync_conflict(table_name);

-- Rows that were here and that went without anybody's write: the server went back in time and has lost them, or has them as something else
-- (server: what it has, NULL: nothing), or they were in no bucket (reason says which); body: the row; user: who had it.
CREATE TABLE sync_lost_row(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, table_name TEXT NOT NULL, key TEXT NOT NULL, row TEXT NOT NULL,
  server TEXT, tbl INTEGER NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL DEFAULT '', user TEXT NOT NULL DEFAULT '');

CREATE INDEX sync_lost_row_key ON sync_lost_row(tbl, key);

-- Numbers that the server leased for new keys of a table, from first on, step apart: next is the next, so many of size remain. held: the
-- server went back in time and may not remember; 1 to be told of it, 2 told.
CREATE TABLE sync_lease(tbl INTEGER NOT NULL, first INTEGER NOT NULL, step INTEGER NOT NULL, next INTEGER NOT NULL,
  remaining INTEGER NOT NULL, size INTEGER NOT NULL, proof BLOB NOT NULL, held INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(tbl, first)) WITHOUT ROWID;

-- Rows whose key SQLite chose and that now have a leased one, so that the application may follow; it may DELETE.
CREATE TABLE sync_moved_key(id INTEGER PRIMARY KEY, table_name TEXT NOT NULL, old_key INTEGER NOT NULL, new_key INTEGER NOT NULL,
  at INTEGER NOT NULL);

CREATE TABLE sync_subscription(rule TEXT NOT NULL, params TEXT NOT NULL, PRIMARY KEY(rule, params)) WITHOUT ROWID;
