PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE sync_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO sync_meta VALUES('complete',1);
INSERT INTO sync_meta VALUES('cursor',X'637572736f72');
INSERT INTO sync_meta VALUES('device','79afbe51-7c39-4602-b429-8f0be2f98c44');
INSERT INTO sync_meta VALUES('device_user','anna');
INSERT INTO sync_meta VALUES('format',1);
INSERT INTO sync_meta VALUES('generation',1);
INSERT INTO sync_meta VALUES('last_edit',1795362234668992);
INSERT INTO sync_meta VALUES('last_number',2);
INSERT INTO sync_meta VALUES('need_held',0);
INSERT INTO sync_meta VALUES('notice',NULL);
INSERT INTO sync_meta VALUES('pass',X'');
INSERT INTO sync_meta VALUES('published_at',1795362234646260);
INSERT INTO sync_meta VALUES('pushed_at',1795362234669442);
INSERT INTO sync_meta VALUES('server_time',0);
INSERT INTO sync_meta VALUES('staged_rows',0);
INSERT INTO sync_meta VALUES('stalls',0);
INSERT INTO sync_meta VALUES('user','anna');
INSERT INTO sync_meta VALUES('verified_at',1795362234646296);
CREATE TABLE sync_setting(name TEXT PRIMARY KEY, value, what TEXT) WITHOUT ROWID;
INSERT INTO sync_setting VALUES('batch_bytes',67108864,'size of the largest transaction that is sent, in bytes; the server refuses more than 64 MiB');
INSERT INTO sync_setting VALUES('keep_days',7,'days for which confirmed batches are kept, in case the server loses its latest transactions');
INSERT INTO sync_setting VALUES('page_bytes',1048576,'size of a page of a download before compression that the device asks for, in bytes');
INSERT INTO sync_setting VALUES('verify_hours',24,'hours after which all content is compared with the server again, right after a pull');
CREATE TABLE sync_guard(applying INTEGER NOT NULL);
INSERT INTO sync_guard VALUES(0);
CREATE TABLE sync_table(id INTEGER PRIMARY KEY, name TEXT NOT NULL, tag INTEGER NOT NULL UNIQUE, body BLOB NOT NULL, retired INTEGER NOT NULL);
INSERT INTO sync_table VALUES(1,'notes',2802788897,X'97a56e6f746573cea70f2a21949aa4626f6479ce230d835803a4746578740003c2c200c09aa472616e6bce5a8460f601a4746578740004c2c200c09aa26964cea561452703a4746578740101c3c201c09aa57469746c65ceaaf2320603a4746578740002c2c200c0900090c2',0);
INSERT INTO sync_table VALUES(2,'numbers',4053876287,X'97a76e756d62657273cef1a13e3f929aa178ce2d71164202a4746578740002c2c200c09aa26964cea561452701a4746578740101c3c200c0900090c2',0);
INSERT INTO sync_table VALUES(3,'pairs',532331794,X'97a57061697273ce1fbabd12939aa162ce3e23e81601a4746578740202c3c200c09aa161ceca97811203a4746578740101c3c201c09aa46e6f7465ceedb4656203a4746578740003c2c200c0900090c2',0);
CREATE TABLE sync_bucket(id INTEGER PRIMARY KEY, bucket BLOB NOT NULL UNIQUE, rule TEXT NOT NULL, key_json TEXT NOT NULL, priority INTEGER NOT NULL,
  published INTEGER NOT NULL DEFAULT 0, staged INTEGER NOT NULL DEFAULT 0, refetch INTEGER NOT NULL DEFAULT 0, misses INTEGER NOT NULL DEFAULT 0);
INSERT INTO sync_bucket VALUES(1,X'57d212659062c01f5cc343d057974df5','all','[]',1,1,0,0,0);
CREATE TABLE sync_part(id INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, entry INTEGER NOT NULL, tbl INTEGER NOT NULL,
  sum INTEGER NOT NULL DEFAULT 0, count INTEGER NOT NULL DEFAULT 0, UNIQUE(bucket, entry));
