-- What an application may not do with a table on a device; what stands in braces is filled in by capture.rs. Not while a publish
-- writes. A trigger's RAISE(ABORT) holds whatever the statement's own OR clause says.
CREATE TRIGGER main.sync_{id}_refuse_insert BEFORE INSERT ON {table} WHEN (SELECT applying FROM sync_guard) IS 0 BEGIN
  SELECT raise(ABORT, {message});
END

-- A row that OR REPLACE removes fires no delete trigger: the log has it right before the insert that took its place.
CREATE TRIGGER main.sync_{id}_refuse_replace AFTER INSERT ON {table} WHEN (SELECT applying FROM sync_guard) IS 0
  AND (SELECT kind = 'r' AND tbl = {id} AND {logged} FROM sync_log
       WHERE seq = (SELECT seq - 1 FROM sync_log WHERE kind = 'b' AND tbl = {id} ORDER BY seq DESC LIMIT 1)) BEGIN
  SELECT raise(ABORT, {message});
END

CREATE TRIGGER main.sync_{id}_refuse_update BEFORE UPDATE ON {table} WHEN (SELECT applying FROM sync_guard) IS 0 BEGIN
  SELECT raise(ABORT, {message});
END

CREATE TRIGGER main.sync_{id}_refuse_delete BEFORE DELETE ON {table} WHEN (SELECT applying FROM sync_guard) IS 0 BEGIN
  SELECT raise(ABORT, {message});
END
