-- History: what the rows of chosen tables were before each change, who changed them, and how to get them back.
--
-- A version holds a row as it was before a statement, and hashes of the row before and after it. That tells everything: what a row
-- became is what it was before the next change, or what it is now. An AFTER ROW trigger that changes the row again is recorded before
-- the statement that fired it, so the first of several versions in one transaction is the one whose beginning no other one made.
--
-- The time of a transaction is that of its last recorded write. Two transactions that wrote the same row did so one after the other,
-- so this order is the order in which rows changed, and no moment shows half of a transaction.

CREATE TABLE sync.kept_table (
    relid      pg_catalog.regclass PRIMARY KEY,
    keep       interval NOT NULL,
    since      timestamptz NOT NULL,
    definition text NOT NULL
);
COMMENT ON TABLE sync.kept_table IS 'Tables with a history; see sync.keep_history.';
COMMENT ON COLUMN sync.kept_table.since IS 'Nothing is known about earlier times.';
COMMENT ON COLUMN sync.kept_table.definition IS 'The argument that the triggers must have.';

CREATE TABLE sync.version (
    version_id  bigint GENERATED ALWAYS AS IDENTITY,
    relid       pg_catalog.oid NOT NULL,
    key         jsonb NOT NULL,
    before      jsonb,
    before_hash bigint NOT NULL,
    after_hash  bigint NOT NULL,
    xid         xid8 NOT NULL,
    at          timestamptz NOT NULL,
    user_id     text NOT NULL,
    device      uuid,
    number      bigint
);
COMMENT ON TABLE sync.version IS 'Rows as they were before they changed.';
COMMENT ON COLUMN sync.version.before IS 'NULL: the row was not there.';
COMMENT ON COLUMN sync.version.before_hash IS '0: the row was not there; so with after_hash.';
COMMENT ON COLUMN sync.version.device IS 'The device whose batch changed the row, if one did.';
CREATE INDEX version_key ON sync.version (relid, pg_catalog.jsonb_hash_extended(key, 0));
CREATE INDEX version_xid ON sync.version (xid);
CREATE INDEX version_at ON sync.version USING brin (at);
CREATE INDEX version_batch ON sync.version (device, number) WHERE device IS NOT NULL;

CREATE VIEW sync.net_change AS
SELECT g.relid, g.key, g.xid, g.device, g.number, g.id, g.last_at AS at, g.user_id, g.before
FROM (
    SELECT v.*, min(v.version_id) OVER g AS id, max(v.at) OVER g AS last_at,
        row_number() OVER (PARTITION BY v.relid, v.key, v.xid, v.device, v.number ORDER BY v.follows, v.version_id) AS n
    FROM (
        SELECT v.*, EXISTS (
            SELECT FROM sync.version w
            WHERE w.relid = v.relid AND jsonb_hash_extended(w.key, 0) = jsonb_hash_extended(v.key, 0) AND w.key = v.key AND w.xid = v.xid
                AND w.device IS NOT DISTINCT FROM v.device AND w.number IS NOT DISTINCT FROM v.number
                AND w.version_id <> v.version_id AND w.after_hash = v.before_hash) AS follows
        FROM sync.version v
    ) v
    WINDOW g AS (PARTITION BY v.relid, v.key, v.xid, v.device, v.number)
) g
WHERE g.n = 1;
COMMENT ON VIEW sync.net_change IS 'What one transaction, or one batch of a device, made of one row; ids are in the order of the changes.';

CREATE FUNCTION sync.keep_version() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'sync_keep_version';
COMMENT ON FUNCTION sync.keep_version() IS 'Records what the rows of a statement were before it.';

CREATE FUNCTION sync.keep_history("table" regclass, keep interval DEFAULT '90 days') RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'keep_history_wrapper';
COMMENT ON FUNCTION sync.keep_history(regclass, interval) IS
    'Keeps what the rows of a table were, for so long; called again it changes how long. Only its owner can say.';