INSERT INTO sync_part VALUES(1,1,1,1,5656319863853547759,3);
CREATE TABLE sync_row(tbl INTEGER NOT NULL, key, part INTEGER NOT NULL, hash INTEGER NOT NULL, PRIMARY KEY(tbl, key, part)) WITHOUT ROWID;
INSERT INTO sync_row VALUES(1,'k1',1,5859803106454162884);
INSERT INTO sync_row VALUES(1,'k2',1,-6524541522839244223);
INSERT INTO sync_row VALUES(1,'k3',1,6321058280238629098);
CREATE TABLE sync_stage(seq INTEGER PRIMARY KEY, page BLOB NOT NULL);
CREATE TABLE sync_log(seq INTEGER PRIMARY KEY, tbl, kind, at, c1, c2, c3, c4);
INSERT INTO sync_log VALUES(1,2,'b',2461367.1554940394126,NULL,-1,NULL,NULL);
INSERT INTO sync_log VALUES(2,2,'i',2461367.1554940394126,NULL,1,NULL,NULL);
CREATE TABLE sync_boundary(first INTEGER PRIMARY KEY, last INTEGER);
INSERT INTO sync_boundary VALUES(1,2);
CREATE TABLE sync_marker(id INTEGER PRIMARY KEY, seq INTEGER);
CREATE TABLE sync_batch(id INTEGER PRIMARY KEY, number INTEGER, random BLOB NOT NULL, edited INTEGER NOT NULL, user TEXT NOT NULL,
  state INTEGER NOT NULL DEFAULT 0, replay INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL, verdict TEXT, code TEXT, message TEXT,
  subject TEXT, at INTEGER, json TEXT);
INSERT INTO sync_batch VALUES(1,1,X'ecef99859a4d435780d13f8d36c5ce1e',1795362234666980,'anna',3,0,541,'rejected','23505','a reason','',1795362234669274,'[{"key":["k1"],"kind":"update","new":{"title":"refused"},"old":{"title":"a"},"table":"notes"}]');
INSERT INTO sync_batch VALUES(2,2,X'f7a48a89ee124c87a590ddffb0e0a649',1795362234668992,'anna',0,1,539,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE sync_change(id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, tbl INTEGER NOT NULL, key, body BLOB NOT NULL);
INSERT INTO sync_change VALUES(1,1,1,'k1',X'96cea70f2a210291a26b3191ceaaf2320691a16191a772656675736564');
INSERT INTO sync_change VALUES(2,2,1,'k2',X'96cea70f2a210291a26b3291ceaaf2320691a16291a57761697473');
CREATE TABLE sync_shadow(tbl INTEGER NOT NULL, key, body BLOB, error TEXT, PRIMARY KEY(tbl, key)) WITHOUT ROWID;
INSERT INTO sync_shadow VALUES(1,'k2',X'cea5614527a26b32ceaaf23206a162',NULL);
CREATE TABLE sync_conflicts(id INTEGER PRIMARY KEY, batch INTEGER, at INTEGER, table_name TEXT, key TEXT, column_name TEXT,
  base, theirs, mine, result, reason TEXT);
INSERT INTO sync_conflicts VALUES(1,1,1795362234669426,'notes','["k1"]',NULL,NULL,'{}','{}',NULL,'old');
CREATE TABLE sync_subscription(rule TEXT NOT NULL, params TEXT NOT NULL, PRIMARY KEY(rule, params)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS "notes" ("id" TEXT NOT NULL DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))), "title" TEXT, "body" TEXT, "rank" INTEGER, PRIMARY KEY ("id"));
INSERT INTO notes VALUES('k1','a',NULL,NULL);
INSERT INTO notes VALUES('k2','waits',NULL,NULL);
INSERT INTO notes VALUES('k3','c',NULL,NULL);
CREATE TABLE IF NOT EXISTS "numbers" ("id" INTEGER PRIMARY KEY, "x" REAL);
INSERT INTO numbers VALUES(1,1.5);
CREATE TABLE IF NOT EXISTS "pairs" ("a" TEXT NOT NULL DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))), "b" INTEGER NOT NULL, "note" TEXT, PRIMARY KEY ("a", "b"));
CREATE TRIGGER sync_marker_seq AFTER INSERT ON sync_marker BEGIN
  UPDATE sync_marker SET seq = (SELECT coalesce(max(seq), 0) FROM sync_log) WHERE id = new.id;
END;
CREATE INDEX sync_batch_state ON sync_batch(state, id);
CREATE INDEX sync_change_key ON sync_change(tbl, key);
CREATE INDEX sync_change_batch ON sync_change(batch);
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
CREATE TRIGGER sync_1_insert BEFORE INSERT ON "notes" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2, c3, c4) SELECT 1, 'r', julianday('now'), "body", "rank", "id", "title" FROM "notes" WHERE "id" = new."id";
  INSERT INTO sync_log(tbl, kind, at, c3) VALUES (1, 'b', julianday('now'), new."id");
