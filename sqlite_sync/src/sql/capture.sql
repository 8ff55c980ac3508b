-- The triggers of one table; what stands in braces is filled in by capture.rs. The guard is 1 while a publish writes.
CREATE TRIGGER main.sync_{id}_insert BEFORE INSERT ON {table} WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, txn, {log_all}) SELECT {id}, 'r', julianday('now'), char(), {all} FROM {table} WHERE {is_new};
  INSERT INTO sync_log(tbl, kind, at, txn, {log_key}) VALUES ({id}, 'b', julianday('now'), char(), {new_key});
END

-- Only where the key was not known before (or triggers of the application came between).
CREATE TRIGGER main.sync_{id}_inserted AFTER INSERT ON {table} WHEN (SELECT applying FROM sync_guard) IS NOT 1
  AND (SELECT kind = 'b' AND tbl = {id} AND {logged} FROM sync_log ORDER BY seq DESC LIMIT 1) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, txn, {log_key}) VALUES ({id}, 'i', julianday('now'), char(), {new_key});
END

-- Made before the next one, so it fires after it: the old key goes before the new one comes.
CREATE TRIGGER main.sync_{id}_rekey BEFORE UPDATE OF {key} ON {table} WHEN (SELECT applying FROM sync_guard) IS NOT 1 AND ({moved}) BEGIN
  INSERT INTO sync_log(tbl, kind, at, txn, {log_all}) SELECT {id}, 'r', julianday('now'), char(), {all} FROM {table} WHERE {is_new};
  INSERT INTO sync_log(tbl, kind, at, txn, {log_key}) VALUES ({id}, 'k', julianday('now'), char(), {new_key});
END

CREATE TRIGGER main.sync_{id}_update BEFORE UPDATE ON {table} WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, txn, {log_all}) VALUES ({id}, 'u', julianday('now'), char(), {old_all});
END

CREATE TRIGGER main.sync_{id}_delete BEFORE DELETE ON {table} WHEN (SELECT applying FROM sync_guard) IS NOT 1 BEGIN
  INSERT INTO sync_log(tbl, kind, at, txn, {log_all}) VALUES ({id}, 'd', julianday('now'), char(), {old_all});
END