-- The trigger's argument for a table; NULL if the table cannot have a history.
CREATE FUNCTION sync.history_definition(rel regclass) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('home', sync.home(), 'root', rel::oid::bigint, 'key', jsonb_agg(a.attname ORDER BY k.n))::text
    FROM pg_index i
    CROSS JOIN unnest((i.indkey::smallint[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, n)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = rel AND i.indisprimary HAVING count(*) > 0
$$;
COMMENT ON FUNCTION sync.history_definition(regclass) IS 'What the history triggers of a table need to know, as JSON.';

CREATE FUNCTION sync.put_history(rel regclass, how_long interval) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF how_long IS NULL OR how_long <= '0' THEN
        RAISE EXCEPTION 'table %: the time to keep its history must be more than nothing', rel USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE sync.kept_table SET keep = how_long WHERE relid = rel;
    IF FOUND THEN
        PERFORM sync.pack();
        RETURN;
    END IF;
    IF (SELECT c.relkind NOT IN ('r', 'p') OR c.relispartition OR c.relpersistence = 't' FROM pg_class c WHERE c.oid = rel) THEN
        RAISE EXCEPTION 'table %: only ordinary and partitioned tables can have a history', rel
            USING ERRCODE = 'wrong_object_type', HINT = 'For a partition, name its parent.';
    ELSIF (SELECT c.relnamespace IN ('sync'::regnamespace, 'pg_catalog'::regnamespace) FROM pg_class c WHERE c.oid = rel) THEN
        RAISE EXCEPTION 'table %: system tables cannot have a history', rel USING ERRCODE = 'wrong_object_type';
    ELSIF sync.history_definition(rel) IS NULL THEN
        RAISE EXCEPTION 'table %: it has no primary key', rel
            USING ERRCODE = 'invalid_table_definition', HINT = format('ALTER TABLE %s ADD PRIMARY KEY (...)', rel);
    END IF;
    PERFORM sync.lock_against_writers(rel);
    INSERT INTO sync.kept_table (relid, keep, since, definition) VALUES (rel, how_long, clock_timestamp(), '');
    PERFORM sync.install_history(rel);
    PERFORM sync.pack();
END
$$;
COMMENT ON FUNCTION sync.put_history(regclass, interval) IS 'Second half of keep_history; not to be called directly.';

CREATE FUNCTION sync.install_history(root regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
    event record;
    argument CONSTANT text := sync.history_definition(root);
    was text := current_setting('sync.in_ddl', true);
BEGIN
    PERFORM set_config('sync.in_ddl', 'on', true);
    FOR rel IN SELECT root UNION SELECT p.relid FROM pg_partition_tree(root) p LOOP
        FOR event IN
            SELECT * FROM (VALUES
                ('insert', 'AFTER INSERT', 'REFERENCING NEW TABLE AS sync_new'),
                ('update', 'AFTER UPDATE', 'REFERENCING OLD TABLE AS sync_old NEW TABLE AS sync_new'),
                ('delete', 'AFTER DELETE', 'REFERENCING OLD TABLE AS sync_old'),
                ('truncate', 'BEFORE TRUNCATE', '')) AS e (name, moment, referencing)
        LOOP
            EXECUTE format('CREATE OR REPLACE TRIGGER sync_history_%s %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION sync.keep_version(%L)',
                event.name, event.moment, rel, event.referencing, argument);
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER sync_history_%s', rel, event.name);
        END LOOP;
    END LOOP;
    UPDATE sync.kept_table SET definition = argument WHERE relid = root;
    PERFORM set_config('sync.in_ddl', coalesce(was, 'off'), true);
END
$$;
COMMENT ON FUNCTION sync.install_history(regclass) IS 'Creates or replaces the history triggers of a table and its partitions.';

CREATE FUNCTION sync.remove_history(root oid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    was text := current_setting('sync.in_ddl', true);
BEGIN
    PERFORM set_config('sync.in_ddl', 'on', true);
    FOR t IN
        SELECT g.tgname, g.tgrelid::regclass AS rel FROM pg_trigger g
        WHERE g.tgfoid = 'sync.keep_version()'::regprocedure AND g.tgparentid = 0
            AND (convert_from(rtrim(g.tgargs, '\x00'), 'UTF8')::jsonb ->> 'root')::oid = root
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.rel);
    END LOOP;
    PERFORM set_config('sync.in_ddl', coalesce(was, 'off'), true);
    DELETE FROM sync.version v WHERE v.relid = root;
    DELETE FROM sync.kept_table k WHERE k.relid = root;
END
$$;
COMMENT ON FUNCTION sync.remove_history(oid) IS 'Drops the history triggers of a table, and its history.';

CREATE FUNCTION sync.drop_history("table" regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM sync.kept_table k WHERE k.relid = "table") THEN
        RAISE EXCEPTION 'table % has no history', "table" USING ERRCODE = 'undefined_object', HINT = 'See sync.kept_table.';
    END IF;
    PERFORM sync.remove_history("table");
    PERFORM sync.pack();
END
$$;
COMMENT ON FUNCTION sync.drop_history(regclass) IS 'Keeps the history of a table no longer, and forgets it.';

-- After anything that may have changed a table with a history: a key's new name, a partition more, a trigger less.
CREATE FUNCTION sync.refresh_history() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    k record;
BEGIN
    FOR k IN
        SELECT t.relid, t.relid::oid AS id, c.oid IS NULL AS gone, sync.history_definition(t.relid) IS NULL AS keyless
        FROM sync.kept_table t LEFT JOIN pg_class c ON c.oid = t.relid
        WHERE c.oid IS NULL OR t.definition IS DISTINCT FROM sync.history_definition(t.relid) OR EXISTS (
            SELECT FROM (SELECT t.relid::oid AS relid UNION SELECT q.relid FROM pg_partition_tree(t.relid) q) p
            WHERE 4 <> (SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = p.relid AND g.tgfoid = 'sync.keep_version()'::regprocedure
                AND g.tgenabled = 'A'))
    LOOP
        IF k.gone OR k.keyless THEN
            PERFORM sync.remove_history(k.id);
        ELSE
            -- In a database that was upgraded or copied the triggers did nothing until now.
            UPDATE sync.kept_table t SET since = clock_timestamp()
            WHERE t.relid = k.relid AND t.definition::jsonb ->> 'home' <> sync.home();
            PERFORM sync.install_history(k.relid);
        END IF;
        IF k.keyless AND NOT k.gone THEN
            RAISE WARNING 'the history of table % is no longer kept: it has no primary key', k.relid;
        END IF;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'pg_sync: history could not follow this change: %', SQLERRM USING HINT = 'Call sync.maintain() to try again.';
END
$$;
COMMENT ON FUNCTION sync.refresh_history() IS 'Keeps history triggers in step with their tables; never fails the statement that changed one.';

CREATE FUNCTION sync.on_history_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- home() loads the library, which defines the setting as one that only a superuser can change.
    IF sync.home() IS NULL OR current_setting('sync.in_ddl', true) IS DISTINCT FROM 'on' THEN
        PERFORM sync.refresh_history();
    END IF;
END
$$;
COMMENT ON FUNCTION sync.on_history_ddl() IS 'Keeps history in step with its tables.';

CREATE EVENT TRIGGER sync_history_on_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TRIGGER', 'ALTER TRIGGER') EXECUTE FUNCTION sync.on_history_ddl();
ALTER EVENT TRIGGER sync_history_on_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER sync_history_on_ddl IS 'Keeps history in step with its tables.';
CREATE EVENT TRIGGER sync_history_on_drop ON sql_drop EXECUTE FUNCTION sync.on_history_ddl();
ALTER EVENT TRIGGER sync_history_on_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER sync_history_on_drop IS 'Keeps history in step with its tables.';

-- Whole transactions only, so that what is left of one never stands for all of it.
CREATE FUNCTION sync.prune_history() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    k sync.kept_table;
BEGIN
    PERFORM sync.refresh_history();
    FOR k IN SELECT * FROM sync.kept_table t WHERE t.since < now() - t.keep LOOP
        UPDATE sync.kept_table t SET since = now() - k.keep WHERE t.relid = k.relid;
        DELETE FROM sync.version v WHERE v.relid = k.relid AND v.at < now() - k.keep
            AND NOT EXISTS (SELECT FROM sync.version w WHERE w.xid = v.xid AND w.at >= now() - k.keep);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.prune_history() IS 'Forgets history whose time is over; called by maintain.';

-- Looking back. These run with the caller's rights: sync_admin may read the history, and the table itself it must be allowed to read.

CREATE FUNCTION sync.history_key(rel regclass, key text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
    SET intervalstyle = 'postgres' SET bytea_output = 'hex' AS $$
DECLARE
    names text[];
    given jsonb;
    canonical jsonb;
BEGIN
    SELECT array(SELECT jsonb_array_elements_text(k.definition::jsonb -> 'key')) INTO names FROM sync.kept_table k WHERE k.relid = rel;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % has no history', rel
            USING ERRCODE = 'undefined_object', HINT = format('Its owner can start one: SELECT sync.keep_history(%L)', rel);
    END IF;
    IF key ~ '^\s*\{' THEN
        given := key::jsonb;
    ELSIF cardinality(names) = 1 THEN
        given := jsonb_build_object(names[1], key);
    END IF;
    IF key IS NULL OR given IS NULL OR NOT (given ?& names) THEN
        RAISE EXCEPTION 'table %: the key must give %', rel, array_to_string(names, ', ')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'As a JSON object, or as plain text for a key of one column.';
    END IF;
    EXECUTE format('SELECT jsonb_build_object(%s) FROM jsonb_populate_record(NULL::%s, $1) AS r',
        (SELECT string_agg(format('%L, r.%I', n, n), ', ') FROM unnest(names) n), rel) INTO canonical USING given;
    RETURN canonical;
END
$$;
COMMENT ON FUNCTION sync.history_key(regclass, text) IS 'A key as history knows it: a JSON object of its columns.';

CREATE FUNCTION sync.key_condition(rel regclass, alias text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('%s.%I %s (SELECT sync_key.%I FROM pg_catalog.jsonb_populate_record(NULL::%s, $1::pg_catalog.jsonb) AS sync_key)',
        alias, a.attname, t.operators[k.n], a.attname, rel), ' AND ')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    CROSS JOIN LATERAL sync.constraint_test(rel, c.relname, 10) t
    CROSS JOIN unnest((i.indkey::smallint[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, n)
    JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = k.attnum
    WHERE i.indrelid = rel AND i.indisprimary
$$;
COMMENT ON FUNCTION sync.key_condition(regclass, text) IS 'SQL that is true for the row whose key is the JSON object $1.';

CREATE FUNCTION sync.current_row(rel regclass, row_key jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
    SET intervalstyle = 'postgres' SET bytea_output = 'hex' AS $$
DECLARE
    canonical jsonb;
BEGIN
    EXECUTE format('SELECT to_jsonb(r) FROM %s AS r WHERE %s', rel, sync.key_condition(rel, 'r')) INTO canonical USING row_key;
    RETURN canonical;
END
$$;
COMMENT ON FUNCTION sync.current_row(regclass, jsonb) IS 'A row as it is now, as far as the caller may read it.';

CREATE FUNCTION sync.history("table" regclass, key text)
    RETURNS TABLE (at timestamptz, operation text, user_id text, device uuid, number bigint, note jsonb, before jsonb, after jsonb)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted CONSTANT jsonb := sync.history_key("table", history.key);
    present CONSTANT jsonb := sync.current_row("table", wanted);
BEGIN
    RETURN QUERY
    SELECT c.at, CASE WHEN c.before IS NULL THEN 'insert' WHEN c.after IS NULL THEN 'delete' ELSE 'update' END,
        c.user_id, c.device, c.number, b.note, c.before, c.after
    FROM (
        SELECT n.*, CASE WHEN lead(n.id) OVER w IS NULL THEN present ELSE lead(n.before) OVER w END AS after
        FROM sync.net_change n
        WHERE n.relid = "table" AND jsonb_hash_extended(n.key, 0) = jsonb_hash_extended(wanted, 0) AND n.key = wanted
        WINDOW w AS (ORDER BY n.id)
    ) c
    LEFT JOIN sync.batch b ON b.device = c.device AND b.number = c.number
    WHERE c.before IS DISTINCT FROM c.after
    ORDER BY c.id;
END
$$;
COMMENT ON FUNCTION sync.history(regclass, text) IS
    'Every change of one row that is still known, oldest first: when, by whom, and the row before and after. key: as text, or a JSON object of its columns.';

CREATE FUNCTION sync.check_reach(rel regclass, moment timestamptz) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    k sync.kept_table;
BEGIN
    SELECT * INTO k FROM sync.kept_table t WHERE t.relid = rel;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % has no history', rel
            USING ERRCODE = 'undefined_object', HINT = format('Its owner can start one: SELECT sync.keep_history(%L)', rel);
    ELSIF moment IS NULL OR moment < k.since THEN
        RAISE EXCEPTION 'the history of table % reaches back to %, not to %', rel, k.since, coalesce(moment::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Ask for a later time.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.check_reach(regclass, timestamptz) IS 'Refuses a time before the history of a table.';

CREATE FUNCTION sync.as_of("table" regclass, moment timestamptz) RETURNS SETOF jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
    SET intervalstyle = 'postgres' SET bytea_output = 'hex' AS $$
DECLARE
    names text;
BEGIN
    PERFORM sync.check_reach("table", moment);
    SELECT string_agg(format('%L, r.%I', n, n), ', ') INTO names
    FROM sync.kept_table k, jsonb_array_elements_text(k.definition::jsonb -> 'key') AS n WHERE k.relid = "table";
    RETURN QUERY EXECUTE format(
        'WITH later AS MATERIALIZED (SELECT DISTINCT v.xid FROM sync.version v WHERE v.at > $1),
             changed AS MATERIALIZED (
                 SELECT DISTINCT ON (n.key) n.key, n.before FROM sync.net_change n
                 WHERE n.relid = $2 AND n.xid IN (SELECT l.xid FROM later l) ORDER BY n.key, n.id)
         SELECT c.before FROM changed c WHERE c.before IS NOT NULL
         UNION ALL
         SELECT to_jsonb(r) FROM %s AS r WHERE NOT EXISTS (SELECT FROM changed c WHERE c.key = jsonb_build_object(%s))', "table", names)
    USING moment, "table"::oid;
END
$$;
COMMENT ON FUNCTION sync.as_of(regclass, timestamptz) IS
    'The rows of a table as they were at a moment, as JSON; jsonb_populate_record makes rows of them. Transactions are seen whole.';

-- Restoring is a new change, made with the caller's rights: policies, triggers and capture see it as any other.

CREATE FUNCTION sync.row_at(rel regclass, row_key jsonb, moment timestamptz, OUT changed boolean, OUT image jsonb)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) > 0, (array_agg(n.before ORDER BY n.id))[1]
    FROM sync.net_change n
    WHERE n.relid = rel AND jsonb_hash_extended(n.key, 0) = jsonb_hash_extended(row_key, 0) AND n.key = row_key
        AND EXISTS (SELECT FROM sync.version v WHERE v.xid = n.xid AND v.at > moment)
$$;
COMMENT ON FUNCTION sync.row_at(regclass, jsonb, timestamptz) IS 'Whether a row has changed since a moment, and what it was then.';

-- Each tried in turn until one finds the row. $1: the key, $2: the image.
CREATE FUNCTION sync.restore_statements(rel regclass, image jsonb) RETURNS text[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here CONSTANT text := sync.key_condition(rel, 'sync_row');
    names text;
    olds text;
    set_names text;
    set_olds text;
BEGIN
    IF image IS NULL THEN
        RETURN ARRAY[format('DELETE FROM %s AS sync_row WHERE %s', rel, here)];
    END IF;
    SELECT string_agg(quote_ident(c.name), ', '), string_agg(format('sync_old.%I', c.name), ', '),
        string_agg(quote_ident(c.name), ', ') FILTER (WHERE c.settable), string_agg(format('sync_old.%I', c.name), ', ') FILTER (WHERE c.settable)
    INTO names, olds, set_names, set_olds
    FROM (
        SELECT a.attname AS name, a.attidentity <> 'a' AND NOT EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisprimary AND a.attnum = ANY (i.indkey::smallint[])) AS settable
        FROM pg_attribute a
        WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND image ? a.attname::text ORDER BY a.attnum
    ) c;
    RETURN ARRAY[
        CASE WHEN set_names IS NULL THEN format('SELECT 1 FROM %s AS sync_row WHERE %s', rel, here)
        ELSE format('UPDATE %s AS sync_row SET (%s) = ROW(%s) FROM pg_catalog.jsonb_populate_record(NULL::%s, $2::pg_catalog.jsonb) AS sync_old WHERE %s',
            rel, set_names, set_olds, rel, here) END,
        format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_catalog.jsonb_populate_record(NULL::%s, $2::pg_catalog.jsonb) AS sync_old',
            rel, names, olds, rel)];
END
$$;
COMMENT ON FUNCTION sync.restore_statements(regclass, jsonb) IS 'SQL that makes a row what it was, or removes it.';

CREATE FUNCTION sync.restore_row("table" regclass, key text, moment timestamptz) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'restore_row_wrapper';
COMMENT ON FUNCTION sync.restore_row(regclass, text, timestamptz) IS
    'Makes a row what it was at a moment, as a new change with the caller''s rights. Answers restored, removed, or unchanged.';

CREATE FUNCTION sync.restore_batch(device uuid, number bigint, force boolean DEFAULT false) RETURNS integer
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'restore_batch_wrapper';
COMMENT ON FUNCTION sync.restore_batch(uuid, bigint, boolean) IS
    'Undoes a batch of a device in all tables with a history, as a new change with the caller''s rights; answers how many rows. Rows that were changed again later are only undone with force.';

-- Last first, so that what refers to a row goes before the row.
CREATE FUNCTION sync.batch_images(of_device uuid, of_number bigint)
    RETURNS TABLE (rel regclass, key jsonb, image jsonb, later timestamptz, later_by text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.relid::regclass, n.key, n.before, l.at, l.user_id
    FROM sync.net_change n
    JOIN pg_class c ON c.oid = n.relid
    LEFT JOIN LATERAL (
        SELECT m.at, m.user_id FROM sync.net_change m
        WHERE m.relid = n.relid AND jsonb_hash_extended(m.key, 0) = jsonb_hash_extended(n.key, 0) AND m.key = n.key AND m.id > n.id
        ORDER BY m.id DESC LIMIT 1) l ON true
    WHERE n.device = of_device AND n.number = of_number
    ORDER BY n.id DESC
$$;
COMMENT ON FUNCTION sync.batch_images(uuid, bigint) IS 'What the rows of a batch were before it, and who changed them after it.';