END;
CREATE TRIGGER sync_1_inserted AFTER INSERT ON "notes" WHEN (SELECT applying FROM sync_guard) IS NOT 1
  AND (SELECT kind = 'b' AND tbl = 1 AND c3 IS new."id" FROM sync_log ORDER BY seq DESC LIMIT 1) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c3) VALUES (1, 'i', julianday('now'), new."id");
END;
CREATE TRIGGER sync_1_rekey BEFORE UPDATE OF "id" ON "notes" WHEN (SELECT applying FROM sync_guard) IS NOT 1 AND (new."id" IS NOT old."id") BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2, c3, c4) SELECT 1, 'r', julianday('now'), "body", "rank", "id", "title" FROM "notes" WHERE "id" = new."id";
  INSERT INTO sync_log(tbl, kind, at, c3) VALUES (1, 'k', julianday('now'), new."id");
END;
CREATE TRIGGER sync_1_update BEFORE UPDATE ON "notes" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2, c3, c4) VALUES (1, 'u', julianday('now'), old."body", old."rank", old."id", old."title");
END;
CREATE TRIGGER sync_1_delete BEFORE DELETE ON "notes" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2, c3, c4) VALUES (1, 'd', julianday('now'), old."body", old."rank", old."id", old."title");
END;
CREATE TRIGGER sync_2_insert BEFORE INSERT ON "numbers" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2) SELECT 2, 'r', julianday('now'), "x", "id" FROM "numbers" WHERE "id" = new."id";
  INSERT INTO sync_log(tbl, kind, at, c2) VALUES (2, 'b', julianday('now'), new."id");
END;
CREATE TRIGGER sync_2_inserted AFTER INSERT ON "numbers" WHEN (SELECT applying FROM sync_guard) IS NOT 1
  AND (SELECT kind = 'b' AND tbl = 2 AND c2 IS new."id" FROM sync_log ORDER BY seq DESC LIMIT 1) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c2) VALUES (2, 'i', julianday('now'), new."id");
END;
CREATE TRIGGER sync_2_rekey BEFORE UPDATE OF "id" ON "numbers" WHEN (SELECT applying FROM sync_guard) IS NOT 1 AND (new."id" IS NOT old."id") BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2) SELECT 2, 'r', julianday('now'), "x", "id" FROM "numbers" WHERE "id" = new."id";
  INSERT INTO sync_log(tbl, kind, at, c2) VALUES (2, 'k', julianday('now'), new."id");
END;
CREATE TRIGGER sync_2_update BEFORE UPDATE ON "numbers" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2) VALUES (2, 'u', julianday('now'), old."x", old."id");
END;
CREATE TRIGGER sync_2_delete BEFORE DELETE ON "numbers" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2) VALUES (2, 'd', julianday('now'), old."x", old."id");
END;
CREATE TRIGGER sync_3_insert BEFORE INSERT ON "pairs" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2, c3) SELECT 3, 'r', julianday('now'), "b", "a", "note" FROM "pairs" WHERE "a" = new."a" AND "b" = new."b";
  INSERT INTO sync_log(tbl, kind, at, c2, c1) VALUES (3, 'b', julianday('now'), new."a", new."b");
END;
CREATE TRIGGER sync_3_inserted AFTER INSERT ON "pairs" WHEN (SELECT applying FROM sync_guard) IS NOT 1
  AND (SELECT kind = 'b' AND tbl = 3 AND c2 IS new."a" AND c1 IS new."b" FROM sync_log ORDER BY seq DESC LIMIT 1) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c2, c1) VALUES (3, 'i', julianday('now'), new."a", new."b");
END;
CREATE TRIGGER sync_3_rekey BEFORE UPDATE OF "a", "b" ON "pairs" WHEN (SELECT applying FROM sync_guard) IS NOT 1 AND (new."a" IS NOT old."a" OR new."b" IS NOT old."b") BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2, c3) SELECT 3, 'r', julianday('now'), "b", "a", "note" FROM "pairs" WHERE "a" = new."a" AND "b" = new."b";
  INSERT INTO sync_log(tbl, kind, at, c2, c1) VALUES (3, 'k', julianday('now'), new."a", new."b");
END;
CREATE TRIGGER sync_3_update BEFORE UPDATE ON "pairs" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2, c3) VALUES (3, 'u', julianday('now'), old."b", old."a", old."note");
END;
CREATE TRIGGER sync_3_delete BEFORE DELETE ON "pairs" WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, c1, c2, c3) VALUES (3, 'd', julianday('now'), old."b", old."a", old."note");
END;
COMMIT;
