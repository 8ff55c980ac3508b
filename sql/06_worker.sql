-- The background worker's visits. The worker itself is native: a launcher, and for each visit a process that calls what follows, each
-- function in a transaction of its own, with the rights of the extension's owner.

CREATE TABLE sync.visit (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    at       timestamptz NOT NULL,
    failures integer NOT NULL,
    problem  text
);
COMMENT ON TABLE sync.visit IS 'How the background worker''s last visit ended.';
COMMENT ON COLUMN sync.visit.failures IS 'How many visits in a row have failed: the next one waits the longer, an hour at most.';

-- What the native parts need.
CREATE FUNCTION sync.worker_lock() RETURNS oid
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'worker_lock_wrapper';
COMMENT ON FUNCTION sync.worker_lock() IS 'What a launcher''s lock is called in pg_locks (classid).';

CREATE FUNCTION sync.worker_pid(only_own boolean DEFAULT false) RETURNS integer
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.datname = current_database()
    WHERE l.locktype = 'advisory' AND l.database = 0 AND l.classid = sync.worker_lock() AND l.granted AND (l.objid = d.oid
        OR l.objid = 0 AND NOT only_own AND (trim(current_setting('sync.worker_databases')) = ''
            OR d.datname IN (SELECT trim(n.name) FROM string_to_table(current_setting('sync.worker_databases'), ',') n(name))))
    LIMIT 1
$$;
COMMENT ON FUNCTION sync.worker_pid(boolean) IS 'The launcher that visits this database. only_own: the one that sync.start_worker() started.';

CREATE FUNCTION sync.start_worker() RETURNS boolean
    LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'start_worker_wrapper';
COMMENT ON FUNCTION sync.start_worker() IS
    'Starts a background worker that maintains this database, until the server stops; false if there is one. Where pg_sync is in shared_preload_libraries nobody needs it.';

CREATE FUNCTION sync.stop_worker() RETURNS boolean
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(pg_terminate_backend(sync.worker_pid(only_own => true)), false)
$$;
COMMENT ON FUNCTION sync.stop_worker() IS 'Stops the worker that sync.start_worker() started; false if there is none. The other one stops with the setting sync.worker.';

CREATE FUNCTION sync.is_due() RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT v.failures = 0 OR clock_timestamp() - v.at > interval '30 seconds' * 2 ^ least(v.failures, 7)
        OR v.at > clock_timestamp() FROM sync.visit v), true)
$$;
COMMENT ON FUNCTION sync.is_due() IS 'Whether a visit is to be made: not right after one that failed.';

-- A mark of the run before says where this one began. Only where the last mark is of the run right before: `started_before` is when the
-- file was written that each start writes, shortly before it counts as started.
CREATE FUNCTION sync.begin_run(began pg_lsn, started_before bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last sync.mark;
    longest CONSTANT bigint := 60 * 1000000;
BEGIN
    SELECT * INTO last FROM sync.mark m ORDER BY m.id DESC LIMIT 1;
    IF last.run < (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AND last.lsn <= began
        AND started_before BETWEEN last.run - longest AND last.run THEN
        INSERT INTO sync.mark (random, at, run, lsn) VALUES (gen_random_uuid(), now(), last.run, began) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO sync.mark (random, at) VALUES (gen_random_uuid(), now()) ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION sync.begin_run(pg_lsn, bigint) IS
    'Leaves a mark right after a start of the server, and one of the run before at the place in the log where it ended. Called by the background worker.';

CREATE FUNCTION sync.attend() RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words text;
BEGIN
    BEGIN
        PERFORM sync.maintain();
        SELECT e.problem INTO words FROM sync.entry e WHERE e.state = 'building' AND e.problem IS NOT NULL LIMIT 1;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS words = MESSAGE_TEXT;
        RAISE WARNING 'pg_sync: maintenance failed, and is tried again later: %', words;
    END;
    INSERT INTO sync.visit AS v (at, failures, problem) VALUES (clock_timestamp(), CASE WHEN words IS NULL THEN 0 ELSE 1 END, words)
    ON CONFLICT (one) DO UPDATE
        SET at = excluded.at, problem = excluded.problem, failures = CASE WHEN words IS NULL THEN 0 ELSE v.failures + 1 END;
    RETURN words IS NULL;
END
$$;
COMMENT ON FUNCTION sync.attend() IS 'sync.maintain(), with how it ended in sync.visit; false if it failed. Called by the background worker.';
