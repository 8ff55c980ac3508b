-- What became of devices' writes, for people: list, try again, let go.

CREATE FUNCTION sync.batch_json(content bytea) RETURNS jsonb
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'batch_json_wrapper';
COMMENT ON FUNCTION sync.batch_json(bytea) IS 'A kept batch as people read it: a list of changes with table, kind, key, old and new.';

CREATE FUNCTION sync.retry(device uuid, number bigint, changed jsonb DEFAULT NULL)
    RETURNS TABLE (verdict text, code text, message text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'retry_wrapper';
COMMENT ON FUNCTION sync.retry(uuid, bigint, jsonb) IS
    'Applies a rejected batch again, as the role and the user who wrote it. changed: edits, as [{"table": "task", "key": [1], "set": {"title": "new"}}] or with "skip": true. The caller must be a member of the role.';

CREATE FUNCTION sync.discard(device uuid, number bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.batch b SET content = NULL, answer = NULL, claims = NULL, attempts = '[]'
    WHERE b.device = discard.device AND b.number = discard.number AND b.verdict = 'rejected' AND b.content IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'device % has no rejected batch %', device, number USING ERRCODE = 'undefined_object', HINT = 'See the view sync.rejected.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.discard(uuid, bigint) IS 'Lets go of what a rejected batch did; that it was rejected, and why, is remembered.';

CREATE FUNCTION sync.discard_conflict(id bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM sync.conflict c WHERE c.conflict_id = discard_conflict.id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no conflict %', id USING ERRCODE = 'undefined_object', HINT = 'See the view sync.conflicts.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.discard_conflict(bigint) IS 'Lets go of the record of one conflict.';

CREATE FUNCTION sync.keep_records() RETURNS interval
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(current_setting('sync.keep_records', true), ''), '90 days')::interval
$$;
COMMENT ON FUNCTION sync.keep_records() IS
    'How long conflicts, and what merged and rejected batches did, are kept: the setting sync.keep_records, 90 days by default.';

-- Exactly once, for ever, in 60 bytes: what a device sends again after its batch has left sync.batch is still known.
CREATE TABLE sync.old_batch (
    random uuid PRIMARY KEY,
    device uuid NOT NULL,
    merged boolean NOT NULL
);
COMMENT ON TABLE sync.old_batch IS 'Names of batches that were accepted or merged so long ago that nothing else of them is kept.';
SELECT pg_catalog.pg_extension_config_dump('sync.old_batch', '');
CREATE INDEX batch_pushed ON sync.batch USING brin (pushed);

CREATE FUNCTION sync.expire_records() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sync.batch b SET content = NULL, answer = NULL, claims = NULL, attempts = '[]'
    WHERE b.content IS NOT NULL AND b.pushed < now() - sync.keep_records();
    DELETE FROM sync.conflict c WHERE c.at < now() - sync.keep_records();
    -- The log names batches for a lease, histories name them for as long as they are kept.
    WITH old AS (
        DELETE FROM sync.batch b
        WHERE b.verdict <> 'rejected' AND b.pushed < now() - greatest(sync.keep_records(), sync.lease(), (SELECT max(k.keep) FROM sync.kept_table k))
        RETURNING b.random, b.device, b.verdict, b.repeats
    )
    INSERT INTO sync.old_batch (random, device, merged)
    SELECT o.random, o.device, o.verdict = 'merged' FROM old o WHERE NOT o.repeats
    ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION sync.expire_records() IS 'Lets go of records that are older than sync.keep_records(); called by maintain.';

CREATE FUNCTION sync.keep_devices() RETURNS interval
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(current_setting('sync.keep_devices', true), ''), '1 year')::interval
$$;
COMMENT ON FUNCTION sync.keep_devices() IS
    'How long a device that sends nothing stays registered: the setting sync.keep_devices, 1 year by default, and never less than the lease. 0: for ever.';

-- Safe, since a batch is known by its random bytes, which stay for ever, and not by its device: one that comes back is told that its number
-- is too high, sends again what it has or takes a new identity, and nothing is applied again. Revoked devices stay revoked; one that has leased
-- numbers may still have rows under them; one of which sync.batch names a batch, such as a rejected one, keeps the numbers of those.
CREATE FUNCTION sync.expire_devices() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM sync.device d WHERE sync.keep_devices() > '0'
        -- The first time in each hour: nothing is ordered by when a device was seen, or each push would have an index more to write.
        AND coalesce((SELECT max(c.at) FROM sync.checkpoint c), '-infinity') < date_trunc('hour', clock_timestamp())
        AND d.device IN (
            SELECT o.device FROM sync.device o
            WHERE o.seen < now() - greatest(sync.keep_devices(), sync.lease()) AND o.revoked IS NULL
                AND NOT EXISTS (SELECT FROM sync.key_lease l WHERE l.device = o.device)
                AND NOT EXISTS (SELECT FROM sync.batch b WHERE b.device = o.device)
            LIMIT 50000 FOR UPDATE SKIP LOCKED);
$$;
COMMENT ON FUNCTION sync.expire_devices() IS 'Forgets devices that have sent nothing for sync.keep_devices(), at most 50,000 at once; called by maintain.';

CREATE VIEW sync.rejected AS
SELECT b.device, b.number, b.user_id, b.role, b.edited, b.pushed, b.code, b.message, b.subject, b.note, b.attempts,
    sync.batch_json(b.content) AS batch
FROM sync.batch b WHERE b.verdict = 'rejected' AND b.content IS NOT NULL AND NOT b.repeats
ORDER BY b.pushed, b.device, b.number;
COMMENT ON VIEW sync.rejected IS 'Rejected batches with everything that they would have done, until they are retried, discarded, or their time is over.';

CREATE VIEW sync.conflicts AS
SELECT c.conflict_id, c.relid AS "table", c.key, c.column_name, c.base, c.theirs, c.mine, c.result, c.reason, c.policy, c.at,
    c.device, c.number, b.user_id, b.edited, b.verdict, b.note
FROM sync.conflict c LEFT JOIN sync.batch b ON b.device = c.device AND b.number = c.number
ORDER BY c.conflict_id;
COMMENT ON VIEW sync.conflicts IS 'Conflicts with the batch that they belong to.';

CREATE VIEW sync.record_counts AS
SELECT r."table", sum(r.conflicts) AS conflicts, sum(r.rejected) AS rejected
FROM (
    SELECT t.device_name AS "table", count(*) AS conflicts, 0 AS rejected
    FROM sync.conflict c JOIN sync.synced_table t ON t.relid = c.relid GROUP BY 1
    UNION ALL
    SELECT j.change ->> 'table', 0, count(DISTINCT (b.device, b.number))
    FROM sync.rejected b, jsonb_array_elements(b.batch) AS j (change) GROUP BY 1
) r GROUP BY 1 ORDER BY 1;
COMMENT ON VIEW sync.record_counts IS 'How many conflicts, and how many rejected batches, each table has.';
