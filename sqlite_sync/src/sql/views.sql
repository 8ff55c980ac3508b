-- How to read what the library keeps, and what happens when the application writes to it. Statements are separated by blank lines.
-- All of it is made anew when a file comes from an older library.
-- What belongs to a user is shown while that user is signed in; what belongs to nobody was made before the first sign-in.
CREATE VIEW sync_user AS SELECT '' AS user UNION SELECT value FROM sync_meta WHERE name = 'user';

CREATE TRIGGER sync_marker_seq AFTER INSERT ON sync_marker BEGIN
  SELECT raise(ABORT, 'a note has at most 65536 bytes') WHERE length(CAST(new.note AS BLOB)) > 65536;
  INSERT INTO sync_log(tbl, kind, at, txn, c1) SELECT 0, 'n', julianday('now'), char(), new.note WHERE new.note IS NOT NULL;
  INSERT INTO sync_log(tbl, kind, at, txn, c1) SELECT 0, 'p', julianday('now'), char(), new.priority WHERE new.priority IS NOT NULL;
  UPDATE sync_marker SET seq = (SELECT coalesce(max(seq), 0) FROM sync_log) WHERE id = new.id;
END;

CREATE VIEW sync_buckets AS
  SELECT b.rule, b.key_json AS key, b.priority, coalesce(sum(p.count), 0) AS rows,
    -- As JSON; SQLite's functions for it are refused in views under trusted_schema=OFF.
    (SELECT '[' || coalesce(group_concat('[' || entry || ',' || sum || ',' || count || ']'), '') || ']' FROM sync_part WHERE bucket = b.id) AS sum,
    CASE WHEN b.misses >= 3 THEN 'mismatch' WHEN b.staged = 1 THEN 'staged' WHEN b.staged = -1 THEN 'leaving'
         WHEN b.refetch > 0 THEN 'refetch' WHEN b.published THEN 'published' ELSE 'arriving' END AS state
  FROM sync_bucket b LEFT JOIN sync_part p ON p.bucket = b.id GROUP BY b.id;

CREATE VIEW sync_pending AS
  SELECT b.id, b.number, CASE b.state WHEN 0 THEN iif(b.keyless, 'keyless', 'waiting') WHEN 1 THEN 'answered' ELSE 'held' END AS state, b.user, b.edited,
    b.bytes, b.verdict, b.message, b.priority, b.note, (SELECT count(*) FROM sync_change c WHERE c.batch = b.id) AS changes
  FROM sync_batch b WHERE b.state IN (0, 1, 4) AND b.user IN (SELECT user FROM sync_user);

-- The application may DELETE what it has dealt with, which is what sync_discard does. conflicts: how many rows of sync_conflicts
-- belong to it.
CREATE VIEW sync_rejected AS
  SELECT id, number, verdict, code, message, subject, at, json AS batch, note,
    (SELECT count(*) FROM sync_conflict c WHERE c.batch = b.id) AS conflicts
  FROM sync_batch b WHERE state = 3 AND user IN (SELECT user FROM sync_user);

CREATE TRIGGER sync_rejected_discard INSTEAD OF DELETE ON sync_rejected BEGIN
  DELETE FROM sync_change WHERE batch = old.id;
  DELETE FROM sync_conflict WHERE batch = old.id;
  DELETE FROM sync_batch WHERE id = old.id;
END;

-- The application may DELETE here too, and in sync_lost, which it may also give back (sync_restore_lost).
CREATE VIEW sync_conflicts AS
  SELECT id, batch, at, table_name, key, column_name, base, theirs, mine, result, reason, policy
  FROM sync_conflict WHERE user IN (SELECT user FROM sync_user);

CREATE TRIGGER sync_conflicts_discard INSTEAD OF DELETE ON sync_conflicts BEGIN
  DELETE FROM sync_conflict WHERE id = old.id;
END;

CREATE VIEW sync_lost AS
  SELECT id, at, table_name, key, row, server, reason FROM sync_lost_row WHERE user IN (SELECT user FROM sync_user);

CREATE TRIGGER sync_lost_discard INSTEAD OF DELETE ON sync_lost BEGIN
  DELETE FROM sync_lost_row WHERE id = old.id;
