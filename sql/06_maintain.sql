-- Sums and the log's end. The equations, with S a snapshot and e an entry:
--
--     sum(part, S)   = base(part, S) + sum of the part's ops visible in S          always
--     build:  base  += scan(e, S) - ops of e visible in S, state := 'ready'        one statement, so one S
--     fold:   base  += ops with xid < H, and exactly those leave the log           one statement
--
-- H, the horizon, is the newest recorded xmin that is older than the lease: every cursor younger than the lease finds all it needs.

-- How long a device may stay away and still be served from the log.
CREATE FUNCTION sync.lease() RETURNS interval
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(nullif(current_setting('sync.lease', true), ''), '14 days')::interval
$$;
COMMENT ON FUNCTION sync.lease() IS 'How long a device may stay away and still be served from the log: the setting sync.lease, 14 days by default.';

-- Sum and count of the rows of every part of an entry, as they are in the table.
CREATE FUNCTION sync.scan_entry(entry integer) RETURNS TABLE (bucket uuid, sum bigint, count bigint)
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'scan_entry_wrapper';
COMMENT ON FUNCTION sync.scan_entry(integer) IS 'Reads a synced table and hashes its rows: what the base plus the log must add up to.';

-- Adds exactly: a sum of hashes wraps at 64 bits on both sides.
CREATE FUNCTION sync.wrap(exact numeric) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (mod(mod(exact, 18446744073709551616) + 27670116110564327424, 18446744073709551616) - 9223372036854775808)::bigint
$$;
COMMENT ON FUNCTION sync.wrap(numeric) IS 'A sum modulo 2^64, as a signed number.';

CREATE FUNCTION sync.build(entry integer) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'sync.build needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- Before the statement's snapshot: one that waited here for a TRUNCATE would see the table empty and the log full.
    EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', (SELECT e.relid FROM sync.entry e WHERE e.entry_id = build.entry));
    WITH claimed AS (
        SELECT e.entry_id FROM sync.entry e WHERE e.entry_id = build.entry AND e.state = 'building' FOR UPDATE SKIP LOCKED
    ), parts AS (
        SELECT s.bucket, s.sum::numeric AS sum, s.count::numeric AS count FROM claimed c, sync.scan_entry(c.entry_id) s
        UNION ALL
        SELECT o.bucket, -o.hash, -o.n FROM claimed c JOIN sync.op o ON o.entry = c.entry_id
    ), summed AS (
        INSERT INTO sync.base (bucket, entry, sum, count)
        SELECT p.bucket, build.entry, sync.wrap(pg_catalog.sum(p.sum)), sync.wrap(pg_catalog.sum(p.count)) FROM parts p GROUP BY p.bucket
        RETURNING 1
    )
    UPDATE sync.entry e SET state = 'ready', problem = NULL FROM claimed c WHERE e.entry_id = c.entry_id;
END
$$;
COMMENT ON FUNCTION sync.build(integer) IS 'Makes an entry''s sums known: one scan of its table, in one statement.';

