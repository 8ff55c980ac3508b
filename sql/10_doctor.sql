-- What is wrong, and what to do about it: one row for each finding, none where nothing is. Reads only, also on a standby.
--
-- error: devices miss something, or are not served. warning: it will come to that, or hurts. notice: good to know.

CREATE FUNCTION sync.doctor_capture() RETURNS TABLE (severity text, object text, what text, remedy text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    small CONSTANT bigint := 1024 * 1024;
    one record;
    words text;
BEGIN
    RETURN QUERY
    SELECT 'error', format('event trigger %s', t.evtname), 'it is disabled: capture does not follow changes of tables',
        format('ALTER EVENT TRIGGER %s ENABLE ALWAYS, then sync.verify_table() for each table', t.evtname)
    FROM pg_event_trigger t WHERE t.evtname IN ('sync_on_ddl', 'sync_on_drop') AND t.evtenabled <> 'A';
    RETURN QUERY
    SELECT 'error', format('table %s', p.rel), p.words || ': devices may miss what is written', format('SELECT * FROM sync.verify_table(%L)', t.relid::text)
    FROM (SELECT DISTINCT e.relid FROM sync.entry e WHERE e.state <> 'broken') t CROSS JOIN LATERAL sync.capture_problems(t.relid) p
    WHERE NOT sync.has_moved();
    FOR one IN
        SELECT t.relid AS rel FROM sync.synced_table t JOIN pg_class k ON k.oid = t.relid
        WHERE NOT EXISTS (SELECT FROM sync.entry e WHERE e.relid = t.relid AND e.state = 'broken') ORDER BY t.relid::text
    LOOP
        BEGIN
            PERFORM sync.check_kind(one.rel);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS words = PG_EXCEPTION_HINT;
            RETURN QUERY SELECT 'error', format('table %s', one.rel), format('it cannot be synced any longer: %s', SQLERRM),
                coalesce(nullif(words, ''), 'take it out of its rules: sync.drop_table');
        END;
    END LOOP;
    RETURN QUERY
    SELECT CASE WHEN e.state = 'broken' OR e.problem IS NOT NULL THEN 'error' ELSE 'notice' END, format('rule %s, table %s', r.name, e.relid),
        CASE WHEN e.state = 'broken' THEN 'devices do not get it: ' || coalesce(e.problem, 'no reason is known')
            ELSE 'its sums are not known' || coalesce(': ' || e.problem, ' yet') END,
        CASE WHEN e.state = 'broken' THEN format('mend it, then SELECT * FROM sync.verify_table(%L); or sync.drop_table', e.relid::text)
            ELSE 'SELECT sync.maintain()' END
    FROM sync.entry e JOIN sync.rule r USING (rule_id) WHERE e.state <> 'ready';
    RETURN QUERY
    SELECT 'warning', format('rule %s, table %s', r.name, e.relid),
        format('no index begins with the key %s: a first sync reads the whole table for each bucket', e.key[1]),
        format('CREATE INDEX ON %s (%s, <primary key>)', e.relid, array_to_string(e.key, ', '))
    FROM sync.entry e JOIN sync.rule r USING (rule_id)
    WHERE e.state <> 'broken' AND cardinality(e.key) > 0 AND NOT sync.key_has_index(e.relid, e.key[1])
        AND (SELECT sum(pg_relation_size(p.relid)) FROM (SELECT e.relid UNION SELECT t.relid FROM pg_partition_tree(e.relid) t) p) > small;
    RETURN QUERY
    SELECT 'error', format('rule %s', r.name), words_of.words, 'give the role what it needs, or drop the rule and make it anew'
    FROM sync.rule r CROSS JOIN LATERAL (SELECT sync.rule_problem(r.rule_id) AS words) words_of WHERE words_of.words IS NOT NULL;
    -- Written to often enough to matter, and nothing is known of what is in it: the planner guesses.
    RETURN QUERY
    SELECT 'warning', format('table %s', k.oid::regclass), 'it was never analyzed: plans of pulls and pushes are guesses',
        format('ANALYZE %s', k.oid::regclass)
    FROM pg_class k
    WHERE k.relkind = 'r' AND pg_relation_size(k.oid) > small AND NOT EXISTS (SELECT FROM pg_statistic s WHERE s.starelid = k.oid)
        AND (k.oid IN (SELECT c.relid FROM sync.captured c) OR k.oid IN ('sync.op'::regclass, 'sync.base'::regclass, 'sync.batch'::regclass));
    RETURN QUERY
    SELECT 'warning', format('table %s', k.oid::regclass), 'autovacuum is switched off for it', format('ALTER TABLE %s RESET (autovacuum_enabled)', k.oid::regclass)
    FROM pg_class k WHERE k.reloptions && ARRAY['autovacuum_enabled=false', 'autovacuum_enabled=off', 'autovacuum_enabled=0', 'autovacuum_enabled=no']
        AND (k.oid IN (SELECT c.relid FROM sync.captured c) OR k.relnamespace = 'sync'::regnamespace);
END
$$;
COMMENT ON FUNCTION sync.doctor_capture() IS 'The part of sync.doctor() about tables, rules and their capture.';

-- Members that cannot be read, by the role that the rule is of, fail every pull.
CREATE FUNCTION sync.rule_problem(rule integer) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state text;
BEGIN
    PERFORM sync.plan_members(rule);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;
    -- Planning may ask who asks: that this is nobody is no fault of the rule.
    RETURN CASE WHEN starts_with(state, '42') THEN format('every pull fails: %s', SQLERRM) END;
END
$$;
COMMENT ON FUNCTION sync.rule_problem(integer) IS 'Why the members of a rule cannot be evaluated; NULL if they can.';

CREATE FUNCTION sync.plan_members(rule integer) RETURNS void
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'plan_members_wrapper';
COMMENT ON FUNCTION sync.plan_members(integer) IS 'Plans a rule''s members with the rights of its owner; fails as a pull would.';

CREATE FUNCTION sync.doctor_log(patience interval) RETURNS TABLE (severity text, object text, what text, remedy text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH maintained AS (
        SELECT max(c.at) AS last, max(c.at) < now() - sync.lease() AS long_ago FROM sync.checkpoint c
    ), stale AS (
        -- What is older than this was so when maintain looked, longer ago than patience.
        SELECT min(age(c.oldest::xid)) AS age FROM sync.checkpoint c WHERE c.at < now() - patience
    ), log AS (
        SELECT pg_total_relation_size('sync.op') AS size,
            (SELECT coalesce(sum(pg_total_relation_size(c.relid)), 0) FROM sync.captured c JOIN pg_class k ON k.oid = c.relid) AS tables
    )
    SELECT CASE WHEN m.long_ago THEN 'error' ELSE 'warning' END, 'sync.maintain()',
        CASE WHEN m.last IS NULL THEN 'it was never called' ELSE format('it was last called at %s', m.last::timestamptz(0)) END
            || ': sums stay unknown, and the log grows',
        'let cron call it every few minutes, or put pg_sync into shared_preload_libraries, or call sync.start_worker()'
    FROM maintained m WHERE (m.last IS NULL OR m.last < now() - patience) AND EXISTS (SELECT FROM sync.entry) AND NOT pg_is_in_recovery()
    UNION ALL
    SELECT 'error', 'background worker', format('its last visit failed, %s in a row: %s', v.failures, v.problem), 'mend what it says; the server''s log has more'
    FROM sync.visit v WHERE v.failures > 0
    UNION ALL
    SELECT 'warning', format('process %s', a.pid),
        format('a transaction of %s in database %s has written and is open since %s: nothing after it leaves the log', a.usename, a.datname,
            a.xact_start::timestamptz(0)),
        format('end it: SELECT pg_terminate_backend(%s); idle_in_transaction_session_timeout ends such by itself', a.pid)
    FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.xact_start < now() - patience AND a.pid <> pg_backend_pid()
    UNION ALL
    SELECT 'warning', format('process %s', a.pid),
        format('a query or transaction of %s reads since %s: what left the log cannot be vacuumed', a.usename, a.xact_start::timestamptz(0)),
        format('SELECT pg_terminate_backend(%s)', a.pid)
    FROM pg_stat_activity a
    WHERE a.backend_xid IS NULL AND a.backend_xmin IS NOT NULL AND a.xact_start < now() - patience AND a.pid <> pg_backend_pid()
        AND a.datname = current_database()
    UNION ALL
    SELECT 'warning', format('prepared transaction %s', p.gid),
        format('it waits since %s in database %s: nothing after it leaves the log', p.prepared::timestamptz(0), p.database),
        format('COMMIT PREPARED %L or ROLLBACK PREPARED %1$L there', p.gid)
    FROM pg_prepared_xacts p WHERE p.prepared < now() - patience
    UNION ALL
    SELECT 'warning', format('replication slot %s', s.slot_name), 'nobody uses it: it holds back vacuum or the write-ahead log',
        format('SELECT pg_drop_replication_slot(%L), or start who used it', s.slot_name)
    FROM pg_replication_slots s WHERE NOT s.active AND (s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL OR s.restart_lsn IS NOT NULL)
    UNION ALL
    SELECT 'warning', format('standby %s', coalesce(nullif(r.application_name, ''), r.client_addr::text, r.pid::text)),
        'a query on it has been holding back vacuum here for long, through hot_standby_feedback',
        'end the query there: see pg_stat_activity on the standby'
    FROM (SELECT w.application_name, w.client_addr, w.pid, w.backend_xmin FROM pg_stat_replication w
        UNION ALL SELECT s.slot_name::text, NULL, s.active_pid, s.xmin FROM pg_replication_slots s WHERE s.active) r, stale
    WHERE age(r.backend_xmin) > stale.age
    UNION ALL
    SELECT 'warning', 'sync.op', format('the op log has %s, more than all synced tables together (%s)', pg_size_pretty(l.size), pg_size_pretty(l.tables)),
        'see what holds it (other findings), what writes so much, and whether sync.lease could be shorter'
    FROM log l WHERE l.size > 64 * 1024 * 1024 AND l.size > l.tables
    UNION ALL
    SELECT 'error', format('%s %s', o.kind, o.name), format('it came with a dump and is not synced: %s', o.problem),
        'make what is missing, then SELECT sync.maintain(); or drop it with sync.drop_bucket'
    FROM sync.carried o WHERE o.problem IS NOT NULL
    UNION ALL
    SELECT 'error', format('database %s', current_database()), 'rules were made in another database and are not read anew: pulls are refused',
        'SELECT sync.maintain()'
    WHERE sync.has_moved()
    UNION ALL
    SELECT 'warning', format('table %s', v.relid::regclass),
        format('rows were changed past its triggers: %s sums were set right, the last at %s', v.mended, v.mended_at::timestamptz(0)),
        'find who disables triggers or edits the schema sync; it is not repeated after 30 days'
    FROM sync.verified v WHERE v.mended_at > now() - interval '30 days'
    UNION ALL
    SELECT 'notice', format('table %s', v.relid::regclass), 'its rows are to be compared with its sums, since capture was disabled', 'SELECT sync.maintain()'
    FROM sync.verified v WHERE v.at = '-infinity'
$$;
COMMENT ON FUNCTION sync.doctor_log(interval) IS 'The part of sync.doctor() about maintenance and what holds the log back.';

CREATE FUNCTION sync.doctor_devices() RETURNS TABLE (severity text, object text, what text, remedy text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'notice', 'sync.devices', format('%s devices were last heard of more than the lease (%s) ago, the first of them at %s', count(*), sync.lease(), min(d.seen)::timestamptz(0)),
        format('nothing: they compare sums when they come back, and are forgotten after %s; a longer sync.lease serves them from the log', sync.keep_devices())
    FROM sync.device d WHERE d.seen < now() - sync.lease() AND d.revoked IS NULL HAVING count(*) > 0
    UNION ALL
    SELECT 'warning', 'sync.rejected', format('%s batches were rejected and wait, %s of them for "%s"', sum(r.n), max(r.n), (array_agg(r.message ORDER BY r.n DESC))[1]),
        'see sync.rejected and sync.record_counts: mend the cause, then sync.retry or sync.discard'
    FROM (SELECT b.message, count(*) AS n FROM sync.batch b WHERE b.verdict = 'rejected' AND b.content IS NOT NULL AND NOT b.repeats
        GROUP BY b.message) r HAVING sum(r.n) >= 100
    UNION ALL
    SELECT 'warning', 'sync.conflicts', format('%s conflicts are recorded, most of them of table %s', sum(c.n), (array_agg(c.relid ORDER BY c.n DESC))[1]),
        'see sync.conflicts; a policy for the column may decide better: sync.set_policy'
    FROM (SELECT c.relid, count(*) AS n FROM sync.conflict c GROUP BY c.relid) c HAVING sum(c.n) >= 10000
    UNION ALL
    SELECT CASE WHEN k.room < sync.keys_per_lease() THEN 'error' ELSE 'warning' END, format('sequence %s', k.sequence),
        format('keys of table %s come to their end: %s are left', k.relid, greatest(k.room, 0)),
        format('make the key a bigint, or a smaller sync.keys_per_lease (%s)', sync.keys_per_lease())
    FROM (
        SELECT t.relid, s.sequence, q.seqincrement,
            floor((CASE WHEN q.seqincrement > 0 THEN least(s.high, q.seqmax) ELSE greatest(s.low, q.seqmin) END::numeric
                - coalesce(pg_sequence_last_value(s.sequence), q.seqstart)) / q.seqincrement) AS room,
            floor((CASE WHEN q.seqincrement > 0 THEN least(s.high, q.seqmax) ELSE greatest(s.low, q.seqmin) END::numeric - q.seqstart) / q.seqincrement) AS whole
        FROM sync.synced_table t CROSS JOIN LATERAL sync.key_sequence(t.relid) s JOIN pg_sequence q ON q.seqrelid = s.sequence) k
    WHERE k.room < k.whole / 10 OR k.room < sync.keys_per_lease()
$$;
COMMENT ON FUNCTION sync.doctor_devices() IS 'The part of sync.doctor() about devices and what they send.';

CREATE FUNCTION sync.doctor_access() RETURNS TABLE (severity text, object text, what text, remedy text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH transport AS (
        SELECT r.* FROM pg_roles r WHERE r.rolname <> 'sync_transport' AND EXISTS (
            SELECT FROM pg_auth_members m WHERE m.member = r.oid AND pg_has_role(m.roleid, 'sync_transport'::regrole, 'MEMBER'))
    )
    SELECT 'warning', format('role %s', t.rolname), 'it is a transport and a superuser: whoever has its password has everything',
        'let a login role without rights of its own be the transport'
    FROM transport t WHERE t.rolsuper
    UNION ALL
    SELECT 'warning', format('role %s', t.rolname),
        'it is a transport and ' || CASE WHEN t.rolbypassrls THEN 'passes by row level security' ELSE 'may write rules (sync_admin)' END
            || ': claims without a role write with its rights',
        'let a login role without rights of its own be the transport'
    FROM transport t WHERE NOT t.rolsuper AND (t.rolbypassrls OR pg_has_role(t.oid, 'sync_admin', 'MEMBER'))
    UNION ALL
    SELECT 'warning', format('role %s', t.rolname), format('it is a transport and owns the synced table %s, so it passes by its row level security and privileges', s.relid),
        format('ALTER TABLE %s OWNER TO another role', s.relid)
    FROM transport t JOIN pg_class k ON k.relowner = t.oid JOIN sync.synced_table s ON s.relid = k.oid WHERE NOT t.rolsuper
    UNION ALL
    SELECT 'warning', format('role %s', r.rolname), 'it can log in: it is meant to be granted to login roles', format('ALTER ROLE %s NOLOGIN', r.rolname)
    FROM pg_roles r WHERE r.rolname IN ('sync_transport', 'sync_admin') AND r.rolcanlogin
    UNION ALL
    SELECT 'warning', format('role %s', b.role), format('it is a superuser, and %s batches of devices were applied with its rights in the last week', count(*)),
        'log the transport in as a member of sync_transport, and name a role in the claims'
    FROM sync.batch b JOIN pg_roles r ON r.rolname = b.role AND r.rolsuper WHERE b.pushed > now() - interval '7 days' GROUP BY b.role
    UNION ALL
    SELECT 'error', format('issuer %s', coalesce(k.issuer, 'any')), 'it has keys, and none of them is in force: its tokens are refused',
        'sync.add_auth_key or sync.load_jwks; drop what is not needed with sync.drop_auth_key'
    FROM sync.auth_keys k GROUP BY k.issuer HAVING NOT bool_or(k.in_force)
    UNION ALL
    SELECT 'warning', format('issuer %s', coalesce(k.issuer, 'any')), format('the last of its keys retires at %s', max(k.retires)::timestamptz(0)),
        'sync.add_auth_key or sync.load_jwks adds the next one'
    FROM sync.auth_keys k GROUP BY k.issuer
    HAVING bool_or(k.in_force) AND max(coalesce(k.retires, 'infinity')) < clock_timestamp() + interval '7 days'
$$;
COMMENT ON FUNCTION sync.doctor_access() IS 'The part of sync.doctor() about roles and keys.';

CREATE FUNCTION sync.library_version() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'library_version_wrapper';
COMMENT ON FUNCTION sync.library_version() IS 'The version of the library that this session has loaded.';

CREATE FUNCTION sync.doctor_server() RETURNS TABLE (severity text, object text, what text, remedy text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'error', 'extension pg_sync', format('the library is of version %s, what is in this database of %s', sync.library_version(), e.extversion),
        'ALTER EXTENSION pg_sync UPDATE, as a superuser; if the library is the older one, install the newer one and connect again'
    FROM pg_extension e WHERE e.extname = 'pg_sync' AND e.extversion <> sync.library_version()
    UNION ALL
    SELECT v.severity, format('setting %s', s.name), v.what, v.remedy
    FROM pg_settings s JOIN (VALUES
        ('fsync', 'off', 'error', 'a crash of the machine may damage everything, also what devices were told is safe', 'switch it on'),
        ('full_page_writes', 'off', 'warning', 'a crash of the machine may damage pages', 'switch it on'),
        ('synchronous_commit', 'off', 'notice', 'a crash loses batches that were answered: devices send them again for as long as they keep them (a week)',
            'switch it on, if only for the role of the transport'),
        ('autovacuum', 'off', 'warning', 'nothing cleans up the op log', 'switch it on'),
        ('track_counts', 'off', 'warning', 'autovacuum does not see what is to be done', 'switch it on')) AS v (name, bad, severity, what, remedy)
        ON v.name = s.name AND v.bad = s.setting
    UNION ALL
    SELECT 'notice', 'setting wal_keep_size', format('%s devices, and a crash leaves little of the write-ahead log: all that were served right before it compare their sums', d.n),
        'wal_keep_size = 256MB'
    FROM (SELECT count(*) AS n FROM sync.device) d, pg_settings s WHERE s.name = 'wal_keep_size' AND s.setting::bigint < 64 AND d.n > 1000
$$;
COMMENT ON FUNCTION sync.doctor_server() IS 'The part of sync.doctor() about versions and settings of the server.';

CREATE FUNCTION sync.doctor(patience interval DEFAULT '1 hour') RETURNS TABLE (severity text, object text, what text, remedy text)
    LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.severity, f.object, f.what, f.remedy FROM (
        SELECT * FROM sync.doctor_capture()
        UNION ALL SELECT * FROM sync.doctor_log(patience)
        UNION ALL SELECT * FROM sync.doctor_devices()
        UNION ALL SELECT * FROM sync.doctor_access()
        UNION ALL SELECT * FROM sync.doctor_server()) f
    ORDER BY array_position(ARRAY['error', 'warning', 'notice'], f.severity), f.object, f.what
$$;
COMMENT ON FUNCTION sync.doctor(interval) IS
    'Finds what is wrong and says what to do about it: a row for each finding (error, warning, notice), none where nothing is. patience: for how long a transaction may stay open, or sync.maintain() not be called.';
