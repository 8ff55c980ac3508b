-- From format 1 to 2. Statements are separated by blank lines. views.sql follows.
INSERT OR IGNORE INTO main.sync_setting VALUES
  ('keep_records_days', 90, 'days for which rejected batches, conflicts and lost rows are kept, unless they are retried or discarded before'),
  ('keys_per_table', 1000, 'numbers for new keys that are leased from the server for each table whose key it takes from a sequence');

ALTER TABLE main.sync_log ADD COLUMN txn;

UPDATE main.sync_log SET txn = (SELECT b.first FROM main.sync_boundary b WHERE sync_log.seq BETWEEN b.first AND b.last);

DROP TABLE main.sync_boundary;

ALTER TABLE main.sync_marker ADD COLUMN note TEXT;

ALTER TABLE main.sync_marker ADD COLUMN priority INTEGER;

ALTER TABLE main.sync_batch ADD COLUMN note TEXT NOT NULL DEFAULT '';

ALTER TABLE main.sync_batch ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;

ALTER TABLE main.sync_batch ADD COLUMN place INTEGER NOT NULL DEFAULT 0;

ALTER TABLE main.sync_batch ADD COLUMN former INTEGER;

ALTER TABLE main.sync_batch ADD COLUMN keyless INTEGER NOT NULL DEFAULT 0;

ALTER TABLE main.sync_batch ADD COLUMN whole INTEGER NOT NULL DEFAULT 0;

ALTER TABLE main.sync_change ADD COLUMN chosen INTEGER NOT NULL DEFAULT 0;

ALTER TABLE main.sync_conflicts ADD COLUMN policy TEXT NOT NULL DEFAULT '';

CREATE INDEX main.sync_change_chosen ON sync_change(batch) WHERE chosen;

CREATE INDEX main.sync_conflicts_batch ON sync_conflicts(batch);

CREATE INDEX main.sync_conflicts_table ON sync_conflicts(table_name);

CREATE TABLE main.sync_lease(tbl INTEGER NOT NULL, first INTEGER NOT NULL, step INTEGER NOT NULL, next INTEGER NOT NULL,
  remaining INTEGER NOT NULL, size INTEGER NOT NULL, proof BLOB NOT NULL, held INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(tbl, first)) WITHOUT ROWID;

CREATE TABLE main.sync_moved_key(id INTEGER PRIMARY KEY, table_name TEXT NOT NULL, old_key INTEGER NOT NULL, new_key INTEGER NOT NULL,
  at INTEGER NOT NULL);

CREATE TABLE main.sync_lost(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, table_name TEXT NOT NULL, key TEXT NOT NULL, row TEXT NOT NULL,
  server TEXT, tbl INTEGER NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL DEFAULT '');

CREATE INDEX main.sync_lost_key ON sync_lost(tbl, key);

-- The schema comes once more, with what older libraries passed over.
UPDATE main.sync_meta SET value = 0 WHERE name = 'generation';

UPDATE main.sync_meta SET value = 2 WHERE name = 'format';