-- What changed behind the triggers is in no op. With D(part, S) = scan(e, S) - base(part, S) - ops of the part visible in S, one op
-- of difference D without a key sets the sum right, and makes devices compare: they then find the rows by ranges.
CREATE FUNCTION sync.verify_table(relation regclass)
    RETURNS TABLE (rule text, bucket uuid, rows_recorded bigint, rows_found bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'sync.verify_table needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    IF NOT EXISTS (SELECT FROM sync.entry e WHERE e.relid = relation) THEN
        RAISE EXCEPTION 'table % is in no rule: sync.add_table adds one', relation USING ERRCODE = 'undefined_object';
    END IF;
    IF EXISTS (SELECT FROM sync.entry e WHERE e.relid = relation AND e.state <> 'ready') THEN
        RAISE NOTICE 'not all sums of table % are known: call sync.maintain(), and see sync.rules for broken entries', relation;
    END IF;
    -- What is written from here on must be captured.
    PERFORM sync.recapture(relation);
    -- Two at once would both set right what both found; and as in sync.build, the lock comes before the snapshot. No advisory lock, here
    -- and in sync.maintain: anybody could hold it.
    LOCK TABLE sync.base IN SHARE UPDATE EXCLUSIVE MODE;
    EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', relation);
    RETURN QUERY
    WITH entries AS (
        SELECT e.entry_id, r.name FROM sync.entry e JOIN sync.rule r USING (rule_id) WHERE e.relid = relation AND e.state = 'ready'
    ), amounts AS (
        SELECT e.entry_id, s.bucket, s.sum::numeric AS sum, s.count::numeric AS found, 0::numeric AS recorded
        FROM entries e, sync.scan_entry(e.entry_id) s
        UNION ALL
        SELECT b.entry, b.bucket, -b.sum::numeric, 0, b.count FROM entries e JOIN sync.base b ON b.entry = e.entry_id
        UNION ALL
        SELECT o.entry, o.bucket, -o.hash::numeric, 0, o.n FROM entries e JOIN sync.op o ON o.entry = e.entry_id
    ), parts AS (
        SELECT a.entry_id, a.bucket, sync.wrap(sum(a.sum)) AS sum, sum(a.found)::bigint AS found, sum(a.recorded)::bigint AS recorded
        FROM amounts a GROUP BY a.entry_id, a.bucket
    ), different AS (
        SELECT * FROM parts p WHERE p.sum <> 0 OR p.found <> p.recorded
    ), corrected AS (
        INSERT INTO sync.op (bucket, xid, hash, at, changed, op_id, entry, n, keys)
        SELECT d.bucket, pg_current_xact_id(), d.sum, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 0, -d.entry_id, d.entry_id,
            (d.found - d.recorded)::integer, ''
        FROM different d
    )
    SELECT e.name, d.bucket, d.recorded, d.found FROM different d JOIN entries e USING (entry_id) ORDER BY e.name, d.bucket;
    UPDATE sync.verified v SET at = clock_timestamp() WHERE v.relid = relation AND v.at = '-infinity';
END
$$;
COMMENT ON FUNCTION sync.verify_table(regclass) IS
    'Reads a synced table and compares with what was recorded of it; lists the buckets that differ, sets their sums right and makes devices compare them.';

-- Nothing tells of rows that change past the triggers, so each table is read from time to time, and at once where capture was found
-- disabled.
CREATE TABLE sync.verified (
    relid     pg_catalog.oid PRIMARY KEY REFERENCES sync.synced_table ON DELETE CASCADE,
    at        timestamptz NOT NULL,
    mended    integer NOT NULL DEFAULT 0,
    mended_at timestamptz
);
COMMENT ON TABLE sync.verified IS 'When maintain last compared a table''s rows with its sums, and how many buckets'' sums it has set right.';
COMMENT ON COLUMN sync.verified.at IS '-infinity: in doubt, compared by the next sync.maintain().';

CREATE FUNCTION sync.verify_every() RETURNS interval
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(nullif(current_setting('sync.verify_every', true), ''), '30 days')::interval
$$;
COMMENT ON FUNCTION sync.verify_every() IS
    'How often sync.maintain() reads a table and compares its rows with its sums: the setting sync.verify_every, 30 days by default. 0: only where capture was disabled.';

CREATE FUNCTION sync.doubt(rel regclass) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO sync.verified AS v (relid, at) VALUES (rel, '-infinity') ON CONFLICT (relid) DO UPDATE SET at = '-infinity';
$$;
COMMENT ON FUNCTION sync.doubt(regclass) IS 'Has the next sync.maintain() compare a table''s rows with its sums.';

-- Anybody may say anything, so a table is read for it once a day at most. Waits for nobody.
CREATE FUNCTION sync.doubt_of_devices(rel regclass) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sync.verified v SET at = '-infinity' WHERE v.relid = (
        SELECT f.relid FROM sync.verified f WHERE f.relid = rel AND f.at > '-infinity' AND f.at < now() - interval '1 day'
        FOR UPDATE SKIP LOCKED);
$$;
COMMENT ON FUNCTION sync.doubt_of_devices(regclass) IS
    'Has the next sync.maintain() compare a table with its sums, unless it was compared within a day; called by push for what a device says.';

-- A client may keep its transaction open for ever: neither what its push has put in doubt nor what it has locked is waited for.
CREATE FUNCTION sync.verify_next() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before CONSTANT text := current_setting('lock_timeout');
    rel regclass;
    n integer;
    words text;
BEGIN
    INSERT INTO sync.verified (relid, at)
    SELECT DISTINCT e.relid::oid, now() FROM sync.entry e WHERE e.state = 'ready' AND e.relid NOT IN (SELECT v.relid FROM sync.verified v);
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    FOR rel IN
        SELECT v.relid FROM sync.verified v
        WHERE (v.at = '-infinity' OR sync.verify_every() > '0' AND v.at < now() - sync.verify_every())
            AND EXISTS (SELECT FROM sync.entry e WHERE e.relid = v.relid AND e.state = 'ready')
        ORDER BY v.at, v.relid
    LOOP
        PERFORM FROM sync.verified v WHERE v.relid = rel FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        BEGIN
            PERFORM set_config('lock_timeout', '1000', true);
            SELECT count(*) INTO n FROM sync.verify_table(rel);
            PERFORM set_config('lock_timeout', before, true);
            UPDATE sync.verified v SET at = clock_timestamp(), mended = v.mended + n,
                mended_at = CASE WHEN n > 0 THEN clock_timestamp() ELSE v.mended_at END
            WHERE v.relid = rel;
            IF n > 0 THEN
                RAISE WARNING 'rows of table % were changed past its triggers: the sums of % buckets were set right, and devices compare them', rel, n;
            END IF;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            RAISE WARNING 'table % cannot be compared with its sums while somebody keeps it locked: this is tried again', rel;
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS words = MESSAGE_TEXT;
            RAISE WARNING 'table % cannot be compared with its sums, which is tried again in a day: %', rel, words;
            UPDATE sync.verified v SET at = now() - sync.verify_every() + interval '1 day' WHERE v.relid = rel;
            EXIT;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.verify_next() IS 'Compares one table with its sums, if one is in doubt or its time has come; called by maintain.';

-- So that in the small case nobody needs to know about maintain: called by push, which must not fail for it.
CREATE FUNCTION sync.build_small() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    small CONSTANT bigint := 64 * 1024 * 1024;
    before CONSTANT text := current_setting('lock_timeout');
    e record;
BEGIN
    FOR e IN SELECT entry_id, relid FROM sync.entry WHERE state = 'building' ORDER BY entry_id LOOP
        BEGIN
            IF (SELECT sum(pg_relation_size(p.relid)) FROM (SELECT e.relid UNION SELECT t.relid FROM pg_partition_tree(e.relid) t) p) <= small THEN
                -- A push does not wait for somebody's ALTER TABLE.
                PERFORM set_config('lock_timeout', '50', true);
                PERFORM sync.build(e.entry_id);
                PERFORM set_config('lock_timeout', before, true);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE LOG 'pg_sync: sums of entry % are left to sync.maintain(): %', e.entry_id, SQLERRM;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.build_small() IS 'Makes the sums of small tables known; push calls it.';

-- One table that cannot be read, or is kept locked, must not stop the maintenance of all others.
CREATE FUNCTION sync.build_next(after integer) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before CONSTANT text := current_setting('lock_timeout');
    next record;
    words text;
BEGIN
    SELECT e.entry_id, e.relid INTO next FROM sync.entry e WHERE e.state = 'building' AND e.entry_id > after ORDER BY e.entry_id LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    BEGIN
        PERFORM set_config('lock_timeout', '1000', true);
        PERFORM sync.build(next.entry_id);
        PERFORM set_config('lock_timeout', before, true);
    EXCEPTION WHEN invalid_transaction_state THEN
        RAISE;
    WHEN lock_not_available THEN
        RAISE WARNING 'sums of table % cannot be made known while somebody keeps it locked: this is tried again', next.relid;
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS words = MESSAGE_TEXT;
        UPDATE sync.entry e SET problem = words
        WHERE e.entry_id = (SELECT f.entry_id FROM sync.entry f WHERE f.entry_id = next.entry_id FOR UPDATE SKIP LOCKED);
        RAISE WARNING 'sums of table % cannot be made known, which is tried again: %', next.relid, words;
    END;
    RETURN next.entry_id;
END
$$;
COMMENT ON FUNCTION sync.build_next(integer) IS 'Makes the sums of the next entry known that is building, and answers its number; NULL if there is none.';

CREATE FUNCTION sync.maintain() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    e integer := 0;
    h xid8;
BEGIN
    -- One at a time; who comes second has nothing to do.
    PERFORM FROM sync.horizon FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- The push that does it may keep its transaction open: then there is nothing else to be done before it ends.
    BEGIN
        PERFORM sync.move_in();
    EXCEPTION WHEN lock_not_available THEN
        RAISE WARNING 'rules cannot be read again while somebody keeps locks on tables of the schema sync or on a table that is synced: this is tried again';
        RETURN;
    END;
    PERFORM sync.refuse_subscribed();
    PERFORM sync.expire_records();
    PERFORM sync.prune_history();
    PERFORM sync.expire_devices();
    PERFORM sync.recapture();
    WHILE e IS NOT NULL LOOP
        e := sync.build_next(e);
    END LOOP;
    INSERT INTO sync.checkpoint (at, oldest) VALUES (clock_timestamp(), pg_snapshot_xmin(pg_current_snapshot()))
    ON CONFLICT DO NOTHING;
    SELECT c.oldest INTO h FROM sync.checkpoint c WHERE c.at < now() - sync.lease() ORDER BY c.at DESC LIMIT 1;
    IF FOUND THEN
        WITH gone AS (
            DELETE FROM sync.op o WHERE o.xid < h
                AND NOT EXISTS (SELECT FROM sync.entry b WHERE b.entry_id = o.entry AND b.state = 'building')
            RETURNING o.bucket, o.entry, o.hash, o.n
        )
        INSERT INTO sync.base AS b (bucket, entry, sum, count)
        SELECT g.bucket, g.entry, sync.wrap(sum(g.hash)), sum(g.n) FROM gone g JOIN sync.entry e ON e.entry_id = g.entry
        GROUP BY g.bucket, g.entry
        ON CONFLICT (bucket, entry) DO UPDATE
            SET sum = sync.wrap(b.sum::numeric + excluded.sum), count = b.count + excluded.count;
        UPDATE sync.horizon SET xid = h WHERE xid < h;
        DELETE FROM sync.checkpoint c WHERE c.oldest < h;
        -- The newest mark stays: cursors name it for as long as no other is written.
        DELETE FROM sync.mark m WHERE m.at < now() - 2 * sync.lease() AND m.id < (SELECT max(id) FROM sync.mark);
        DELETE FROM sync.base b WHERE b.sum = 0 AND b.count = 0
            AND NOT EXISTS (SELECT FROM sync.op o WHERE o.bucket = b.bucket AND o.entry = b.entry);
    END IF;
    INSERT INTO sync.mark (random, at) VALUES (gen_random_uuid(), now()) ON CONFLICT DO NOTHING;
    PERFORM sync.verify_next();
    -- Renamed roles and schemas tell nobody.
    PERFORM sync.pack();
END
$$;
COMMENT ON FUNCTION sync.maintain() IS
    'Makes sums of new entries known, and drops from the log what is older than the lease. For cron: every few minutes.';
