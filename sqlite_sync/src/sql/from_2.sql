-- From format 2 to 3: what is kept belongs to a user. Statements are separated by blank lines. views.sql follows.
CREATE TABLE main.sync_conflict(id INTEGER PRIMARY KEY, batch INTEGER, at INTEGER, table_name TEXT, key TEXT, column_name TEXT,
  base, theirs, mine, result, reason TEXT, policy TEXT NOT NULL DEFAULT '', user TEXT NOT NULL DEFAULT '');

INSERT INTO main.sync_conflict
  SELECT c.*, coalesce((SELECT b.user FROM main.sync_batch b WHERE b.id = c.batch), (SELECT value FROM main.sync_meta WHERE name = 'device_user'), '')
  FROM main.sync_conflicts c;

DROP TABLE main.sync_conflicts;

CREATE INDEX main.sync_conflict_batch ON sync_conflict(batch);

CREATE INDEX main.sync_conflict_table ON sync_conflict(table_name);

CREATE TABLE main.sync_lost_row(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, table_name TEXT NOT NULL, key TEXT NOT NULL, row TEXT NOT NULL,
  server TEXT, tbl INTEGER NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL DEFAULT '', user TEXT NOT NULL DEFAULT '');

INSERT INTO main.sync_lost_row
  SELECT l.*, coalesce((SELECT value FROM main.sync_meta WHERE name = 'device_user'), '') FROM main.sync_lost l;

DROP TABLE main.sync_lost;

CREATE INDEX main.sync_lost_row_key ON sync_lost_row(tbl, key);

UPDATE main.sync_meta SET value = 3 WHERE name = 'format';