END;

-- How many records there are about each table.
CREATE VIEW sync_record_counts AS
  SELECT table_name, sum(rejected) AS rejected, sum(conflicts) AS conflicts FROM (
    SELECT coalesce(t.name, 'a table that is no longer synced') AS table_name, count(DISTINCT c.batch) AS rejected, 0 AS conflicts
    FROM sync_batch b JOIN sync_change c ON c.batch = b.id LEFT JOIN sync_table t ON t.id = c.tbl
    WHERE b.state = 3 AND b.user IN (SELECT user FROM sync_user) GROUP BY c.tbl
    UNION ALL SELECT table_name, 0, count(*) FROM sync_conflicts GROUP BY table_name)
  GROUP BY table_name;

CREATE VIEW sync_status AS
  SELECT name, value FROM sync_meta WHERE name IN ('device', 'user', 'generation', 'published_at', 'pushed_at', 'verified_at', 'expected', 'notice', 'format', 'trusted_keys', 'unreadable')
  UNION ALL SELECT 'cursor_known', coalesce((SELECT length(value) > 0 FROM sync_meta WHERE name = 'cursor'), 0)
  UNION ALL SELECT 'complete', coalesce((SELECT value FROM sync_meta WHERE name = 'complete'), 0)
  UNION ALL SELECT 'rows', (SELECT coalesce(sum(count), 0) FROM sync_part)
  UNION ALL SELECT 'buckets', (SELECT count(*) FROM sync_bucket WHERE published)
  UNION ALL SELECT 'staged_pages', (SELECT count(*) FROM sync_stage)
  UNION ALL SELECT 'staged_bytes', (SELECT coalesce(sum(length(page)), 0) FROM sync_stage)
  UNION ALL SELECT 'staged_rows', coalesce((SELECT value FROM sync_meta WHERE name = 'staged_rows'), 0)
  UNION ALL SELECT 'unsealed', (SELECT count(*) FROM sync_log)
  UNION ALL SELECT 'waiting', (SELECT count(*) FROM sync_batch WHERE state = 0 AND user IN (SELECT user FROM sync_user))
  UNION ALL SELECT 'keyless', (SELECT count(*) FROM sync_batch WHERE keyless > 0 AND user IN (SELECT user FROM sync_user))
  UNION ALL SELECT 'answered', (SELECT count(*) FROM sync_batch WHERE state = 1 AND user IN (SELECT user FROM sync_user))
  UNION ALL SELECT 'held', (SELECT count(*) FROM sync_batch WHERE state = 4 OR state IN (0, 1) AND user NOT IN (SELECT user FROM sync_user))
  UNION ALL SELECT 'rejected', (SELECT count(*) FROM sync_rejected)
  UNION ALL SELECT 'lost', (SELECT count(*) FROM sync_lost)
  UNION ALL SELECT 'set_aside', (SELECT count(*) FROM sync_shadow WHERE error IS NOT NULL)
  UNION ALL SELECT 'refetch', (SELECT count(*) FROM sync_bucket WHERE refetch > 0)
  UNION ALL SELECT 'mismatch', (SELECT count(*) FROM sync_bucket WHERE misses >= 3)
  UNION ALL SELECT 'problem', t.name || ': ' || s.error FROM sync_shadow s JOIN sync_table t ON t.id = s.tbl WHERE s.error IS NOT NULL
  UNION ALL SELECT 'problem', t.name || ': ' || count(*) || ' new rows wait for keys from the server: sync while online'
    FROM sync_change c JOIN sync_batch b ON b.id = c.batch JOIN sync_table t ON t.id = c.tbl
    WHERE c.chosen AND b.user IN (SELECT user FROM sync_user) GROUP BY c.tbl
  UNION ALL SELECT 'problem', value || ' values cannot be decrypted: give sync_set_key their key; if it has it, they were altered or moved'
    FROM sync_meta WHERE name = 'unreadable' AND value > 0
  UNION ALL SELECT 'problem', value FROM sync_meta WHERE name IN ('trigger_problem', 'key_problem');
