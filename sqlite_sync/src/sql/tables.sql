-- What the library keeps in the database file. Statements are separated by blank lines.
-- Readable by anyone; to be written only where it says so.
CREATE TABLE sync_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- For the application to UPDATE.
CREATE TABLE sync_setting(name TEXT PRIMARY KEY, value, what TEXT) WITHOUT ROWID;

INSERT INTO sync_setting VALUES
  ('keep_days', 7, 'days for which confirmed batches are kept, in case the server loses its latest transactions'),
  ('batch_bytes', 67108864, 'size of the largest transaction that is sent, in bytes; the server refuses more than 64 MiB'),
  ('page_bytes', 1048576, 'size of a page of a download before compression that the device asks for, in bytes'),
  ('verify_hours', 24, 'hours after which all content is compared with the server again, right after a pull');

-- One row. applying: 0 the application writes, 1 or 2 a publish writes (2: and the application's triggers are watched).
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

-- What the capture triggers append. No constraint here may ever fail. c1..cN are widened with the tables.
CREATE TABLE sync_log(seq INTEGER PRIMARY KEY, tbl, kind, at, c1);

-- One local transaction each: first and last row of sync_log.
CREATE TABLE sync_boundary(first INTEGER PRIMARY KEY, last INTEGER);

-- To be written by a connection without the extension: INSERT INTO sync_marker DEFAULT VALUES ends a batch.
CREATE TABLE sync_marker(id INTEGER PRIMARY KEY, seq INTEGER);

CREATE TRIGGER sync_marker_seq AFTER INSERT ON sync_marker BEGIN
  UPDATE sync_marker SET seq = (SELECT coalesce(max(seq), 0) FROM sync_log) WHERE id = new.id;
END;

-- Local transactions. state: 0 waiting, 1 answered, 2 confirmed, 3 rejected, 4 held. replay: still shown on top of the server's rows.
CREATE TABLE sync_batch(id INTEGER PRIMARY KEY, number INTEGER, random BLOB NOT NULL, edited INTEGER NOT NULL, user TEXT NOT NULL,
  state INTEGER NOT NULL DEFAULT 0, replay INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL, verdict TEXT, code TEXT, message TEXT,
  subject TEXT, at INTEGER, json TEXT);

CREATE INDEX sync_batch_state ON sync_batch(state, id);

CREATE TABLE sync_change(id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, tbl INTEGER NOT NULL, key, body BLOB NOT NULL);

CREATE INDEX sync_change_key ON sync_change(tbl, key);

CREATE INDEX sync_change_batch ON sync_change(batch);

-- The server's version (NULL: it has no such row) of rows that look different here: by unconfirmed batches, or by an error that
-- kept the server's version from being written.
CREATE TABLE sync_shadow(tbl INTEGER NOT NULL, key, body BLOB, error TEXT, PRIMARY KEY(tbl, key)) WITHOUT ROWID;

-- Conflicts that the server decided in this device's batches; the application may DELETE.
CREATE TABLE sync_conflicts(id INTEGER PRIMARY KEY, batch INTEGER, at INTEGER, table_name TEXT, key TEXT, column_name TEXT,
  base, theirs, mine, result, reason TEXT);

CREATE TABLE sync_subscription(rule TEXT NOT NULL, params TEXT NOT NULL, PRIMARY KEY(rule, params)) WITHOUT ROWID;

CREATE VIEW sync_buckets AS
  SELECT b.rule, b.key_json AS key, b.priority, coalesce(sum(p.count), 0) AS rows,
    (SELECT json_group_array(json_array(entry, sum, count)) FROM sync_part WHERE bucket = b.id) AS sum,
    CASE WHEN b.misses >= 3 THEN 'mismatch' WHEN b.staged = 1 THEN 'staged' WHEN b.staged = -1 THEN 'leaving'
         WHEN b.refetch > 0 THEN 'refetch' WHEN b.published THEN 'published' ELSE 'arriving' END AS state
  FROM sync_bucket b LEFT JOIN sync_part p ON p.bucket = b.id GROUP BY b.id;

CREATE VIEW sync_pending AS
  SELECT b.id, b.number, CASE b.state WHEN 0 THEN 'waiting' WHEN 1 THEN 'answered' ELSE 'held' END AS state, b.user, b.edited,
    b.bytes, b.verdict, b.message, (SELECT count(*) FROM sync_change c WHERE c.batch = b.id) AS changes
  FROM sync_batch b WHERE b.state IN (0, 1, 4);

-- The application may DELETE what it has dealt with.
CREATE VIEW sync_rejected AS
  SELECT id, number, verdict, code, message, subject, at, json AS batch FROM sync_batch WHERE state = 3;

CREATE TRIGGER sync_rejected_discard INSTEAD OF DELETE ON sync_rejected BEGIN
  DELETE FROM sync_change WHERE batch = old.id;
  DELETE FROM sync_batch WHERE id = old.id;
END;

CREATE VIEW sync_status AS
  SELECT name, value FROM sync_meta WHERE name IN ('device', 'user', 'generation', 'published_at', 'pushed_at', 'verified_at', 'expected', 'notice', 'format')
  UNION ALL SELECT 'cursor_known', coalesce((SELECT length(value) > 0 FROM sync_meta WHERE name = 'cursor'), 0)
  UNION ALL SELECT 'complete', coalesce((SELECT value FROM sync_meta WHERE name = 'complete'), 0)
  UNION ALL SELECT 'rows', (SELECT coalesce(sum(count), 0) FROM sync_part)
  UNION ALL SELECT 'buckets', (SELECT count(*) FROM sync_bucket WHERE published)
  UNION ALL SELECT 'staged_pages', (SELECT count(*) FROM sync_stage)
  UNION ALL SELECT 'staged_bytes', (SELECT coalesce(sum(length(page)), 0) FROM sync_stage)
  UNION ALL SELECT 'staged_rows', coalesce((SELECT value FROM sync_meta WHERE name = 'staged_rows'), 0)
  UNION ALL SELECT 'unsealed', (SELECT count(*) FROM sync_log)
  UNION ALL SELECT 'waiting', (SELECT count(*) FROM sync_batch WHERE state = 0)
  UNION ALL SELECT 'answered', (SELECT count(*) FROM sync_batch WHERE state = 1)
  UNION ALL SELECT 'held', (SELECT count(*) FROM sync_batch WHERE state = 4)
  UNION ALL SELECT 'rejected', (SELECT count(*) FROM sync_batch WHERE state = 3)
  UNION ALL SELECT 'set_aside', (SELECT count(*) FROM sync_shadow WHERE error IS NOT NULL)
  UNION ALL SELECT 'refetch', (SELECT count(*) FROM sync_bucket WHERE refetch > 0)
  UNION ALL SELECT 'mismatch', (SELECT count(*) FROM sync_bucket WHERE misses >= 3)
  UNION ALL SELECT 'problem', t.name || ': ' || s.error FROM sync_shadow s JOIN sync_table t ON t.id = s.tbl WHERE s.error IS NOT NULL
  UNION ALL SELECT 'problem', value FROM sync_meta WHERE name = 'trigger_problem';
