-- What pg_dump carries, and how it comes to life in another database.
--
-- Rules, entries and tags hold ids that mean nothing elsewhere, so what was declared is also written down by name: packed after each
-- change, unpacked by the first maintain or push that finds it in a database where it was not written. Devices' registrations, their
-- batches and conflicts are data and go along as they are. The op log, its sums and its marks stay behind: they speak of transactions
-- of the old server, and without them every device notices another history, compares its sums, and keeps what is the same.

CREATE TABLE sync.carried (
    home    text NOT NULL,
    kind    text NOT NULL CHECK (kind IN ('rule', 'table', 'history')),
    name    text NOT NULL,
    content jsonb NOT NULL,
    problem text
);
COMMENT ON TABLE sync.carried IS 'What was declared, by name: what pg_dump carries. Nothing is unique in it, so that a dump can always be loaded.';
COMMENT ON COLUMN sync.carried.home IS 'The database that it was written in, see sync.home().';
COMMENT ON COLUMN sync.carried.problem IS 'Why it could not be unpacked here; maintain tries again. NULL: written here, or not looked at yet.';

SELECT pg_catalog.pg_extension_config_dump('sync.carried', '');
SELECT pg_catalog.pg_extension_config_dump('sync.device', '');
SELECT pg_catalog.pg_extension_config_dump('sync.batch', '');
SELECT pg_catalog.pg_extension_config_dump('sync.conflict', '');
SELECT pg_catalog.pg_extension_config_dump('sync.key_lease', '');
SELECT pg_catalog.pg_extension_config_dump('sync.secret', '');

-- Writing down -----------------------------------------------------------------------------------------------------------------

-- Columns by name: numbers are another database's.
CREATE FUNCTION sync.pack_settings(rel regclass) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce((
        SELECT jsonb_build_object('sync.policy', jsonb_agg(to_jsonb(p) - 'relid'
            || jsonb_strip_nulls(jsonb_build_object('attnum', a.attname, 'link', l.attname)) ORDER BY p.attnum, p.event))
        FROM sync.policy p
        LEFT JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = p.attnum AND a.attnum > 0
        LEFT JOIN pg_attribute l ON l.attrelid = rel AND l.attnum = p.link AND l.attnum > 0
        WHERE p.relid = rel
        HAVING count(*) > 0), '{}');
END
$$;
COMMENT ON FUNCTION sync.pack_settings(regclass) IS 'What is declared about one synced table, by name.';

-- Checked when it runs, since the table of histories is made further down.
CREATE FUNCTION sync.pack() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH declared (kind, name, content) AS (
        SELECT 'rule', r.name, jsonb_build_object('members', r.members, 'priority', r.priority, 'owner', r.owner::text,
            'key_types', (SELECT coalesce(jsonb_agg(format_type(t.id, NULL) ORDER BY t.n), '[]') FROM unnest(r.key_types) WITH ORDINALITY t(id, n)
                HAVING r.key_types IS NOT NULL))
        FROM sync.rule r
        UNION ALL
        SELECT 'table', format('%I.%I', n.nspname, c.relname), jsonb_build_object(
            'tag', t.tag, 'device_name', t.device_name, 'columns', to_jsonb(t.columns), 'mode', t.mode, 'upload', t.upload,
            'tags', (SELECT jsonb_object_agg(a.attname, s.tag) FROM sync.synced_column s
                JOIN pg_attribute a ON a.attrelid = s.relid AND a.attnum = s.attnum AND NOT a.attisdropped WHERE s.relid = t.relid),
            'entries', (SELECT jsonb_agg(jsonb_build_object('id', e.entry_id, 'rule', r.name, 'key', e.key, 'filter', e.filter, 'rls', e.rls) ORDER BY e.entry_id)
                FROM sync.entry e JOIN sync.rule r USING (rule_id) WHERE e.relid = t.relid),
            'settings', sync.pack_settings(t.relid))
        FROM sync.synced_table t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
        UNION ALL
        SELECT 'history', format('%I.%I', n.nspname, c.relname), jsonb_build_object('keep', k.keep)
        FROM sync.kept_table k JOIN pg_class c ON c.oid = k.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    ), gone AS (
        DELETE FROM sync.carried o WHERE o.home = sync.home() AND o.problem IS NULL
            AND NOT EXISTS (SELECT FROM declared d WHERE d.kind = o.kind AND d.name = o.name AND d.content = o.content)
    )
    INSERT INTO sync.carried (home, kind, name, content)
    SELECT sync.home(), d.kind, d.name, d.content FROM declared d
    WHERE NOT EXISTS (SELECT FROM sync.carried o
        WHERE o.home = sync.home() AND o.problem IS NULL AND o.kind = d.kind AND o.name = d.name AND o.content = d.content);
END
$$;
COMMENT ON FUNCTION sync.pack() IS 'Writes down by name what was declared; called after each change of the rules, and by maintain.';

-- Devices compare the number only for being another one, and it must be another one also where a restored server counts on from an
-- older state: so it follows the clock.
CREATE FUNCTION sync.raise_generation() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.generation SET n = greatest(n + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), xid = pg_current_xact_id();
    PERFORM sync.pack();
END
$$;
COMMENT ON FUNCTION sync.raise_generation() IS 'The schema that devices have, or what is declared about it, has changed.';

-- Coming to life ---------------------------------------------------------------------------------------------------------------

-- Whether anything here was made in another database: by a dump, pg_upgrade, or CREATE DATABASE ... TEMPLATE. Read by each push, and so not
-- in SQL, which would plan it each time.
CREATE FUNCTION sync.has_moved() RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here CONSTANT text := sync.home();
BEGIN
    RETURN EXISTS (SELECT FROM sync.captured c WHERE NOT starts_with(c.definition, '{"home":"' || here || '"'))
        OR EXISTS (SELECT FROM sync.carried o WHERE o.home <> here);
END
$$;
COMMENT ON FUNCTION sync.has_moved() IS 'Whether rules wait for being read again, in a restored, copied or upgraded database.';

-- Everything that was read under the ids of another database is read again. After pg_upgrade and in a copied database the tables are
-- there and only functions have other ids; after a dump there is nothing but what was carried.
-- No lock is waited for longer than a second: a push that does this may be kept open, and others must not hang behind it.
CREATE FUNCTION sync.move_in() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    here CONSTANT text := sync.home();
    rel regclass;
BEGIN
    IF sync.has_moved() THEN
        -- Their transactions were another server's: none of them is still under way, and all come before whatever is done here.
        UPDATE sync.batch SET xid = '3', snapshot = '3:3:';
        UPDATE sync.device SET told = NULL WHERE told IS NOT NULL;
    END IF;
    FOR rel IN
        SELECT t.relid FROM sync.synced_table t JOIN sync.captured c USING (relid) WHERE c.definition::jsonb ->> 'home' <> here
    LOOP
        UPDATE sync.entry e SET nodes = sync.expression_nodes(rel, array_to_string(e.key, ', '), e.filter)
        WHERE e.relid = rel;
        PERFORM sync.table_changed(rel, forced => true);
    END LOOP;
    PERFORM sync.unpack();
    UPDATE sync.policy SET handler = to_regprocedure(handler_name), home = here WHERE handler_name IS NOT NULL AND home <> here;
END
$$;
COMMENT ON FUNCTION sync.move_in() IS 'Makes rules and capture anew in a database that was restored, copied or upgraded; called by maintain.';

-- So that devices need nobody after a restore: called by push, which tells them to wait where this fails.
CREATE FUNCTION sync.try_move_in() RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM sync.move_in();
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION sync.try_move_in() IS 'The same, with an error''s message as the result.';

CREATE FUNCTION sync.unpack() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here CONSTANT text := sync.home();
    one record;
    words text;
BEGIN
    FOR one IN
        SELECT o.ctid AS place, o.* FROM sync.carried o WHERE o.home <> here OR o.problem IS NOT NULL ORDER BY o.kind = 'table', o.kind, o.name
    LOOP
        BEGIN
            IF one.kind = 'rule' THEN
                PERFORM sync.unpack_rule(one.name, one.content);
            ELSIF one.kind = 'table' THEN
                PERFORM sync.unpack_table(one.name, one.content);
            ELSIF to_regclass(one.name) IS NULL THEN
                RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table';
            ELSE
                PERFORM sync.put_history(to_regclass(one.name), (one.content ->> 'keep')::interval);
            END IF;
            DELETE FROM sync.carried o WHERE o.ctid = one.place;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS words = MESSAGE_TEXT;
            UPDATE sync.carried o SET home = here, problem = words WHERE o.ctid = one.place;
            RAISE WARNING '% % came with a dump and is not synced: %', one.kind, one.name, words
                USING HINT = 'Mend it and call sync.maintain(); see sync.carried.';
        END;
    END LOOP;
    PERFORM setval('sync.conflict_conflict_id_seq', greatest((SELECT max(conflict_id) FROM sync.conflict), nextval('sync.conflict_conflict_id_seq')));
    PERFORM sync.pack();
END
$$;
COMMENT ON FUNCTION sync.unpack() IS 'Declares again what a dump has carried; what cannot be is kept with the reason.';

CREATE FUNCTION sync.unpack_rule(rule_name text, content jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    types regtype[] := CASE WHEN content ->> 'key_types' IS NOT NULL THEN ARRAY(
        SELECT t.name::regtype FROM jsonb_array_elements_text(content -> 'key_types') WITH ORDINALITY t(name, n) ORDER BY t.n) END;
BEGIN
    IF EXISTS (SELECT FROM sync.rule r WHERE r.name = rule_name) THEN
        RETURN;
    END IF;
    PERFORM sync.put_rule(rule_name, content ->> 'members', (content ->> 'priority')::integer, (content ->> 'owner')::regrole);
    IF types IS NOT NULL THEN
        PERFORM sync.check_members(rule_name, content ->> 'members', types);
    END IF;
    UPDATE sync.rule SET key_types = types WHERE name = rule_name;
END
$$;
COMMENT ON FUNCTION sync.unpack_rule(text, jsonb) IS 'create_bucket, as a dump has carried it.';

CREATE FUNCTION sync.unpack_table(table_name text, content jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass := to_regclass(table_name);
    -- What was declared after the dump was made has ids too, which must not be given again.
    ahead CONSTANT integer := 1000000;
    added boolean := false;
    e record;
BEGIN
    IF rel IS NULL THEN
        RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table';
    END IF;
    PERFORM sync.check_kind(rel);
    IF NOT EXISTS (SELECT FROM sync.synced_table t WHERE t.relid = rel) THEN
        PERFORM sync.lock_against_writers(rel);
        INSERT INTO sync.synced_table (relid, tag, device_name, columns, mode, upload)
        VALUES (rel, (content ->> 'tag')::bigint, content ->> 'device_name',
            (SELECT array_agg(c.name::name ORDER BY c.n) FROM jsonb_array_elements_text(nullif(content -> 'columns', 'null')) WITH ORDINALITY c(name, n)),
            content ->> 'mode', (content ->> 'upload')::boolean);
        INSERT INTO sync.synced_column (relid, attnum, tag)
        SELECT rel, a.attnum, t.tag::bigint FROM jsonb_each_text(content -> 'tags') t(name, tag)
        JOIN pg_attribute a ON a.attrelid = rel AND a.attname = t.name AND a.attnum > 0 AND NOT a.attisdropped;
        PERFORM sync.register_columns(rel);
        PERFORM sync.unpack_settings(rel, content -> 'settings');
        PERFORM sync.raise_generation();
    END IF;
    FOR e IN
        SELECT (c ->> 'id')::integer AS id, c ->> 'rule' AS rule_name, c ->> 'filter' AS filter, c ->> 'rls' AS rls, r.rule_id,
            ARRAY(SELECT k.sql FROM jsonb_array_elements_text(c -> 'key') WITH ORDINALITY k(sql, n) ORDER BY k.n) AS key
        FROM jsonb_array_elements(nullif(content -> 'entries', 'null')) c LEFT JOIN sync.rule r ON r.name = c ->> 'rule'
    LOOP
        IF e.rule_id IS NULL THEN
            RAISE EXCEPTION 'there is no rule "%"', e.rule_name USING ERRCODE = 'undefined_object';
        END IF;
        CONTINUE WHEN EXISTS (SELECT FROM sync.entry o WHERE o.rule_id = e.rule_id AND o.relid = rel AND o.key = e.key);
        -- With its id, if that is free: devices then keep the rows that they have of it.
        PERFORM setval('sync.entry_entry_id_seq', greatest(nextval('sync.entry_entry_id_seq'), e.id / ahead * ahead + ahead));
        INSERT INTO sync.entry (entry_id, rule_id, relid, key, filter, nodes, rls) OVERRIDING SYSTEM VALUE
        SELECT CASE WHEN EXISTS (SELECT FROM sync.entry o WHERE o.entry_id = e.id) THEN nextval('sync.entry_entry_id_seq') ELSE e.id END,
            e.rule_id, rel, e.key, e.filter, sync.expression_nodes(rel, array_to_string(e.key, ', '), e.filter), e.rls;
        added := true;
    END LOOP;
    IF added THEN
        PERFORM sync.lock_against_writers(rel);
        PERFORM sync.install_capture(rel);
        PERFORM sync.raise_generation();
    END IF;
END
$$;
COMMENT ON FUNCTION sync.unpack_table(text, jsonb) IS 'add_table, as a dump has carried it, with the tags and ids that devices know.';

CREATE FUNCTION sync.unpack_settings(rel regclass, content jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO sync.policy SELECT (jsonb_populate_record(NULL::sync.policy,
        r || jsonb_strip_nulls(jsonb_build_object('relid', rel::oid, 'attnum', a.attnum, 'link', l.attnum)))).*
    FROM jsonb_array_elements(coalesce(content -> 'sync.policy', '[]')) r
    LEFT JOIN pg_attribute a ON a.attrelid = rel AND a.attname = r ->> 'attnum' AND jsonb_typeof(r -> 'attnum') = 'string'
    LEFT JOIN pg_attribute l ON l.attrelid = rel AND l.attname = r ->> 'link' AND jsonb_typeof(r -> 'link') = 'string';
END
$$;
COMMENT ON FUNCTION sync.unpack_settings(regclass, jsonb) IS 'What was declared about one synced table, as a dump has carried it.';
